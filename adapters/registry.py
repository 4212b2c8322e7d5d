"""Which adapter speaks to which engine.

Decides nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from adapters.base import Adapter, EngineError, Failure
from adapters.http import EngineHttp
from adapters.llamacpp import LlamaCppAdapter
from contracts.config import Engine
from contracts.pools import Endpoint

ADAPTERS: MappingProxyType[Engine, Callable[[Endpoint, EngineHttp], Adapter]] = MappingProxyType(
    {
        Engine.LLAMACPP: LlamaCppAdapter,
    }
)
"""One line for each engine that this version speaks to."""


def adapter_for(engine: Engine, endpoint: Endpoint, http: EngineHttp) -> Adapter:
    """The adapter of a running engine.

    Raises EngineError (invalid) for an engine that this version cannot speak to.
    """
    adapter = ADAPTERS.get(engine)
    if adapter is None:
        raise EngineError(Failure.INVALID, f"this version cannot speak to {engine}, only to: {', '.join(ADAPTERS)}")
    return adapter(endpoint, http)

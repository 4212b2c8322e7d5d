"""Which adapter speaks to which engine.

Decides nothing else.
"""

from __future__ import annotations

from adapters.base import Adapter, EngineError, Failure
from adapters.http import EngineHttp
from adapters.llamacpp import LlamaCppAdapter
from contracts.config import Engine
from contracts.pools import Endpoint


def adapter_for(engine: Engine, endpoint: Endpoint, http: EngineHttp) -> Adapter:
    """The adapter of a running engine.

    Raises EngineError for an engine that this version cannot speak to.
    """
    if engine is Engine.LLAMACPP:
        return LlamaCppAdapter(endpoint, http)
    raise EngineError(Failure.INVALID, f"this version speaks to llamacpp, not yet to {engine}")

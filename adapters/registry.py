"""Which adapter speaks to which engine.

Decides nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from adapters.base import Adapter, EngineError, Failure
from adapters.http import EngineHttp
from adapters.llamacpp import LlamaCppAdapter
from adapters.openai import OpenAiAdapter
from adapters.tgi import TgiAdapter
from adapters.triton import TritonAdapter
from adapters.vllm import VllmAdapter
from contracts.config import Engine
from contracts.pools import Endpoint

ADAPTERS: MappingProxyType[Engine, Callable[[Endpoint, EngineHttp, str | None], Adapter]] = MappingProxyType(
    {
        Engine.LLAMACPP: lambda endpoint, http, _model: LlamaCppAdapter(endpoint, http),
        Engine.VLLM: VllmAdapter,
        Engine.TGI: lambda endpoint, http, _model: TgiAdapter(endpoint, http),
        Engine.TRITON: TritonAdapter,
        Engine.OPENAI: OpenAiAdapter,
    }
)
"""One line for each engine that this version speaks to."""


def adapter_for(engine: Engine, endpoint: Endpoint, http: EngineHttp, model: str | None = None) -> Adapter:
    """The adapter of a running engine. ``model`` is the name to ask for where the engine has several.

    Raises EngineError (invalid) for an engine that this version cannot speak to.
    """
    adapter = ADAPTERS.get(engine)
    if adapter is None:
        raise EngineError(Failure.INVALID, f"this version cannot speak to {engine}, only to: {', '.join(ADAPTERS)}")
    return adapter(endpoint, http, model)

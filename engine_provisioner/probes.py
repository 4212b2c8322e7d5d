"""How each engine is asked whether it lives and whether it works.

Decides the requests. Never sends one.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from contracts.config import Engine
from contracts.engines import HttpProbe

_encode = msgspec.json.encode


def health_of(engine: Engine) -> HttpProbe:
    """Answers 200 when the engine takes requests."""
    match engine:
        case Engine.LLAMACPP | Engine.VLLM | Engine.TGI:
            return HttpProbe(path="/health")
        case Engine.TRITON:
            return HttpProbe(path="/v2/health/ready")
        case Engine.OPENAI:
            return HttpProbe(path="/v1/models")
        case _:
            assert_never(engine)


def generation_of(engine: Engine, model: str) -> HttpProbe | None:
    """One token, as the cheapest proof that a model computes.

    None where that cannot be asked for without knowing the deployment, or would be charged to somebody.
    """
    match engine:
        case Engine.LLAMACPP:
            # Not streamed, so that one body says it all. An engine notices a caller that leaves only when the token is
            # there, which for one token does not matter.
            return _post("/completion", {"prompt": "a", "n_predict": 1, "stream": False, "cache_prompt": False})
        case Engine.VLLM:
            return _post("/v1/completions", {"model": model, "prompt": "a", "max_tokens": 1})
        case Engine.TGI:
            return _post("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 1}})
        case Engine.TRITON | Engine.OPENAI:
            return None
        case _:
            assert_never(engine)


def _post(path: str, body: dict[str, object]) -> HttpProbe:
    return HttpProbe(path=path, body=_encode(body).decode())

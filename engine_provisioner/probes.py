"""How each engine is asked whether it lives and whether it works.

Decides the requests. Never sends one. An engine may have been started to embed or to score rather than to generate, and
the configuration alone does not tell: what such a one is asked instead stands behind the generation.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from contracts.config import Engine
from contracts.engines import HttpProbe

_encode = msgspec.json.encode


def health_of(engine: Engine, *, loaded: str | None = None) -> HttpProbe:
    """Answers 200 when the engine takes requests.

    ``loaded`` is the model's name inside the engine, where we gave it one (Triton).
    """
    match engine:
        case Engine.LLAMACPP | Engine.VLLM | Engine.TGI:
            return HttpProbe(path="/health")
        case Engine.TRITON:
            # Of the model rather than of the server: a model whose engine died leaves the server ready.
            return HttpProbe(path=f"/v2/models/{loaded}/ready" if loaded else "/v2/health/ready")
        case Engine.OPENAI:
            return HttpProbe(path="/v1/models")
        case _:
            assert_never(engine)


def generation_of(engine: Engine, model: str, *, loaded: str | None = None) -> HttpProbe | None:
    """One token, as the cheapest proof that a model computes. ``loaded`` as in ``health_of``.

    None where that cannot be asked for without knowing the deployment, or would be charged to somebody.
    """
    match engine:
        case Engine.LLAMACPP:
            # Not streamed, so that one body says it all. An engine notices a caller that leaves only when the token is
            # there, which for one token does not matter.
            completion = {"prompt": "a", "n_predict": 1, "stream": False, "cache_prompt": False}
            return _post("/completion", completion, _results({}))
        case Engine.VLLM:
            completion = {"model": model, "prompt": "a", "max_tokens": 1}
            return _post("/v1/completions", completion, _results({"model": model}))
        case Engine.TGI:
            return _post("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 1}})
        case Engine.TRITON:
            body: dict[str, object] = {"text_input": "a", "parameters": {"max_tokens": 1, "temperature": 0}}
            return _post(f"/v2/models/{loaded}/generate", body) if loaded else None
        case Engine.OPENAI:
            return None
        case _:
            assert_never(engine)


def _results(named: dict[str, object]) -> HttpProbe:
    """One embedding, or one score of an engine that gives no embeddings."""
    score = _post("/v1/rerank", {**named, "query": "a", "documents": ["a"]})
    return _post("/v1/embeddings", {**named, "input": ["a"]}, score)


def _post(path: str, body: dict[str, object], instead: HttpProbe | None = None) -> HttpProbe:
    return HttpProbe(path=path, body=_encode(body).decode(), instead=instead)

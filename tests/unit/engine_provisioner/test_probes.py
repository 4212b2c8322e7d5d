"""How an engine is asked for one token, and what one that makes no tokens is asked instead."""

import json

import pytest

from contracts.config import Engine
from contracts.engines import HttpProbe
from engine_provisioner.probes import generation_of


def chain(probe: HttpProbe | None) -> list[tuple[str, object]]:
    found = []
    while probe is not None:
        found.append((probe.path, json.loads(probe.body or "null")))
        probe = probe.instead
    return found


def test_llama_server_generates_embeds_or_scores() -> None:
    assert chain(generation_of(Engine.LLAMACPP, "m")) == [
        ("/completion", {"prompt": "a", "n_predict": 1, "stream": False, "cache_prompt": False}),
        ("/v1/embeddings", {"input": ["a"]}),
        ("/v1/rerank", {"query": "a", "documents": ["a"]}),
    ]


def test_vllm_is_asked_by_the_name_of_its_model() -> None:
    assert chain(generation_of(Engine.VLLM, "m")) == [
        ("/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 1}),
        ("/v1/embeddings", {"model": "m", "input": ["a"]}),
        ("/v1/rerank", {"model": "m", "query": "a", "documents": ["a"]}),
    ]


@pytest.mark.parametrize("engine", [Engine.TGI, Engine.TRITON])
def test_what_only_generates_has_no_other_proof(engine: Engine) -> None:
    probe = generation_of(engine, "m", loaded="gpu0")
    assert probe is not None
    assert probe.instead is None


def test_what_somebody_else_pays_for_is_not_asked() -> None:
    assert generation_of(Engine.OPENAI, "m") is None

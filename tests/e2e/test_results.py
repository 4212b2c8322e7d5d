"""Embeddings and scores from a real engine, through both daemons and the public API."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.installation import Installation, text_of
from tests.support.tiny_gguf import write_tiny_gguf

INPUTS = ["once", "upon a time", "once"]
EMBEDDING = {"workload": "embedding", "inputs": INPUTS}
RERANK = {"workload": "rerank", "prompt": "wolves", "inputs": INPUTS}


def results(events: list[tuple[str, dict[str, object]]]) -> list[dict[str, object]]:
    return [json.loads(str(data["t"])) for name, data in events if name == "token"]


@pytest.mark.req("AD-05")
async def test_embeddings(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf")
    async with Installation(tmp_path / "home", model, flags=["--embeddings", "--pooling", "mean"]) as installation:
        await installation.up()
        events = await installation.run(EMBEDDING)
        assert [name for name, _ in events] == ["started", "token", "token", "token", "end"]
        found = results(events)
        assert [each["index"] for each in found] == [0, 1, 2]
        assert found[0]["embedding"] == found[2]["embedding"] != found[1]["embedding"]
        assert events[-1][1]["tokens_out"] == 0
        assert events[-1][1]["tokens_in"] > 0
        (pool,) = (await installation.get("/v1/capabilities"))["pools"]
        assert pool["workloads"] == ["completion", "chat", "embedding"]


@pytest.mark.req("AD-04", "AD-05")
async def test_scores_and_what_such_an_engine_does_not_serve(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf")
    async with Installation(tmp_path / "home", model, flags=["--reranking"]) as installation:
        await installation.up()
        found = results(await installation.run(RERANK))
        assert [each["index"] for each in found] == [0, 1, 2]
        assert found[0]["score"] == found[2]["score"] != found[1]["score"]
        body = {"model_ref": await installation.model_id(), **EMBEDDING}
        async with installation.http.post("/v1/tasks", json=body) as answer:
            refused = await answer.json()
        assert (answer.status, refused["code"], refused["field"]) == (400, "INVALID_PARAMS", "workload")
        assert refused["hint"] == "it serves: completion, chat, rerank"
        assert text_of(await installation.run({"prompt": "once", "max_tokens": 2, "seed": 1}))

"""A conversation through both daemons and a real engine: warm by the engine's count, and cold once it was erased."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, text_of
from tests.support.tiny_gguf import write_tiny_gguf

LONG = "once upon a time there was a small house at the edge of a wide wood, and nobody lived in it"
OTHERS = ("zebra quartz whales mumble nightly beneath purple curtains", "nine iron kettles sing of rust and rain")


def chat(*said: str) -> dict[str, Any]:
    """A turn of a conversation in which user and model took turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(said)]
    return {"workload": "chat", "messages": messages, "max_tokens": 6, "seed": 3, "session_id": "moon"}


def data(events: list[tuple[str, dict[str, Any]]], event: str) -> list[dict[str, Any]]:
    return [each for name, each in events if name == event]


@pytest.mark.req("HP-07", "HP-14", "HP-15")
async def test_a_conversation_keeps_its_slot_until_it_is_deleted(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf")
    flags = ["--cache-ram", "0"]  # what the engine keeps in host memory would hide what a slot has lost
    async with Installation(tmp_path / "home", model, slots=2, flags=flags) as here:
        await here.up()
        assert b"--slot-save-path" in Path(f"/proc/{here.engine_pid()}/cmdline").read_bytes().split(b"\0")
        first = await here.run(chat(LONG))
        for other in OTHERS:
            await here.run({"prompt": other, "max_tokens": 4})
        second = await here.run(chat(LONG, text_of(first), "and then?"))
        assert [data(each, "started")[0]["kv_warmth"] for each in (first, second)] == [False, True]
        assert data(second, "metrics") == []  # the engine counted what was expected of it
        seen = await here.get("/v1/sessions/moon")
        assert (seen["turns"], seen["kv_warmth"], seen["replica_id"]) == (2, True, "trial-0")
        end = data(second, "end")[0]
        assert seen["kv_tokens"] == end["tokens_in"] + end["tokens_out"] - 1
        assert seen["kv_bytes"] > seen["kv_tokens"]

        async with here.http.delete("/v1/sessions/moon") as answer:
            assert answer.status == 204
        async with here.http.get("/v1/sessions/moon") as answer:
            assert answer.status == 404

        third = await here.run(chat(LONG, text_of(first), "and then?"))
        assert data(third, "started")[0]["kv_warmth"] is False
        fourth = await here.run(chat(LONG, text_of(first), "and then?", text_of(third), "go on"))
        assert data(fourth, "started")[0]["kv_warmth"] is True
        assert data(fourth, "metrics") == []

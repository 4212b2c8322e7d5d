"""Slots and their caches on the real llama.cpp: chosen by us, reused, erased, all by the engine's own count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from adapters.base import Adapter, Finished, Generation
from adapters.http import EngineHttp
from adapters.llamacpp import LlamaCppAdapter
from contracts.pools import Endpoint
from contracts.tasks import ChatMessage, Role
from tests.support.raw_http import raw
from tests.support.real_llamacpp import real_llamacpp
from tests.support.tiny_gguf import write_tiny_gguf

ALICE = "once upon a time there was a small house at the edge of a wide wood, and nobody lived in it "
BOB = "zebra quartz whales mumble nightly beneath purple curtains made of glass and iron and wool "


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(params=["erases", "does not erase"])
async def engine(tiny: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Adapter, str]]:
    """Two slots, and no second cache in host memory that would hide what a slot has lost."""
    erasing = ("--slot-save-path", "/") if request.param == "erases" else ()
    async with real_llamacpp(tiny, "--cache-ram", "0", *erasing, slots=2, ctx=1024) as url, EngineHttp() as http:
        yield LlamaCppAdapter(Endpoint(url=url), http), url


async def run(adapter: Adapter, prompt: str, slot: int | None, *, cache: bool = True) -> Finished:
    return await finished(adapter, Generation(prompt=prompt, max_tokens=4, seed=5, slot=slot, cache_prompt=cache))


async def finished(adapter: Adapter, generation: Generation) -> Finished:
    async with adapter.submit(generation) as batches:
        async for batch in batches:
            if batch.finished is not None:
                return batch.finished
    raise AssertionError("no end came")


def reused(account: Finished) -> int:
    assert account.cached_tokens is not None
    return account.cached_tokens


@pytest.mark.req("HP-07")
async def test_a_slot_keeps_what_it_was_asked_and_the_other_does_not_have_it(engine: tuple[Adapter, str]) -> None:
    adapter, _ = engine
    first = await run(adapter, ALICE, 1)
    assert (reused(first), first.tokens_in) == (0, len(ALICE) + 1)
    assert reused(await run(adapter, BOB, 0)) == 0
    again = await run(adapter, ALICE + "and then", 1)
    assert again.tokens_in is not None
    assert reused(again) >= len(ALICE) - 1
    assert reused(await run(adapter, ALICE + "and then", 0)) <= 1


@pytest.mark.req("HP-07")
async def test_a_chat_goes_on_where_it_was(engine: tuple[Adapter, str]) -> None:
    adapter, _ = engine
    asked = ChatMessage(role=Role.USER, content=ALICE)
    said = ChatMessage(role=Role.ASSISTANT, content="well")
    more = ChatMessage(role=Role.USER, content="go on")
    first = await finished(adapter, Generation(messages=(asked,), max_tokens=4, seed=5, slot=1))
    await run(adapter, BOB, 0)
    second = await finished(adapter, Generation(messages=(asked, said, more), max_tokens=4, seed=5, slot=1))
    assert first.tokens_in is not None
    assert reused(first) == 0
    assert reused(second) >= first.tokens_in - 1


@pytest.mark.req("HP-07")
async def test_a_stranger_in_the_slot_makes_it_cold(engine: tuple[Adapter, str]) -> None:
    adapter, _ = engine
    await run(adapter, ALICE, 0)
    await run(adapter, BOB, 0)
    assert reused(await run(adapter, ALICE + "and then", 0)) <= 1  # the first token is the same in every prompt


@pytest.mark.req("HP-12")
async def test_a_turn_that_may_not_use_the_cache_leaves_one(engine: tuple[Adapter, str]) -> None:
    adapter, _ = engine
    await run(adapter, ALICE, 0)
    assert reused(await run(adapter, ALICE, 0, cache=False)) == 0
    assert reused(await run(adapter, ALICE + "and then", 0)) >= len(ALICE) - 1


@pytest.mark.req("HP-15")
async def test_an_erased_slot_has_nothing_left(engine: tuple[Adapter, str]) -> None:
    adapter, url = engine
    await run(adapter, ALICE, 0)
    await run(adapter, BOB, 1)
    await adapter.erase(0)
    slots = msgspec.json.decode((await raw(url, "/slots")).body)
    assert slots[0]["n_prompt_tokens"] <= 3
    assert slots[1]["n_prompt_tokens"] >= len(BOB)
    assert reused(await run(adapter, ALICE + "and then", 0)) <= 1
    assert reused(await run(adapter, BOB + "and then", 1)) >= len(BOB) - 1

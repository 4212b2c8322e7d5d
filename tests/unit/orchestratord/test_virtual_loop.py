"""The loop that the tests of this folder run on."""

import asyncio
import selectors

import pytest

from tests.support.virtual_loop import START_S, NothingToWaitForError, VirtualTimeLoop, pass_time

Events = list[tuple[selectors.SelectorKey, int]]


async def test_an_hour_passes_at_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, waits = asyncio.get_running_loop(), set[float | None]()
    select = selectors.DefaultSelector.select

    def watched(selector: selectors.DefaultSelector, timeout: float | None = None) -> Events:
        waits.add(timeout)
        return select(selector, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", watched)
    seen: list[str] = []
    loop.call_later(3600, seen.append, "hour")
    loop.call_later(60, seen.append, "minute")
    await pass_time(3600)
    await pass_time(0)
    assert seen == ["minute", "hour"]
    assert loop.time() >= START_S + 3600
    assert waits == {0}, "the kernel is asked what is ready, and never waited for"


async def test_timeouts_fire_on_the_loops_own_clock() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await asyncio.Event().wait()
    assert loop.time() == pytest.approx(before + 1.5)


def test_a_wait_for_nothing_is_an_error_and_no_hang() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner, pytest.raises(NothingToWaitForError):
        runner.run(hang())

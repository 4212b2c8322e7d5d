"""The watch on the GPUs, with threads that block as the driver does, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Iterator

import pytest

from contracts.pools import Cause
from pool_managerd.devices import EventKind, GpuEvent, Inventory
from pool_managerd.gpu_watch import GpuWatch
from tests.support.loops import every_loop

TICKS = 12
"""More than a look takes, where nothing holds it up."""
EVERYTHING = frozenset({"GPU-1"})
GUARD_S = 30
"""Who waits for so long waits in vain."""


class BlockingGpus:
    """What happened is taken, and told to nobody before ``go``: as from the thread that asks the driver."""

    def __init__(self) -> None:
        self.happened: deque[GpuEvent] = deque()
        self.taken = threading.Event()
        self.go = threading.Event()
        self.asked = 0

    def inventory(self) -> Inventory:
        return Inventory(problem="made up", cause=Cause.DRIVER)

    def processes(self) -> tuple[()]:
        return ()

    def events(self) -> tuple[GpuEvent, ...]:
        self.asked += 1
        taken: list[GpuEvent] = []
        while self.happened:  # one by one: more may happen meanwhile
            taken.append(self.happened.popleft())
        self.taken.set()
        assert self.go.wait(GUARD_S)
        return tuple(taken)


def xid(number: int) -> GpuEvent:
    return GpuEvent(uuid="GPU-1", kind=EventKind.XID, number=number, fatal=True, message=f"Xid {number}", hint="reset")


@pytest.fixture(params=every_loop())
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=every_loop()[request.param]) as runner:
        yield runner


async def give_up(look: asyncio.Task[Inventory]) -> None:
    look.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await look


@pytest.mark.req("PM-06", "PM-03")
@pytest.mark.parametrize("moment", ["before the driver answers", "when the driver has answered"])
@pytest.mark.parametrize("tick", range(TICKS))
def test_a_look_that_is_given_up_loses_no_event_and_tells_none_twice(
    tick: int, moment: str, runner: asyncio.Runner
) -> None:
    async def scene() -> None:
        gpus = BlockingGpus()
        watch = GpuWatch(gpus, asyncio.get_running_loop())
        heard: list[int] = []
        watch.subscribe(lambda event: heard.append(event.number))
        gpus.happened.extend([xid(79), xid(48)])
        look = asyncio.get_running_loop().create_task(watch.look())
        if moment == "when the driver has answered":
            assert await asyncio.to_thread(gpus.taken.wait, GUARD_S)
            gpus.go.set()
        for _ in range(tick):
            await asyncio.sleep(0)
        await give_up(look)
        gpus.go.set()
        gpus.happened.append(xid(31))
        await watch.look()
        await watch.look()
        assert heard == [79, 48, 31]
        assert [event.number for event in watch.since(0, EVERYTHING)] == [79, 48, 31]

    runner.run(scene())


@pytest.mark.req("PM-06", "PM-03")
def test_what_a_look_found_is_told_though_nobody_ever_looks_again(runner: asyncio.Runner) -> None:
    async def scene() -> None:
        gpus = BlockingGpus()
        watch = GpuWatch(gpus, asyncio.get_running_loop())
        told = asyncio.Event()
        watch.subscribe(lambda _event: told.set())
        gpus.happened.append(xid(79))
        look = asyncio.get_running_loop().create_task(watch.look())
        assert await asyncio.to_thread(gpus.taken.wait, GUARD_S)
        await give_up(look)
        gpus.go.set()
        async with asyncio.timeout(GUARD_S):
            await told.wait()

    runner.run(scene())


def test_who_asks_during_a_look_is_answered_by_the_next_and_all_of_them_by_one(runner: asyncio.Runner) -> None:
    async def scene() -> None:
        gpus = BlockingGpus()
        watch = GpuWatch(gpus, asyncio.get_running_loop())
        loop = asyncio.get_running_loop()
        first = loop.create_task(watch.look())
        assert await asyncio.to_thread(gpus.taken.wait, GUARD_S)
        gpus.happened.append(xid(79))  # too late for the first
        others = [loop.create_task(watch.look()) for _ in range(20)]
        await asyncio.sleep(0)
        await give_up(others.pop())
        gpus.go.set()
        await asyncio.gather(first, *others)
        assert gpus.asked == 2
        assert [event.number for event in watch.since(0, EVERYTHING)] == [79]

    runner.run(scene())


def test_a_listener_that_fails_keeps_nothing_from_the_others(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        gpus = BlockingGpus()
        gpus.go.set()
        watch = GpuWatch(gpus, asyncio.get_running_loop())
        heard: list[int] = []
        watch.subscribe(lambda event: [][event.number])
        watch.subscribe(lambda event: heard.append(event.number))
        gpus.happened.extend([xid(79), xid(48)])
        await watch.look()
        assert heard == [79, 48]

    runner.run(scene())
    assert [record.exc_info is not None for record in caplog.records] == [True, True]

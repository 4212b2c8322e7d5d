"""A stop lets what runs end, for a while, and lets nothing more begin."""

import asyncio
from pathlib import Path

import pytest

from adapters.base import EngineError, Failure
from contracts.errors import ErrorCode
from contracts.tasks import TaskState
from daemon_core.heartbeat import Heartbeats
from orchestratord.errors import ApiError
from tests.support.virtual_loop import pass_time
from tests.unit.orchestratord.test_orchestrator import end_of
from tests.unit.orchestratord.test_restart import SPEAKING, codes
from tests.unit.orchestratord.world import (
    HANG,
    STOPPED_WELL,
    Pause,
    Script,
    World,
    config,
    ended,
    world,
)

pytestmark = pytest.mark.req("OP-01")

DRAIN_MS = 20_000
SETTINGS = config(drain_ms=DRAIN_MS)
EIGHT_SECONDS = Script(["a", Pause(4), "b", Pause(4), STOPPED_WELL])


async def test_what_runs_ends_by_itself_and_what_waits_is_kept(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with world(EIGHT_SECONDS, settings=SETTINGS, tasks=tmp_path / "tasks.sqlite3") as here:
        running, waiting = await here.submit(), await here.submit()
        await pass_time(1)
        here.stopping.set()
        stopped = loop.time()
        await pass_time(1)
        assert here.orchestrator.draining
        assert (waiting.state, waiting.log.parted) == (TaskState.QUEUED, False)
        assert end_of(await ended(running))["finish_reason"] == "stop"
        await pass_time(0.1)
        assert waiting.log.parted  # who reads it comes back to the next run
        assert len(here.engines["p"].asked) == 1
    assert loop.time() - stopped < 10


async def test_nobody_comes_in_meanwhile_and_is_told_when_to_come_again() -> None:
    async with world(EIGHT_SECONDS, settings=SETTINGS) as here:
        running = await here.submit()
        await pass_time(1)
        here.stopping.set()
        await pass_time(2)
        with pytest.raises(ApiError) as raised:
            await here.submit()
        assert raised.value.refusal.code is ErrorCode.POOL_UNAVAILABLE
        assert raised.value.refusal.retry_after_ms == DRAIN_MS - 2_000
        await ended(running)


@pytest.mark.parametrize("hurried", [False, True])
async def test_what_is_left_at_the_deadline_or_when_somebody_hurries_gets_its_terminal_event(
    tmp_path: Path, *, hurried: bool
) -> None:
    loop = asyncio.get_running_loop()
    async with world(Script(["a", HANG]), settings=config(drain_ms=2_000), tasks=tmp_path / "tasks.sqlite3") as here:
        task = await here.submit()
        await pass_time(1)
        here.stopping.set()
        stopped = loop.time()
        await pass_time(0.5)
        assert not task.finished
        if hurried:
            here.hurry.set()
        await ended(task)
        assert codes(task) == [ErrorCode.POOL_UNAVAILABLE]
        assert loop.time() - stopped == pytest.approx(0.5 if hurried else 2, abs=0.1)


async def test_without_a_store_what_waits_ends_at_once() -> None:
    async with world(EIGHT_SECONDS, settings=SETTINGS) as here:
        running, waiting = await here.submit(), await here.submit()
        await pass_time(1)
        here.stopping.set()
        await pass_time(0.1)
        assert codes(waiting) == [ErrorCode.POOL_UNAVAILABLE]
        assert not running.finished
        assert end_of(await ended(running))["finish_reason"] == "stop"


async def test_a_task_that_its_replica_gives_back_meanwhile_is_kept_too(tmp_path: Path) -> None:
    script = Script([Pause(2), EngineError(Failure.BROKEN, "gone")])
    async with world(script, settings=SETTINGS, tasks=tmp_path / "tasks.sqlite3") as here:
        task = await here.submit()
        await pass_time(1)
        here.stopping.set()
        await pass_time(2)
        assert (task.state, task.log.parted) == (TaskState.QUEUED, True)


async def test_a_changed_drain_counts_at_the_next_stop() -> None:
    async with world(SPEAKING, settings=SETTINGS) as here:
        task = await here.submit()
        await pass_time(0.1)
        here.orchestrator.reconfigure(config(drain_ms=0))
        here.stopping.set()
        await pass_time(0.1)
        assert task.finished


@pytest.mark.req("OP-01")
async def test_what_ends_because_of_an_error_beside_it_is_not_named_for_it() -> None:
    beats = Heartbeats()
    async with world(settings=SETTINGS) as here:
        orchestrator = World(SETTINGS, here.engines).orchestrator
        async with asyncio.TaskGroup() as group:
            running = group.create_task(orchestrator.run(asyncio.Event(), None, beats))
            await pass_time(1)
            assert not beats.failing
            running.cancel()
        assert beats.failing

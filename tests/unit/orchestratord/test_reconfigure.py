"""What a reload changes in a daemon that serves; nobody who waits or runs notices."""

import asyncio

import pytest
from msgspec.structs import replace

from contracts.config import FullPolicy, Limits, Queue, Sessions, Timeouts
from contracts.errors import ErrorCode
from contracts.tasks import TaskState
from orchestratord.errors import ApiError
from tests.support.virtual_loop import pass_time
from tests.unit.orchestratord.test_restart import codes
from tests.unit.orchestratord.world import HANG, Script, World, config, ended, pool, world

pytestmark = pytest.mark.req("HP-26")

RUNNING = config(pool(queue=Queue(capacity=3)))


async def refused(here: World, **changes: object) -> ErrorCode:
    with pytest.raises(ApiError) as raised:
        await here.submit(**changes)
    return raised.value.refusal.code


async def test_a_lower_bound_of_a_queue_keeps_who_waits_and_lets_nobody_else_in() -> None:
    async with world(Script(["a", HANG]), settings=RUNNING) as here:
        tasks = [await here.submit() for _ in range(3)]
        await pass_time(0.1)
        narrow = replace(RUNNING, pools=(pool(queue=Queue(capacity=1)),))
        here.orchestrator.reconfigure(narrow)
        assert [task.state for task in tasks] == [TaskState.RUNNING, TaskState.QUEUED, TaskState.QUEUED]
        assert await refused(here) is ErrorCode.ADMISSION_REJECT
        here.orchestrator.reconfigure(RUNNING)
        await here.submit()
        dropping = replace(RUNNING, pools=(pool(queue=Queue(capacity=1, full_policy=FullPolicy.DROP_LRU)),))
        here.orchestrator.reconfigure(dropping)
        await here.submit()
        assert codes(tasks[1]) == [ErrorCode.QUEUE_FULL_DROP_LRU]


async def test_limits_and_sessions_count_from_then_on() -> None:
    async with world(settings=RUNNING) as here:
        await ended(await here.submit(session_id="s"))
        here.orchestrator.reconfigure(replace(RUNNING, sessions=Sessions(max_turns=1)))
        assert await refused(here, session_id="s") is ErrorCode.BUDGET_EXHAUSTED
        here.orchestrator.reconfigure(replace(RUNNING, limits=Limits(requests_per_minute=1)))
        await here.submit()
        assert await refused(here) is ErrorCode.ADMISSION_REJECT


async def test_timeouts_count_for_what_starts_then() -> None:
    loop = asyncio.get_running_loop()
    async with world(Script(["a", HANG]), settings=RUNNING) as here:
        here.orchestrator.reconfigure(replace(RUNNING, pools=(pool(timeouts=Timeouts(idle_ms=1_000)),)))
        began = loop.time()
        task = await here.submit()
        await ended(task)
        assert codes(task) == [ErrorCode.DECODE_TIMEOUT]
        assert loop.time() - began == pytest.approx(1, abs=0.1)

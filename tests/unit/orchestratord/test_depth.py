"""What a task costs the whole orchestrator, by how many others wait: lines are counted, so no clock decides."""

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from contracts.config import Queue
from contracts.tasks import Priority, TaskState
from orchestratord.demand import Demand
from orchestratord.task import Task
from tests.support.virtual_loop import pass_time, settle
from tests.unit.orchestratord.test_arrivals import nobody_collects
from tests.unit.orchestratord.world import (
    HANG,
    STOPPED_WELL,
    Pause,
    Script,
    ScriptedAdapter,
    World,
    config,
    pool,
    request,
    world,
)

SHORT, DEEP = 150, 4_000


async def lines_of(operation: Callable[[], Awaitable[object]]) -> int:
    """How many lines of Python it runs, its own and others' that run meanwhile."""
    lines = 0

    def step(_: FrameType, event: str, __: object) -> Any:  # noqa: ANN401 - a trace function answers with itself
        nonlocal lines
        lines += event == "line"
        return step

    former = sys.gettrace()
    with nobody_collects():
        sys.settrace(step)
        try:
            await operation()
        finally:
            sys.settrace(former)
    return lines


async def submitted(here: World, number: int) -> Task:
    return await here.submit(priority=Priority.BATCH if number % 3 else Priority.INTERACTIVE)


async def found(here: World, task: Task) -> None:
    assert here.orchestrator.get(task.id).status.queue_position is not None


async def canceled(here: World, task: Task) -> None:
    assert task.state is TaskState.QUEUED
    here.orchestrator.cancel(task, "client")


async def next_started(here: World, running: Task, started: int) -> None:
    here.orchestrator.cancel(running, "client")
    await settle()
    assert sum(len(engine.asked) for engine in here.engines.values()) == started + 1


async def most_lines(depth: int) -> Counter[str]:
    """The most that each of the things that happen to a task takes, with so many waiting on two pools."""
    ids = ("p", "q")
    settings = config(*(pool(each, queue=Queue(capacity=100_000)) for each in ids), keep_finished=100_000)
    engines = {each: ScriptedAdapter(otherwise=Script([HANG])) for each in ids}
    most = Counter[str]()
    async with world(settings=settings, engines=engines) as here:
        tasks = [await submitted(here, number) for number in range(depth)]
        batch = [task for task in tasks if task.request.priority is Priority.BATCH]
        await settle()
        for number in range(30):
            running = next(task for task in tasks if task.state is TaskState.RUNNING)
            started = sum(len(engine.asked) for engine in engines.values())
            happenings: dict[str, Callable[[], Awaitable[object]]] = {
                "submit": partial(submitted, here, number),
                "find": partial(found, here, tasks[-number - 1]),
                "cancel": partial(canceled, here, batch[depth // 3 + number]),
                "start": partial(next_started, here, running, started),
            }
            for name, happens in happenings.items():
                most[name] = max(most[name], await lines_of(happens))
    return most


@pytest.mark.req("HP-09")
async def test_a_task_takes_as_many_lines_behind_thousands_as_behind_a_hundred() -> None:
    short, deep = await most_lines(SHORT), await most_lines(DEEP)
    for name, lines in deep.items():
        assert lines <= 1.2 * short[name] + 20, (name, short[name], lines)


MOST_LINES = 5_000


@pytest.mark.req("HP-03", "HP-09")
async def test_the_first_forecast_after_a_change_looks_at_little_though_many_slots_are_busy() -> None:
    settings = config(*(pool(each, queue=Queue(capacity=1_000)) for each in ("p", "q")))
    script = Script([Pause(0.5), "a", Pause(0.5), "b", STOPPED_WELL])
    engines = {each.id: ScriptedAdapter(otherwise=script) for each in settings.pools}
    async with world(settings=settings, engines=engines, slots=4) as here:
        for number in range(400):
            await submitted(here, number)
            if number < 200:
                await pass_time(0.2)
        for number in range(5):
            await pass_time(0.5)
            pools = frozenset(engines)
            demand = here.orchestrator.outlook.demand(request(priority=list(Priority)[number % 2]), pools, None)
            lines = await lines_of(partial(foretold, here, demand, pools))
            assert lines <= MOST_LINES, (number, lines)


async def foretold(here: World, demand: Demand, pools: frozenset[str]) -> None:
    assert here.orchestrator.outlook.of_new(demand, pools).start_ms > 0

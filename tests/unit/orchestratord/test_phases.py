"""Every phase of a task, and what may happen to it there: one table of what becomes of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from adapters.base import EngineError, Failure
from contracts.pools import Endpoint, PoolState
from contracts.tasks import TaskState
from orchestratord.task import Task
from tests.support.virtual_loop import pass_time, settle
from tests.unit.orchestratord.frames import events_of, frames_of
from tests.unit.orchestratord.world import (
    HANG,
    STOPPED_WELL,
    Hold,
    Script,
    ScriptedAdapter,
    World,
    config,
    ended,
    pool,
    snapshot,
    world,
)

DIES = EngineError(Failure.BROKEN, "the engine's connection broke")
DEADLINE_MS = 3_000


@dataclass
class Scene:
    """A task in one of its phases."""

    here: World
    task: Task
    engine: ScriptedAdapter
    dies: asyncio.Event = field(default_factory=asyncio.Event)


async def in_phase(here: World, phase: str, dies: asyncio.Event) -> Scene:
    engine = here.engines["p"]
    broken: Any = [Hold(dies), DIES]
    match phase:
        case "queued":
            engine.scripts = [Script([Hold(dies), STOPPED_WELL])]
            await here.submit(prompt="before")
        case "connecting":
            engine.scripts = [Script(headers=broken)]
        case "prompt":
            engine.scripts = [Script(broken)]
        case "streaming":
            engine.scripts = [Script(["a", *broken])]
        case "retrying":
            engine.scripts = [Script([DIES])]
            engine.healths = [Hold(dies)]
        case _:
            engine.scripts = [Script(["a", STOPPED_WELL])]
    task = await here.submit(deadline_ms=DEADLINE_MS, prompt="this")
    await pass_time(0.2)
    return Scene(here, task, engine, dies)


async def cancel(scene: Scene) -> None:
    scene.here.orchestrator.cancel(scene.task, "client")


async def deadline(_scene: Scene) -> None:
    await pass_time(DEADLINE_MS / 1000)


async def reader_goes(scene: Scene) -> None:
    with scene.here.orchestrator.reading(scene.task, lambda: None):
        await settle()
    await pass_time(1)


async def engine_dies(scene: Scene) -> None:
    scene.dies.set()
    await settle()


async def pool_drains(scene: Scene) -> None:
    scene.here.orchestrator.report(snapshot(state=PoolState.DRAINING, revision=2))


async def pool_breaks(scene: Scene) -> None:
    scene.here.orchestrator.report(snapshot(state=PoolState.BROKEN, revision=2))


async def pool_is_reloaded(scene: Scene) -> None:
    """Another engine with another model takes over; the former one goes on."""
    other = snapshot(
        revision=2,
        endpoint=Endpoint(url="http://other"),
        model_ref="file:/models/n.gguf",
        model_id="n",
        model_digest="sha256:1",
    )
    scene.here.orchestrator.report(other)


async def daemon_stops(scene: Scene) -> None:
    scene.here.stopping.set()
    await settle()


EVENTS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "cancel": cancel,
    "deadline": deadline,
    "reader goes": reader_goes,
    "engine dies": engine_dies,
    "pool drains": pool_drains,
    "pool breaks": pool_breaks,
    "pool is reloaded": pool_is_reloaded,
    "daemon stops": daemon_stops,
}
GOES_ON = "goes on"
"""Nothing happens to it."""
TABLE = """
phase       cancel    deadline          reader goes  engine dies   pool drains       pool breaks       pool is reloaded   daemon stops
queued      canceled  ADMISSION_REJECT  canceled     stop          POOL_UNAVAILABLE  POOL_UNAVAILABLE  MODEL_UNAVAILABLE  POOL_UNAVAILABLE
connecting  canceled  DECODE_TIMEOUT    canceled     stop          goes on           goes on           goes on            POOL_UNAVAILABLE
prompt      canceled  DECODE_TIMEOUT    canceled     stop          goes on           goes on           goes on            POOL_UNAVAILABLE
streaming   canceled  DECODE_TIMEOUT    canceled     WORKER_RESET  goes on           goes on           goes on            POOL_UNAVAILABLE
retrying    canceled  ADMISSION_REJECT  canceled     stop          POOL_UNAVAILABLE  POOL_UNAVAILABLE  MODEL_UNAVAILABLE  POOL_UNAVAILABLE
ended       stop      stop              stop         stop          stop              stop              stop               stop
"""  # noqa: E501 - a table


def cells() -> list[tuple[str, str, str]]:
    head, *rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in TABLE.strip().splitlines()]
    return [(row[0], event, outcome) for row in rows for event, outcome in zip(head[1:], row[1:], strict=True)]


def test_the_table_has_every_event_in_every_phase() -> None:
    assert len(cells()) == 6 * len(EVENTS)
    assert {event for _, event, _ in cells()} == set(EVENTS)


@asynccontextmanager
async def nearly_still() -> AsyncIterator[World]:
    """A world with one slot, whose engine lingers with what it was told to drop."""
    engine = ScriptedAdapter()
    engine.lingers = 0.01
    settings = config(pool(), disconnect_grace_ms=500)
    async with world(settings=settings, engines={"p": engine}) as here:
        yield here


@pytest.mark.req("HP-08", "HP-11", "HP-17", "HP-19")
@pytest.mark.parametrize(("phase", "event", "outcome"), cells())
async def test_what_becomes_of_a_task(phase: str, event: str, outcome: str) -> None:
    async with nearly_still() as here:
        scene = await in_phase(here, phase, asyncio.Event())
        task = scene.task
        await EVENTS[event](scene)
        if outcome == GOES_ON:
            await pass_time(0.5)
            assert (task.state, task.finished) == (TaskState.RUNNING, False)
            here.orchestrator.cancel(task, "client")
            outcome = "canceled"
        elif outcome == "stop":
            await ended(task)
        assert task.finished
        stream = task.log.read(0)
        last = frames_of(stream)[-1]
        assert last.data["finish_reason" if last.event == "end" else "code"] == outcome
        assert sum(name in {"end", "error"} for name in events_of(stream)) == 1
        assert events_of(stream).count("started") <= 1
        here.orchestrator.cancel(task, "client")
        scene.dies.set()
        await pass_time(5)
        assert task.log.read(0) == stream, "nothing follows the terminal event"
        assert task.id not in here.orchestrator.backlog
        assert (here.orchestrator.runner.active("p"), scene.engine.open, scene.engine.lingering) == (0, 0, 0)
        assert scene.engine.most_open == 1


@pytest.mark.req("HP-11")
async def test_a_cancel_while_a_turn_is_held_for_its_home() -> None:
    settings = config(pool("a"), pool("b"))
    busy = ScriptedAdapter(otherwise=Script([HANG]))
    async with world(settings=settings, engines={"a": busy, "b": ScriptedAdapter()}) as here:
        backlog, clock = here.orchestrator.backlog, asyncio.get_running_loop().time
        blocker = await here.submit()
        offer = backlog.offer
        backlog.offer = lambda *given, **_: offer(*given, home="a", hold_until_ms=clock() * 1000 + 2_000)  # type: ignore[method-assign]
        held, other = await here.submit(), await here.submit()
        await pass_time(1.5)
        assert (held.state, other.state) == (TaskState.QUEUED, TaskState.QUEUED)
        here.orchestrator.cancel(held, "client")
        assert events_of(held.log.read(0)) == ["end"]
        await pass_time(0.6)
        assert other.state is TaskState.DONE, "when its hold is over it starts elsewhere, though nothing else happens"
        assert other.status.pool_id == "b"
        here.orchestrator.cancel(blocker, "client")

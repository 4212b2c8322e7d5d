"""When a slot is free: by the engine's own word, asked for no longer and no oftener than needed."""

import asyncio
import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import EngineError, Failure
from contracts.config import Mode
from contracts.pools import Endpoint, PoolState
from contracts.tasks import TaskState
from orchestratord.occupancy import NOTICED_MS, Occupancy, let_go
from orchestratord.release import PATIENCE_MS, SHARED_PATIENCE_MS
from tests.plugins.failures import OperatorSees
from tests.support.virtual_loop import pass_time, settle
from tests.unit.orchestratord.test_retry import Told
from tests.unit.orchestratord.world import (
    HANG,
    STOPPED_WELL,
    Pause,
    Script,
    ScriptedAdapter,
    World,
    ended,
    snapshot,
    world,
)


def lingering(seconds: float, *scripts: Script, otherwise: Script | None = None) -> ScriptedAdapter:
    """An engine that goes on for so long with a run whose connection was closed."""
    engine = ScriptedAdapter(*scripts, otherwise=otherwise)
    engine.lingers = seconds
    return engine


# --- the books --------------------------------------------------------------------------------------------------------


def test_slots_are_counted_by_engine_and_by_pool() -> None:
    occupancy, old, new = Occupancy(), object(), object()
    first, second = occupancy.take("p", old, 0), occupancy.take("p", new, 0)
    occupancy.take("q", object(), 0)
    assert (occupancy.on(old), occupancy.on(new), occupancy.of("p"), occupancy.off("p", new)) == (1, 1, 2, 1)
    assert occupancy.free(first)
    assert not occupancy.free(first), "a slot is given back once"
    assert (occupancy.on(old), occupancy.of("p"), occupancy.off("p", new)) == (0, 1, 0)
    assert occupancy.free(second)
    assert occupancy.of("p") == 0


def test_an_engine_knows_of_a_run_that_it_has_answered_or_has_had_for_a_while() -> None:
    occupancy, engine = Occupancy(), object()
    fresh, begun, old = (occupancy.take("p", engine, at) for at in (NOTICED_MS, NOTICED_MS, 0))
    begun.begun = True
    assert occupancy.staying(engine, NOTICED_MS) == {begun, old}
    old.leaving = True
    assert occupancy.staying(engine, 2 * NOTICED_MS) == {begun, fresh}


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 12))
def test_no_more_is_let_go_than_the_count_allows(leaving: int, counted: int, busy: int) -> None:
    occupancy, engine = Occupancy(), object()
    going = [occupancy.take("p", engine, 0) for _ in range(leaving)]
    staying = {occupancy.take("p", engine, 0) for _ in range(counted)}
    freed = let_go(going, busy, staying)
    assert list(freed) == going[: len(freed)], "oldest first"
    assert len(going) - len(freed) + counted >= min(busy, leaving + counted)
    assert len(freed) == leaving or busy > counted


# --- what is waited for -----------------------------------------------------------------------------------------------


async def canceled(here: World, **changes: Any) -> tuple[Any, float]:  # noqa: ANN401 - any field of the request
    """A task that was cancelled after its first token, and when."""
    task = await here.submit(**changes)
    await pass_time(0.2)
    here.orchestrator.cancel(task, "client")
    return task, asyncio.get_running_loop().time()


@pytest.mark.req("HP-11", "HP-08")
@pytest.mark.parametrize("lingers", [0.0005, 0.003, 0.2, 4.0])
async def test_a_slot_is_given_to_nobody_before_the_engine_says_that_it_is_free(
    lingers: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = lingering(lingers, Script(["a", HANG]), Script())
    async with world(engines={"p": engine}) as here:
        task, _ = await canceled(here)
        after = await here.submit()
        await pass_time(lingers * 0.9)
        assert (after.state, here.orchestrator.runner.active("p")) == (TaskState.QUEUED, 1)
        await ended(after)
        took_ms = task.slot_free_ms
        assert took_ms is not None
        assert lingers * 1000 <= took_ms <= max(2.5 * lingers * 1000, 2)
        assert task.status.slot_free_ms == round(took_ms)
        assert after.status.slot_free_ms is None
    assert f"the slot of task {task.id} was free after {took_ms:.1f} ms" in caplog.text


@pytest.mark.req("HP-08")
async def test_the_natural_end_of_a_run_asks_nothing() -> None:
    engine = lingering(1, otherwise=Script(["a", STOPPED_WELL]))
    async with world(engines={"p": engine}, slots=2) as here:
        tasks = [await here.submit() for _ in range(10)]
        for task in tasks:
            await ended(task)
        assert engine.asked_busy == []
        assert {task.slot_free_ms for task in tasks} == {None}


@pytest.mark.req("HP-08")
async def test_the_next_task_is_sent_in_the_turn_of_the_loop_that_ends_the_one_before() -> None:
    turns = 0
    engine = ScriptedAdapter(otherwise=Script(["a", STOPPED_WELL]))
    async with world(engines={"p": engine}) as here:
        first, second = await here.submit(), await here.submit()
        first.log.subscribe(lambda: sent.append(len(engine.asked)) if first.log.closed else None)
        sent: list[int] = []
        while not first.log.closed:  # noqa: ASYNC110 - its turns are what is counted
            await asyncio.sleep(0)
        assert second.state is TaskState.RUNNING, "bound before the end of the first is written"
        while len(engine.asked) < 2:
            turns += 1
            await asyncio.sleep(0)
        assert (sent, turns <= 1) == ([1], True)


@pytest.mark.parametrize(
    "script",
    [
        Script(headers=[EngineError(Failure.INVALID, "no", status=400)]),
        Script(headers=[EngineError(Failure.REFUSED, "nobody listens")] * 3),
    ],
    ids=["refused with a status", "nobody there"],
)
async def test_a_run_that_never_began_leaves_nothing_to_wait_for(script: Script) -> None:
    engine = lingering(5, script)
    engine.healths = []
    async with world(engines={"p": engine}) as here:
        await ended(await here.submit())
        assert engine.asked_busy == []


async def test_an_engine_that_cannot_tell_is_believed_when_the_connection_is_closed() -> None:
    engine = lingering(5, Script(["a", HANG]), Script())
    engine.tells_busy = False
    async with world(engines={"p": engine}) as here:
        task, _ = await canceled(here)
        await ended(await here.submit())
        assert (len(engine.asked_busy), task.slot_free_ms) == (1, None)


async def test_an_engine_that_died_has_let_go() -> None:
    engine = lingering(math.inf, Script(["a", HANG]), Script())
    engine.busy_fails = EngineError(Failure.REFUSED, "nobody listens at http://p")
    async with world(engines={"p": engine}) as here:
        task, _ = await canceled(here)
        await settle()
        assert (here.orchestrator.runner.active("p"), task.slot_free_ms) == (0, None)


async def test_one_that_does_not_answer_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    engine = lingering(0.01, Script(["a", HANG]))
    engine.busy_fails = EngineError(Failure.TIMEOUT, "it did not answer")
    async with world(engines={"p": engine}) as here:
        await canceled(here)
        await pass_time(2)
        assert here.orchestrator.runner.active("p") == 1
        engine.busy_fails = None
        await pass_time(2.1)
        assert here.orchestrator.runner.active("p") == 0
    assert "Traceback" not in caplog.text


@pytest.mark.req("HP-11")
async def test_an_engine_that_works_on_a_prompt_is_left_alone() -> None:
    """llama-server looks for a lost client once a second, and every question starts that second anew."""
    engine = lingering(4.2, Script(headers=[HANG]))
    async with world(engines={"p": engine}) as here:
        _, at = await canceled(here)
        await pass_time(6)
        early, late = ([each - at for each in engine.asked_busy if lo <= each - at < hi] for lo, hi in ((0, 1), (1, 9)))
        assert len(early) <= 4
        pauses = [after - before for before, after in zip([early[-1], *late], late, strict=False)]
        assert pauses
        assert all(pause > 1.0 for pause in pauses)
        assert here.orchestrator.runner.active("p") == 0


async def test_all_that_leave_one_engine_are_asked_for_at_once() -> None:
    engine = lingering(0.05, otherwise=Script(["a", HANG]))
    async with world(engines={"p": engine}, slots=8) as here:
        tasks = [await here.submit() for _ in range(8)]
        await pass_time(0.2)
        for task in tasks:
            here.orchestrator.cancel(task, "client")
        await pass_time(0.2)
        assert here.orchestrator.runner.active("p") == 0
        assert len(engine.asked_busy) < 12
        assert all(task.slot_free_ms == pytest.approx(63, abs=15) for task in tasks)


@pytest.mark.req("HP-08")
async def test_runs_that_go_on_are_not_taken_for_the_one_that_left() -> None:
    engine = lingering(0.5, otherwise=Script(["a", HANG]))
    async with world(engines={"p": engine}, slots=3) as here:
        staying = [await here.submit() for _ in range(2)]
        await pass_time(0.2)
        task, _ = await canceled(here)
        waiting = await here.submit()
        await pass_time(0.4)
        assert waiting.queue_position == 0
        await pass_time(0.7)
        assert waiting.state is TaskState.RUNNING
        assert engine.open + engine.lingering == 3
        for each in (*staying, waiting):
            here.orchestrator.cancel(each, "client")
        assert task.slot_free_ms is not None


# --- engines that do not let go ---------------------------------------------------------------------------------------


@pytest.mark.req("HP-17", "HP-08")
async def test_an_engine_that_never_lets_go_of_its_only_slot_is_started_anew(
    caplog: pytest.LogCaptureFixture, operator_sees: OperatorSees
) -> None:
    manager, engine = Told(), lingering(math.inf, Script(["a", HANG]))
    async with world(engines={"p": engine}, manager=manager) as here:
        await canceled(here)
        after = await here.submit()
        await pass_time(PATIENCE_MS / 1000 - 0.1)
        assert manager.said == []
        await pass_time(3)
        assert manager.said == [("restart", "p")]
        assert after.state is TaskState.QUEUED, "it never gets more than it has slots"
        here.orchestrator.report(snapshot(state=PoolState.RELOADING, revision=2))
        fresh = here.engines["p"] = ScriptedAdapter()
        here.orchestrator.report(snapshot(revision=3, restarts=1, endpoint=Endpoint(url="http://p2")))
        await ended(after)
        assert len(fresh.asked) == 1
    operator_sees("supervision/slots-lost", next(each for each in caplog.messages if "in every slot" in each))


async def test_an_engine_with_other_slots_goes_on_with_those() -> None:
    manager, engine = Told(), lingering(math.inf, Script(["a", HANG]), otherwise=Script([Pause(1), "b", STOPPED_WELL]))
    async with world(engines={"p": engine}, manager=manager, slots=2) as here:
        await canceled(here)
        await pass_time(PATIENCE_MS / 1000 + 3)
        tasks = [await here.submit() for _ in range(3)]
        for task in tasks:
            await ended(task)
        assert engine.most_open == 1, "the other slot stays taken"
        assert manager.said == []


async def test_a_prompt_may_take_as_long_as_if_somebody_waited_for_it() -> None:
    manager, engine = Told(), lingering(40, Script(headers=[HANG]), Script())
    async with world(engines={"p": engine}, manager=manager) as here:  # its wall limit is 60 s
        await canceled(here)
        after = await here.submit()
        await pass_time(39)
        assert (after.state, manager.said, here.pools["p"].suspect) == (TaskState.QUEUED, [], False)
        await pass_time(4)
        assert (after.state, manager.said) == (TaskState.DONE, [])


async def test_of_an_engine_that_others_use_too_a_busy_slot_proves_nothing() -> None:
    manager, engine = Told(), lingering(math.inf, Script(["a", HANG]), Script())
    external: dict[str, Any] = {"provisioning_mode": Mode.EXTERNAL}
    async with world(engines={"p": engine}, manager=manager, snapshots=lambda each: snapshot(each, **external)) as here:
        task, _ = await canceled(here)
        after = await here.submit()
        await pass_time(SHARED_PATIENCE_MS / 1000 - 0.1)
        assert after.state is TaskState.QUEUED
        await pass_time(2.1)
        assert (after.state, task.slot_free_ms, manager.said) == (TaskState.DONE, None, [])


async def test_a_mistake_of_ours_frees_the_slot_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    engine = lingering(math.inf, Script(["a", HANG]), Script())
    engine.busy_fails = ZeroDivisionError("oops")  # type: ignore[assignment]
    async with world(engines={"p": engine}) as here:
        await canceled(here)
        await ended(await here.submit())
    assert "ZeroDivisionError: oops" in caplog.text


# --- engines that are to end ------------------------------------------------------------------------------------------


@pytest.mark.req("PM-04")
@pytest.mark.parametrize("state", [PoolState.DRAINING, PoolState.RELOADING])
async def test_an_engine_that_drains_may_end_with_its_last_task(state: PoolState) -> None:
    manager, engine = Told(), lingering(0.1, Script(["a", Pause(2), STOPPED_WELL]), Script(["a", HANG]))
    async with world(engines={"p": engine}, manager=manager, slots=2) as here:
        first, second = await here.submit(), await here.submit()
        await pass_time(0.2)
        here.orchestrator.report(snapshot(state=state, revision=2))
        await ended(first)
        here.orchestrator.cancel(second, "client")
        await settle()
        assert manager.said == [], "the engine still works on it"
        await pass_time(0.3)
        assert manager.said == [("idle", "p")]
        here.orchestrator.report(snapshot(state=state, revision=3))
        assert manager.said == [("idle", "p")] * 2, "the line may have broken with the first one"


@pytest.mark.req("PM-04")
async def test_one_that_drains_without_work_may_end_at_once() -> None:
    manager = Told()
    async with world(manager=manager) as here:
        await ended(await here.submit())
        here.orchestrator.report(snapshot(state=PoolState.DRAINING, revision=2))
        assert manager.said == [("idle", "p")]


@pytest.mark.req("PM-04", "HP-08")
async def test_an_engine_that_takes_over_has_all_its_slots_and_the_old_one_ends_with_its_work() -> None:
    manager = Told()
    old, new = ScriptedAdapter(otherwise=Script(["a", Pause(2), STOPPED_WELL])), ScriptedAdapter()
    async with world(engines={"p": old}, manager=manager) as here:
        running = await here.submit()
        await pass_time(0.2)
        here.engines["p"] = new
        here.orchestrator.report(snapshot(revision=2, endpoint=Endpoint(url="http://new")))
        await ended(await here.submit())
        assert (len(new.asked), manager.said, running.finished) == (1, [], False)
        await ended(running)
        assert manager.said == [("idle", "p")]
        here.orchestrator.report(snapshot(revision=3, endpoint=Endpoint(url="http://new")))
        assert manager.said == [("idle", "p")]


@pytest.mark.req("PM-04")
async def test_what_was_said_of_an_engine_is_not_taken_for_said_of_its_successor() -> None:
    """While pool-managerd cannot be reached a pool may go through several states, and the last one alone is told."""
    manager = Told()
    async with world(manager=manager) as here:
        here.orchestrator.report(snapshot(state=PoolState.RELOADING, revision=2))
        assert manager.said == [("idle", "p")]
        here.engines["p"] = ScriptedAdapter()
        here.orchestrator.report(snapshot(revision=9, endpoint=Endpoint(url="http://new")))
        here.orchestrator.report(snapshot(revision=10, endpoint=Endpoint(url="http://new"), state=PoolState.DRAINING))
        assert manager.said == [("idle", "p")] * 3

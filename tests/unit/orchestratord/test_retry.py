"""A task whose replica fails before its first token: who gets it, how often, and what its client is told."""

import asyncio
import logging
from typing import Any

import pytest

from adapters.base import EngineError, Failure, Health, Props
from contracts.config import Engine, Mode, Queue
from contracts.errors import ErrorCode
from contracts.pools import Endpoint, PoolState
from contracts.tasks import KvHint, Placement, PlacementMode, Priority, TaskState, Workload
from orchestratord.retry import RETRIES, WORTH_ANOTHER, Failed, tries_again, verdict
from tests.plugins.failures import OperatorSees
from tests.support.virtual_loop import pass_time, settle
from tests.unit.orchestratord.frames import events_of, frames_of, text_of
from tests.unit.orchestratord.test_orchestrator import end_of, error_of, refusal_of
from tests.unit.orchestratord.world import (
    HANG,
    STOPPED_WELL,
    Pause,
    Script,
    ScriptedAdapter,
    config,
    ended,
    pool,
    snapshot,
    world,
)

BROKEN = EngineError(Failure.BROKEN, "the engine's connection broke")
REFUSED = EngineError(Failure.REFUSED, "nobody listens at http://p")
NEVER = frozenset(Failure) - WORTH_ANOTHER


def two(a: ScriptedAdapter, b: ScriptedAdapter) -> dict[str, Any]:
    """Two pools with one slot each; ``a`` is chosen first."""
    return {"settings": config(pool("a"), pool("b")), "engines": {"a": a, "b": b}}


# --- what is decided --------------------------------------------------------------------------------------------------


def test_which_failures_are_followed_by_another_attempt() -> None:
    for failure in Failure:
        failed = Failed(code=ErrorCode.WORKER_RESET, message="m", failure=failure)
        assert tries_again(failed, 1) is (failure in WORTH_ANOTHER), failure
        assert not tries_again(failed, 1 + RETRIES)
    limit = Failed(code=ErrorCode.DECODE_TIMEOUT, message="m")
    assert not tries_again(limit, 1), "a limit of ours is no failure of a replica"
    unknown = Failed(code=ErrorCode.INVALID_PARAMS, message="m", failure=Failure.INVALID, unknown=True)
    assert tries_again(unknown, 1)


def test_what_is_told_when_no_attempt_is_left() -> None:
    dead = Failed(code=ErrorCode.WORKER_RESET, message="gone", hint="send the task again", failure=Failure.BROKEN)
    assert verdict(dead, ["a-0"]) is dead
    assert verdict(dead, ["a-0", "b-0", "a-0"]).message == (
        "3 attempts failed before the first token, on a-0, b-0 and a-0: gone"
    )
    full = Failed(code=ErrorCode.REPLICA_EXHAUSTED, message="full", failure=Failure.OVERLOADED)
    assert verdict(full, ["a-0", "b-0"]) is full


# --- what happens -----------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-17", "HP-08")
@pytest.mark.parametrize("failure", sorted(WORTH_ANOTHER))
@pytest.mark.parametrize("where", ["headers", "body"])
async def test_another_replica_takes_over_and_the_client_sees_one_answer(failure: Failure, where: str) -> None:
    error = EngineError(failure, "it said so")
    first = ScriptedAdapter(Script(headers=[error]) if where == "headers" else Script([Pause(1), error]))
    async with world(**two(first, ScriptedAdapter())) as here:
        task = await here.submit(seed=7)
        stream = await ended(task)
        assert events_of(stream) == ["started", "metrics", "token", "token", "end"]
        started, moved = frames_of(stream)[:2]
        assert (started.data["pool_id"], started.data["replica_id"]) == ("a", "a-0")
        assert moved.data == {
            "pool_id": "b",
            "replica_id": "b-0",
            "engine": "llamacpp",
            "engine_version": "b1",
            "model_digest": "sha256:0",
        }
        assert text_of(stream) == "Hello"
        assert here.engines["b"].asked == here.engines["a"].asked, "with the same seed"
        status = task.status
        assert (status.attempts, status.pool_id, status.replica_id) == (2, "b", "b-0")
        assert here.metric("placement_decisions_total", fallback="true") == 1
        assert here.metric("placement_decisions_total", fallback="false") == 1
        assert here.metric("tasks_started_total") == 1
        assert here.metric("tasks_enqueued_total") == 1


@pytest.mark.req("HP-17", "AD-06")
@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (Engine.LLAMACPP, Engine.TRITON, [None, ["kv_hint"]]),
        (Engine.TRITON, Engine.LLAMACPP, [["kv_hint"], []]),
    ],
)
async def test_the_hints_that_the_second_engine_cannot_follow_are_named_too(
    first: Engine, second: Engine, said: list[list[str] | None]
) -> None:
    engine_of = {"a": first, "b": second}
    here = two(ScriptedAdapter(Script(headers=[BROKEN])), ScriptedAdapter())
    for adapter in here["engines"].values():
        adapter.says = Props(workloads=(Workload.COMPLETION,), features=("max_tokens",))
    async with world(**here, snapshots=lambda each: snapshot(each, engine=engine_of[each])) as made:
        started, moved, *_ = frames_of(await ended(await made.submit(kv_hint=KvHint.COLD)))
    assert [each.data.get("unheeded") for each in (started, moved)] == said
    assert [each.data["engine"] for each in (started, moved)] == [first, second]


@pytest.mark.req("HP-17")
@pytest.mark.parametrize("failure", sorted(NEVER))
async def test_what_another_replica_would_answer_too_is_answered_at_once(failure: Failure) -> None:
    async with world(**two(ScriptedAdapter(Script([EngineError(failure, "no")])), ScriptedAdapter())) as here:
        task = await here.submit()
        assert events_of(await ended(task)) == ["started", "error"]
        assert (task.status.attempts, here.engines["b"].asked) == (1, [])


@pytest.mark.req("HP-17")
async def test_after_the_first_token_nothing_is_tried_again() -> None:
    async with world(**two(ScriptedAdapter(Script(["a", BROKEN])), ScriptedAdapter())) as here:
        stream = await ended(await here.submit())
        assert (error_of(stream)["code"], text_of(stream)) == ("WORKER_RESET", "a")
        assert here.engines["b"].asked == []


async def test_it_keeps_its_place_before_those_that_came_later() -> None:
    a = ScriptedAdapter(Script([Pause(1), BROKEN]))
    b = ScriptedAdapter(Script([Pause(2), STOPPED_WELL]))
    a.healths = [Health.DOWN] * 1000
    async with world(**two(a, b)) as here:
        first, _, *later = [await here.submit(prompt=str(number)) for number in range(5)]
        batch = await here.submit(prompt="batch", priority=Priority.BATCH)
        await ended(batch)
        assert [asked.prompt for asked in b.asked] == ["1", "0", "2", "3", "4", "batch"]
        assert end_of(first.log.read(0))["finish_reason"] == "stop"
        assert all(task.state is TaskState.DONE for task in later)


async def test_a_full_queue_still_has_its_place_for_it() -> None:
    settings = config(pool(queue=Queue(capacity=1)))
    engine = ScriptedAdapter(Script([Pause(1), BROKEN]))
    async with world(settings=settings, engines={"p": engine}) as here:
        first, waiting = await here.submit(prompt="0"), await here.submit(prompt="1")
        await ended(waiting)
        assert [asked.prompt for asked in engine.asked] == ["0", "0", "1"]
        assert first.state is TaskState.DONE


@pytest.mark.req("HP-17")
async def test_a_task_whose_only_replica_died_waits_for_it() -> None:
    engine = ScriptedAdapter(Script([REFUSED]))
    engine.healths = [Health.DOWN] * 1000
    async with world(engines={"p": engine}) as here:
        task, behind = await here.submit(), await here.submit(prompt="behind")
        await pass_time(60)
        assert (task.state, task.status.state, task.finished) == (TaskState.QUEUED, TaskState.QUEUED, False)
        assert len(engine.asked) == 1
        here.orchestrator.report(snapshot(state=PoolState.BACKOFF, revision=2))
        await pass_time(1)
        engine.healths = []
        here.orchestrator.report(snapshot(revision=3, restarts=1, endpoint=Endpoint(url="http://p2")))
        stream = await ended(task)
        assert events_of(stream) == ["started", "metrics", "token", "token", "end"]
        assert [asked.prompt for asked in engine.asked[:2]] == ["hello", "hello"]
        assert frames_of(await ended(behind))[-1].event == "end"


async def test_an_engine_that_lives_after_all_is_asked_anew_and_gets_it_again() -> None:
    engine = ScriptedAdapter(Script([BROKEN]))
    async with world(engines={"p": engine}) as here:
        await settle()
        assert engine.introductions == 1
        stream = await ended(await here.submit())
        assert events_of(stream)[-1] == "end"
        assert (len(engine.asked), engine.introductions) == (2, 2)


async def test_a_replica_that_is_only_full_does_not_get_it_again() -> None:
    full = EngineError(Failure.OVERLOADED, "too many requests")
    async with world(Script([full])) as here:
        error = error_of(await ended(await here.submit()))
        assert (error["code"], error["message"]) == ("REPLICA_EXHAUSTED", "too many requests")
        assert len(here.engines["p"].asked) == 1
    a, b = ScriptedAdapter(Script([full])), ScriptedAdapter(Script([Pause(5), full]))
    async with world(**two(a, b)) as here:
        task = await here.submit()
        assert error_of(await ended(task))["code"] == "REPLICA_EXHAUSTED"
        assert (len(a.asked), len(b.asked), task.attempts) == (1, 1, 2)


@pytest.mark.req("HP-17", "HP-08")
async def test_a_task_that_ends_every_engine_it_meets_ends_three_and_no_more(operator_sees: OperatorSees) -> None:
    settings = config(*(pool(each) for each in "abcd"))
    engines = {each: ScriptedAdapter(Script([BROKEN])) for each in "abcd"}
    async with world(settings=settings, engines=engines) as here:
        task = await here.submit()
        error = error_of(await ended(task))
        operator_sees("supervision/task-ends-engines", f"{error['code']}: {error['message']}\n  mend: {error['hint']}")
        assert "retry_after_ms" not in error
        assert sum(len(engine.asked) for engine in engines.values()) == 1 + RETRIES
        assert task.status.attempts == 1 + RETRIES
        await pass_time(2)
        assert end_of(await ended(await here.submit()))["finish_reason"] == "stop"


async def test_such_a_task_ends_its_only_engine_no_oftener(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with world(engines={"p": ScriptedAdapter(otherwise=Script([BROKEN]))}) as here:
        task = await here.submit()
        assert "3 attempts failed before the first token, on p-0, p-0 and p-0" in error_of(await ended(task))["message"]
        assert len(here.engines["p"].asked) == 3
    assert caplog.text.count(f"task {task.id} is given to another replica: the engine's connection broke") == 2


@pytest.mark.req("HP-06")
async def test_a_pin_holds_for_every_attempt() -> None:
    a = ScriptedAdapter(Script([BROKEN]))
    async with world(**two(a, ScriptedAdapter())) as here:
        pin = Placement(mode=PlacementMode.PIN, pool_id="a")
        assert events_of(await ended(await here.submit(placement=pin)))[-1] == "end"
        assert (len(a.asked), here.engines["b"].asked) == (2, [])
        assert here.metric("placement_decisions_total", fallback="true", pinned="true") == 1


async def test_the_deadline_counts_from_admission_whatever_happens_between() -> None:
    engine = ScriptedAdapter(Script([Pause(1), BROKEN]))
    engine.healths = [Health.DOWN] * 1000
    async with world(engines={"p": engine}) as here:
        task = await here.submit(deadline_ms=3_000)
        before = asyncio.get_running_loop().time()
        error = error_of(await ended(task))
        assert asyncio.get_running_loop().time() - before == pytest.approx(3.0)
        assert error["message"] == "the deadline of 3000 ms passed while it waited"


async def test_nobody_gets_it_who_could_not_have_got_it_as_a_new_task() -> None:
    """Meanwhile one pool was drained, and another has a model that was not asked for."""
    settings = config(pool("a"), pool("b"), pool("c"))
    engines = {
        "a": ScriptedAdapter(Script([Pause(1), EngineError(Failure.OVERLOADED, "full")])),
        "b": ScriptedAdapter(),
    }
    engines["c"] = ScriptedAdapter()
    async with world(settings=settings, engines=engines) as here:
        task = await here.submit()
        other: dict[str, Any] = {"model_ref": "file:/models/n.gguf", "model_id": "n", "model_digest": "sha256:1"}
        here.orchestrator.report(snapshot("b", revision=2, endpoint=Endpoint(url="http://b2"), **other))
        here.orchestrator.report(snapshot("c", PoolState.DRAINING, revision=2))
        assert error_of(await ended(task))["code"] == "REPLICA_EXHAUSTED"
        assert (engines["b"].asked, engines["c"].asked) == ([], [])


# --- an engine that is another one all of a sudden --------------------------------------------------------------------


@pytest.mark.req("HP-12")
async def test_an_engine_that_does_not_know_the_model_any_more_is_asked_anew() -> None:
    gone = EngineError(Failure.INVALID, "The model `m` does not exist.", status=404)
    engine = ScriptedAdapter(Script(headers=[gone]))
    async with world(engines={"p": engine}) as here:
        await settle()
        stream = await ended(await here.submit())
        assert events_of(stream)[-1] == "end"
        assert (len(engine.asked), engine.introductions) == (2, 2)


@pytest.mark.req("HP-12")
async def test_one_that_serves_something_else_now_gets_nothing_more() -> None:
    gone = EngineError(Failure.INVALID, "File Not Found", status=404)
    engine = ScriptedAdapter(Script(headers=[gone]))
    async with world(engines={"p": engine}) as here:
        await settle()
        engine.says = Props(workloads=(Workload.EMBEDDING,))
        error = error_of(await ended(await here.submit()))
        assert error["code"] == "INVALID_PARAMS"
        assert "completion" in error["message"]
        assert len(engine.asked) == 1


@pytest.mark.req("HP-12")
async def test_between_a_restart_and_its_report_nobody_gets_anothers_answer() -> None:
    """The engine went, and something else listens at its port before pool-managerd has said so."""
    engine = ScriptedAdapter(Script([BROKEN]))
    async with world(engines={"p": engine}) as here:
        await settle()
        engine.says = EngineError(Failure.PROTOCOL, "/props answered something else than documented")
        task = await here.submit()
        await pass_time(1)
        assert error_of(task.log.read(0))["code"] == "POOL_UNREADY"
        assert len(engine.asked) == 1


@pytest.mark.req("HP-12", "HP-06")
async def test_nothing_of_another_model_reaches_a_client(operator_sees: OperatorSees) -> None:
    """Somebody has given the engine that they run another model, and nothing else has changed."""
    external: dict[str, Any] = {"provisioning_mode": Mode.EXTERNAL}
    a, b = ScriptedAdapter(), ScriptedAdapter()
    a.serves_model = b.serves_model = "/models/m.gguf"
    async with world(**two(a, b), snapshots=lambda each: snapshot(each, **external)) as here:
        await ended(await here.submit())
        a.serves_model, a.otherwise = "/models/n.gguf", Script(["wrong", STOPPED_WELL])
        stream = await ended(await here.submit())
        assert (text_of(stream), events_of(stream)[:2]) == ("Hello", ["started", "metrics"])
        assert (len(a.asked), len(b.asked)) == (2, 1)
        await ended(await here.submit())
        assert (len(a.asked), len(b.asked)) == (2, 2), "nothing more is sent to it"
        pinned = Placement(mode=PlacementMode.PIN, pool_id="a")
        refusal = await refusal_of(here, placement=pinned)
        operator_sees("external/another-model", f"{refusal.code}: {refusal.message}\n  mend: {refusal.hint}")
        a.serves_model, a.otherwise = "/models/m.gguf", Script()
        await pass_time(2)
        await ended(await here.submit(placement=pinned))  # it is back
        a.serves_model = "/models/n.gguf"
        reloaded = snapshot("a", revision=9, restarts=1, **external)
        here.orchestrator.report(reloaded)  # an operator has seen to it
        await ended(await here.submit(placement=pinned))


# --- an engine that hangs ---------------------------------------------------------------------------------------------


class Told:
    """A manager that can be reached, and remembers what it was told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def idle(self, pool_id: str) -> bool:
        self.said.append(("idle", pool_id))
        return True

    def restart(self, pool_id: str) -> bool:
        self.said.append(("restart", pool_id))
        return True


@pytest.mark.req("HP-17")
async def test_an_engine_that_leaves_every_task_hanging_is_started_anew(
    caplog: pytest.LogCaptureFixture, operator_sees: OperatorSees
) -> None:
    """Its health is well, and every stream stalls: without more, every task would wait for the idle limit."""
    manager = Told()
    engine = ScriptedAdapter(otherwise=Script(["a", HANG]))
    async with world(engines={"p": engine}, manager=manager) as here:
        for _ in range(2):
            assert "idle limit" in error_of(await ended(await here.submit()))["message"]
        assert manager.said == []
        engine.scripts = [Script()]
        await ended(await here.submit())  # a good one in between: it did not hang
        for _ in range(3):
            assert manager.said == []
            await ended(await here.submit())
        assert manager.said == [("restart", "p")]
        await pass_time(1)
    operator_sees("supervision/engine-hangs", next(each for each in caplog.messages if "in a row" in each))


@pytest.mark.req("HP-17")
async def test_an_answer_that_never_ends_is_no_fault_of_the_engine() -> None:
    manager = Told()
    async with world(engines={"p": ScriptedAdapter(otherwise=Script(["a", Pause(4)] * 99))}, manager=manager) as here:
        for _ in range(4):
            assert "wall limit" in error_of(await ended(await here.submit(max_tokens=99)))["message"]
            assert not here.pools["p"].suspect
        assert manager.said == []

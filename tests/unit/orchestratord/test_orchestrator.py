"""Runner and orchestrator together, over scripted engines on virtual time."""

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from adapters.base import EngineError, Failure, Finished, Health
from contracts.config import FullPolicy, Queue
from contracts.errors import ErrorCode
from contracts.events import FinishReason
from contracts.pools import Cause, Endpoint, PoolError, PoolState
from contracts.tasks import (
    Determinism,
    KvHint,
    OnDisconnect,
    Placement,
    PlacementMode,
    Priority,
    TaskState,
)
from daemon_core.steps import finished
from orchestratord.admission import FAILING
from orchestratord.errors import ApiError, api_error
from orchestratord.observer import Observer
from orchestratord.task import Caller
from tests.support.virtual_loop import pass_time, settle
from tests.unit.orchestratord.frames import events_of, frames_of, text_of
from tests.unit.orchestratord.world import (
    HANG,
    STOPPED_WELL,
    Hold,
    Pause,
    Script,
    ScriptedAdapter,
    World,
    config,
    ended,
    pool,
    request,
    snapshot,
    ticking,
    world,
)

BATCH, INTERACTIVE = Priority.BATCH, Priority.INTERACTIVE


def error_of(stream: bytes) -> dict[str, Any]:
    last = frames_of(stream)[-1]
    assert last.event == "error", last
    return last.data  # type: ignore[no-any-return]


def end_of(stream: bytes) -> dict[str, Any]:
    last = frames_of(stream)[-1]
    assert last.event == "end", last
    return last.data  # type: ignore[no-any-return]


async def refusal_of(here: World, **changes: Any) -> Any:  # noqa: ANN401 - any field of the request
    with pytest.raises(ApiError) as caught:
        await here.submit(**changes)
    return caught.value.refusal


# --- a good run -------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-10")
async def test_a_task_from_admission_to_its_end() -> None:
    async with world(Script(["Hel", Pause(0.1), "lo", STOPPED_WELL])) as here:
        task = await here.submit(seed=7)
        assert task.accepted.task_id == "task-n1"
        assert (task.accepted.queue_position, task.accepted.predicted_start_ms, task.accepted.backoff_ms) == (0, 0, 0)
        stream = await ended(task)
        assert events_of(stream) == ["started", "token", "token", "end"]
        started = frames_of(stream)[0].data
        assert started == {
            "task_id": "task-n1",
            "job_id": "job-n2",
            "queue_position": 0,
            "predicted_start_ms": 0,
            "engine": "llamacpp",
            "engine_version": "b1",
            "model_digest": "sha256:0",
            "pool_id": "p",
            "replica_id": "p-0",
            "profile": "trial",
            "seed": 7,
            "kv_warmth": False,
        }
        assert text_of(stream) == "Hello"
        assert end_of(stream)["finish_reason"] == "stop"
        assert task.status.state is TaskState.DONE
        await settle()
        assert here.orchestrator.runner.active("p") == 0


@pytest.mark.parametrize(
    ("changes", "seed", "cache"),
    [
        ({}, 4242, True),
        ({"seed": 0}, 0, True),
        ({"determinism": Determinism.STRICT}, 4242, False),
        ({"kv_hint": KvHint.COLD}, 4242, False),
    ],
)
async def test_what_the_engine_is_asked_for(changes: dict[str, Any], seed: int, cache: bool) -> None:
    async with world() as here:
        task = await here.submit(**changes)
        await ended(task)
        asked = here.engines["p"].asked[0]
        assert (asked.prompt, asked.max_tokens, asked.seed, asked.cache_prompt) == ("hello", 8, seed, cache)
        assert task.status.seed == seed


# --- slots ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-08")
@pytest.mark.parametrize("slots", [1, 3])
async def test_an_engine_never_gets_more_than_it_has_slots(slots: int) -> None:
    script = Script(["x", Pause(0.3), STOPPED_WELL])
    settings = config(pool(queue=Queue(capacity=50)))
    async with world(settings=settings, engines={"p": ScriptedAdapter(otherwise=script)}, slots=slots) as here:
        here.engines["p"].closing_takes = 0.05
        tasks = [await here.submit() for _ in range(12)]
        for number, task in enumerate(tasks):
            if number % 4 == 1:
                here.orchestrator.cancel(task, "client")
                await pass_time(0.1)
        streams = [await ended(task) for task in tasks]
        assert {events_of(stream)[-1] for stream in streams} == {"end"}
        assert here.engines["p"].most_open == slots
        await pass_time(1)
        assert (here.engines["p"].open, here.orchestrator.runner.active("p")) == (0, 0)


@pytest.mark.req("HP-01", "HP-08")
async def test_tasks_start_in_turn() -> None:
    async with world(engines={"p": ScriptedAdapter(otherwise=Script([Pause(0.1), STOPPED_WELL]))}) as here:
        order = [BATCH, BATCH, INTERACTIVE, BATCH, INTERACTIVE]
        tasks = [await here.submit(prompt=str(number), priority=each) for number, each in enumerate(order)]
        for task in tasks:
            await ended(task)
        assert [asked.prompt for asked in here.engines["p"].asked] == ["0", "2", "4", "1", "3"]


@pytest.mark.req("HP-11")
async def test_a_cancel_before_the_first_step_of_a_generation_frees_the_slot() -> None:
    async with world() as here:
        task = await here.submit()
        assert task.state is TaskState.RUNNING
        assert here.engines["p"].asked == []
        here.orchestrator.cancel(task, "client")
        after = await here.submit(prompt="next")
        assert end_of(await ended(after))["finish_reason"] == "stop"
        assert [asked.prompt for asked in here.engines["p"].asked] == ["next"]
        assert events_of(task.log.read(0)) == ["started", "end"]
        await settle()
        assert here.orchestrator.runner.active("p") == 0


@pytest.mark.req("HP-08")
async def test_a_slot_is_busy_until_the_connection_is_closed() -> None:
    async with world(Script(["a", HANG]), Script([STOPPED_WELL])) as here:
        engine = here.engines["p"]
        engine.closing_takes = 2.0
        first = await here.submit()
        await pass_time(0.1)
        here.orchestrator.cancel(first, "client")
        second = await here.submit(prompt="second")
        await pass_time(1.9)
        assert (len(engine.asked), second.state) == (1, TaskState.QUEUED)
        await pass_time(0.2)
        assert len(engine.asked) == 2
        assert engine.most_open == 1


@pytest.mark.req("HP-08")
async def test_whoever_can_run_it_first_does() -> None:
    settings = config(pool("a"), pool("b"))
    engines = {
        "a": ScriptedAdapter(otherwise=Script([HANG])),
        "b": ScriptedAdapter(otherwise=Script([Pause(1), STOPPED_WELL])),
    }
    async with world(settings=settings, engines=engines) as here:
        tasks = [await here.submit(prompt=str(number)) for number in range(4)]
        await pass_time(10)
        assert [asked.prompt for asked in engines["a"].asked] == ["0"]
        assert [asked.prompt for asked in engines["b"].asked] == ["1", "2", "3"]
        here.orchestrator.cancel(tasks[0], "client")


@pytest.mark.req("HP-06")
async def test_a_pinned_task_waits_for_its_pool_and_no_other() -> None:
    settings = config(pool("a"), pool("b"))
    engines = {"a": ScriptedAdapter(otherwise=Script([Pause(3), STOPPED_WELL])), "b": ScriptedAdapter()}
    pin = Placement(mode=PlacementMode.PIN, pool_id="a")
    async with world(settings=settings, engines=engines) as here:
        first, second = await here.submit(placement=pin), await here.submit(placement=pin)
        await ended(first)
        stream = await ended(second)
        assert frames_of(stream)[-1].event == "end"
        assert (len(engines["a"].asked), len(engines["b"].asked)) == (2, 0)


# --- cancel -----------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-11")
async def test_a_cancel_while_it_waits() -> None:
    async with world(Script([HANG])) as here:
        running, waiting = await here.submit(), await here.submit()
        here.orchestrator.cancel(waiting, "client")
        assert waiting.id not in here.orchestrator.backlog
        assert events_of(waiting.log.read(0)) == ["end"]
        assert end_of(waiting.log.read(0))["finish_reason"] == "canceled"
        assert not running.finished
        assert here.metric("tasks_canceled_total", pool_id="none", reason="client") == 1


@pytest.mark.req("HP-11")
@pytest.mark.parametrize(
    ("script", "said"),
    [(Script(headers=[HANG]), ""), (Script([HANG]), ""), (Script(["a", "b", HANG]), "ab")],
    ids=["headers", "first", "middle"],
)
async def test_a_cancel_while_it_runs_closes_the_connection_and_no_token_follows(script: Script, said: str) -> None:
    async with world(script) as here:
        task = await here.submit()
        await pass_time(0.1)
        assert here.engines["p"].open == 1
        here.orchestrator.cancel(task, "client")
        at_cancel = task.log.read(0)
        await settle()
        assert here.engines["p"].open == 0
        assert task.log.read(0) == at_cancel
        assert text_of(at_cancel) == said
        assert end_of(at_cancel)["finish_reason"] == "canceled"
        assert here.metric("tasks_canceled_total", pool_id="p", reason="client") == 1


@pytest.mark.req("HP-11")
async def test_a_token_that_is_already_on_its_way_does_not_follow_a_cancel() -> None:
    arrives = asyncio.Event()
    async with world(Script(["a", Hold(arrives), "b", STOPPED_WELL])) as here:
        task = await here.submit()
        await settle()
        arrives.set()
        here.orchestrator.cancel(task, "client")
        await settle()
        assert text_of(task.log.read(0)) == "a"
        assert end_of(task.log.read(0))["finish_reason"] == "canceled"


@pytest.mark.req("HP-11")
async def test_an_engine_that_complains_about_the_cancel_changes_nothing() -> None:
    async with world(Script(["a", HANG])) as here:
        here.engines["p"].closing_fails = EngineError(Failure.BROKEN, "the connection was closed")
        task = await here.submit()
        await settle()
        here.orchestrator.cancel(task, "client")
        at_cancel = task.log.read(0)
        await settle()
        assert task.log.read(0) == at_cancel
        assert task.status.state is TaskState.CANCELED


@pytest.mark.req("HP-11")
async def test_a_second_cancel_and_one_after_the_end_change_nothing() -> None:
    async with world(Script([HANG]), Script()) as here:
        task = await here.submit()
        await settle()
        here.orchestrator.cancel(task, "client")
        once = task.log.read(0)
        here.orchestrator.cancel(task, "client")
        assert task.log.read(0) == once
        done = await here.submit()
        whole = await ended(done)
        here.orchestrator.cancel(done, "client")
        assert done.log.read(0) == whole
        assert done.status.state is TaskState.DONE
        assert here.metric("tasks_canceled_total") == 1


# --- engines that fail ------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-17")
async def test_a_dead_worker_fails_its_task_at_once() -> None:
    async with world(Script(["a", EngineError(Failure.BROKEN, "the engine closed the stream")])) as here:
        here.engines["p"].healths = [Health.DOWN] * 50
        error = error_of(await ended(await here.submit()))
        assert error == {
            "code": "WORKER_RESET",
            "message": "the engine closed the stream",
            "retriable": True,
            "hint": "send the task again",
            "retry_after_ms": 0,
            "engine": "llamacpp",
        }


@pytest.mark.req("HP-17")
async def test_a_silent_engine_fails_its_task_at_the_idle_limit_and_is_looked_at() -> None:
    async with world(Script(["a", HANG]), Script()) as here:
        stream = await ended(await here.submit())
        assert error_of(stream)["code"] == "DECODE_TIMEOUT"
        assert "5000 ms (idle limit)" in error_of(stream)["message"]
        assert text_of(stream) == "a"
        assert end_of(await ended(await here.submit()))["finish_reason"] == "stop"
        assert here.engines["p"].looks == 1


async def test_nothing_is_sent_to_an_engine_under_suspicion_until_it_answers_well() -> None:
    broken = Script(["a", EngineError(Failure.BROKEN, "gone")])
    async with world(broken, Script()) as here:
        engine = here.engines["p"]
        engine.healths = [Health.DOWN, Health.LOADING, Health.DOWN, Health.OK]
        await ended(await here.submit())
        assert here.pools["p"].suspect
        after = await here.submit()
        while engine.looks < 4:
            assert len(engine.asked) == 1
            assert after.state is TaskState.QUEUED
            await pass_time(0.01)
        assert end_of(await ended(after))["finish_reason"] == "stop"
        assert not here.pools["p"].suspect


async def test_a_report_of_a_new_engine_ends_the_suspicion() -> None:
    broken = Script(["a", EngineError(Failure.BROKEN, "gone")])
    async with world(broken, Script()) as here:
        engine = here.engines["p"]
        engine.healths = [Health.DOWN] * 1000
        await ended(await here.submit())
        after = await here.submit()
        here.orchestrator.report(snapshot(revision=2))
        await settle()
        assert len(engine.asked) == 1, "the same life again says nothing new"
        here.orchestrator.report(snapshot(revision=3, restarts=1, endpoint=Endpoint(url="http://p2")))
        assert end_of(await ended(after))["finish_reason"] == "stop"
        looked = engine.looks
        await pass_time(10)
        assert engine.looks <= looked + 1, "nobody looks at an engine that was replaced"


async def test_an_old_engines_failure_does_not_fall_back_on_its_successor() -> None:
    """Blue and green: the new engine serves already when the last stream of the old one breaks."""
    dies = asyncio.Event()
    old = ScriptedAdapter(Script(["a", Hold(dies), EngineError(Failure.BROKEN, "ended")]))
    new = ScriptedAdapter()
    async with world(engines={"p": old}, slots=2) as here:
        last = await here.submit()
        await settle()
        here.engines["p"] = new
        here.orchestrator.report(snapshot(revision=2, endpoint=Endpoint(url="http://new"), slots=2))
        dies.set()
        assert error_of(await ended(last))["code"] == "WORKER_RESET"
        assert not here.pools["p"].suspect
        assert end_of(await ended(await here.submit()))["finish_reason"] == "stop"
        assert len(new.asked) == 1


async def test_a_look_at_the_old_engine_says_nothing_about_the_new_one() -> None:
    answers = asyncio.Event()
    old = ScriptedAdapter(Script(["a", EngineError(Failure.BROKEN, "ended")]))
    new = ScriptedAdapter(Script(["a", EngineError(Failure.BROKEN, "ended too")]))
    old.healths, new.healths = [Hold(answers)], [Health.DOWN] * 1000
    async with world(engines={"p": old}) as here:
        await ended(await here.submit())
        await pass_time(0.1)
        here.engines["p"] = new
        here.orchestrator.report(snapshot(revision=2, endpoint=Endpoint(url="http://new")))
        await ended(await here.submit())
        assert here.pools["p"].suspect
        answers.set()
        await pass_time(0.1)
        assert here.pools["p"].suspect


async def test_another_pool_takes_over_while_one_is_under_suspicion() -> None:
    settings = config(pool("a"), pool("b"))
    engines = {"a": ScriptedAdapter(Script(["a", EngineError(Failure.BROKEN, "gone")])), "b": ScriptedAdapter()}
    async with world(settings=settings, engines=engines) as here:
        engines["a"].healths = [Health.DOWN] * 1000
        await ended(await here.submit())
        await ended(await here.submit())
        assert (len(engines["a"].asked), len(engines["b"].asked)) == (1, 1)


async def test_a_mistake_of_ours_ends_one_task_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async with world(Script(["a", ZeroDivisionError("oops")]), Script()) as here:
        stream = await ended(await here.submit())
        assert error_of(stream) == {
            "code": "INTERNAL",
            "message": "internal error; the log has the details",
            "retriable": False,
            "engine": "llamacpp",
        }
        assert end_of(await ended(await here.submit()))["finish_reason"] == "stop"
    assert "ZeroDivisionError: oops" in caplog.text


@pytest.mark.req("HP-08")
@pytest.mark.parametrize("where", ["seat", "ended", "done"])
async def test_a_mistake_around_a_run_ends_no_more_than_its_task(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    wrong = [True]

    def once(owner: object, name: str) -> None:
        right = getattr(owner, name)

        def mistaken(*given: Any) -> Any:  # noqa: ANN401 - whatever it takes and gives
            if wrong:
                raise ZeroDivisionError(wrong.pop())
            return right(*given)

        monkeypatch.setattr(owner, name, mistaken)

    async with world(Script(), Script()) as here:
        once(here.orchestrator.turns if where != "done" else Observer, where)
        first = await ended(await here.submit())
        assert (events_of(first)[-1] == "error") is (where == "seat")
        assert end_of(await ended(await here.submit()))["finish_reason"] == "stop"
        assert here.orchestrator.runner.active("p") == 0
    assert "ZeroDivisionError" in caplog.text


async def test_a_mistake_while_looking_at_an_engine_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with world(Script([EngineError(Failure.BROKEN, "gone")]), Script()) as here:
        here.engines["p"].healths = [ZeroDivisionError("oops"), Health.OK]
        await ended(await here.submit())
        assert end_of(await ended(await here.submit()))["finish_reason"] == "stop"
    assert "ZeroDivisionError: oops" in caplog.text


# --- deadlines --------------------------------------------------------------------------------------------------------


async def test_a_deadline_that_passes_in_the_queue() -> None:
    async with world(Script([HANG])) as here:
        running = await here.submit()
        waiting = await here.submit(deadline_ms=3_000)
        before = asyncio.get_running_loop().time()
        error = error_of(await ended(waiting))
        assert asyncio.get_running_loop().time() - before == pytest.approx(3.0)
        assert error["code"] == "ADMISSION_REJECT"
        assert error["message"] == "the deadline of 3000 ms passed while it waited"
        assert waiting.id not in here.orchestrator.backlog
        assert not running.finished
        assert here.metric("tasks_rejected_total", reason="ADMISSION_REJECT") == 1


async def test_a_deadline_that_passes_during_the_answer() -> None:
    async with world(Script(["a", Pause(1), *ticking("b", 1, 10, STOPPED_WELL)])) as here:
        stream = await ended(await here.submit(deadline_ms=2_500))
        assert error_of(stream)["code"] == "DECODE_TIMEOUT"
        assert error_of(stream)["message"] == "the deadline of 2500 ms passed before its answer was complete"
        assert text_of(stream) == "abb"
        await settle()
        assert here.engines["p"].open == 0


async def test_a_deadline_that_was_met_does_nothing() -> None:
    async with world(Script(), Script([HANG])) as here:
        whole = await ended(await here.submit(deadline_ms=100))
        await pass_time(1)
        assert events_of(whole)[-1] == "end"


async def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    async with world(engines={"p": ScriptedAdapter(otherwise=Script([Pause(5), STOPPED_WELL]))}) as here:
        for _ in range(8):
            await ended(await here.submit())
        await here.submit()
        refusal = await refusal_of(here, deadline_ms=7_000)
        assert (refusal.code, refusal.policy_label) == (ErrorCode.ADMISSION_REJECT, "deadline")
        assert refusal.retry_after_ms == pytest.approx(5_000, rel=0.1)
        assert refusal.message == (
            f"the task would start in about {refusal.retry_after_ms} ms and be done in about "
            f"{refusal.message.split()[-8]} ms, after its deadline of 7000 ms"
        )
        assert refusal.retriable is None
        never = await refusal_of(here, deadline_ms=500)
        assert (never.code, never.policy_label, never.retriable) == (ErrorCode.ADMISSION_REJECT, "deadline", False)
        assert (await here.submit(deadline_ms=15_000)).accepted.on_time_probability == 1.0


# --- full queues ------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-02", "HP-04")
async def test_a_full_queue_refuses_with_the_prediction() -> None:
    settings = config(pool(queue=Queue(capacity=1)))
    second = Script([Pause(1), STOPPED_WELL])
    async with world(*[second] * 8, Script([HANG]), settings=settings) as here:
        for _ in range(8):
            await ended(await here.submit())
        await settle()
        await here.submit()
        waiting = await here.submit()
        assert waiting.accepted.queue_position == 0
        assert waiting.accepted.predicted_start_ms == pytest.approx(1_000, rel=0.1)
        assert waiting.accepted.backoff_ms == pytest.approx(1_000, rel=0.1)
        refusal = await refusal_of(here)
        assert refusal.code is ErrorCode.ADMISSION_REJECT
        assert (refusal.message, refusal.pool_id) == ("the queue of pool 'p' is full", "p")
        assert (refusal.retry_after_ms, refusal.policy_label) == (waiting.accepted.backoff_ms, "reject")
        assert here.metric("admission_backpressure_events_total", policy="reject") == 1
        assert len(here.orchestrator.backlog) == 1


@pytest.mark.req("HP-02")
async def test_a_task_that_gives_way_is_told_so() -> None:
    settings = config(pool(queue=Queue(capacity=1, full_policy=FullPolicy.DROP_LRU)))
    async with world(Script([HANG]), settings=settings) as here:
        await here.submit()
        old = await here.submit(priority=BATCH)
        new = await here.submit(priority=BATCH)
        told = error_of(old.log.read(0))
        assert told.pop("retry_after_ms") > 0
        assert told == {
            "code": "QUEUE_FULL_DROP_LRU",
            "message": "a newer task took this one's place in the full queue",
            "retriable": True,
            "hint": "send the task again later",
        }
        assert finished(here.orchestrator.select(TaskState.QUEUED, 9)) == [new]
        await here.submit(priority=INTERACTIVE)
        assert new.status.error_code == "QUEUE_FULL_DROP_LRU"
        refusal = await refusal_of(here, priority=BATCH)
        assert (refusal.code, refusal.policy_label) == (ErrorCode.QUEUE_FULL_DROP_LRU, "drop-lru")


# --- who listens ------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-19")
async def test_an_interactive_task_that_nobody_listens_to_is_canceled_after_the_grace_period() -> None:
    async with world(Script(ticking("a", 1, 60))) as here:
        task = await here.submit(max_tokens=60)
        with here.orchestrator.reading(task, lambda: None):
            await pass_time(20)
        await pass_time(4.9)
        assert not task.finished
        await pass_time(0.2)
        assert end_of(task.log.read(0))["finish_reason"] == "canceled"
        await settle()
        assert here.engines["p"].open == 0
        assert here.metric("tasks_canceled_total", reason="disconnect") == 1


@pytest.mark.req("HP-19")
async def test_a_reader_that_returns_within_the_grace_period_keeps_the_task() -> None:
    async with world(Script(ticking("a", 1, 60))) as here:
        task = await here.submit(max_tokens=60)
        with here.orchestrator.reading(task, lambda: None):
            await pass_time(1)
        await pass_time(3)
        with here.orchestrator.reading(task, lambda: None):
            await pass_time(30)
            assert not task.finished


@pytest.mark.req("HP-19")
async def test_the_grace_period_counts_from_the_last_reader() -> None:
    async with world(Script(ticking("a", 1, 60))) as here:
        task = await here.submit(max_tokens=60)
        for _ in range(4):
            with here.orchestrator.reading(task, lambda: None):
                await pass_time(1)
            await pass_time(3)
            assert not task.finished
        await pass_time(1.9)
        assert not task.finished
        await pass_time(0.2)
        assert task.status.state is TaskState.CANCELED


@pytest.mark.req("HP-19")
@pytest.mark.parametrize(
    "changes", [{"priority": BATCH}, {"on_disconnect": OnDisconnect.CONTINUE}], ids=["batch", "asked-for"]
)
async def test_a_task_that_is_to_continue_does(changes: dict[str, Any]) -> None:
    async with world(Script(ticking("a", 1, 30, STOPPED_WELL))) as here:
        task = await here.submit(max_tokens=30, **changes)
        with here.orchestrator.reading(task, lambda: None):
            await pass_time(1)
        assert end_of(await ended(task))["finish_reason"] == "stop"


@pytest.mark.req("HP-19")
async def test_as_long_as_one_reader_stays_nothing_happens() -> None:
    async with world(Script(ticking("a", 1, 30, STOPPED_WELL))) as here:
        task = await here.submit(max_tokens=30)
        with here.orchestrator.reading(task, lambda: None):
            with here.orchestrator.reading(task, lambda: None):
                await pass_time(1)
            assert end_of(await ended(task))["finish_reason"] == "stop"


# --- twins ------------------------------------------------------------------------------------------------------------


async def test_the_same_id_and_body_is_the_same_task() -> None:
    async with world(Script([HANG])) as here:
        task = await here.submit(task_id="mine")
        assert await here.submit(task_id="mine") is task
        assert task.id == "mine"
        here.orchestrator.cancel(task, "client")
        assert await here.submit(task_id="mine") is task
        assert here.metric("tasks_enqueued_total") == 1


async def test_the_same_id_with_another_body_is_a_conflict() -> None:
    async with world(Script([HANG])) as here:
        await here.submit(task_id="mine")
        refusal = await refusal_of(here, task_id="mine", prompt="other")
        assert refusal.code is ErrorCode.CONFLICT
        assert refusal.message == "task 'mine' exists with another body"
        assert (refusal.field, refusal.hint) == ("task_id", "use a new task_id for a new request")


async def test_twins_whose_tokens_are_counted_at_the_same_time_are_one_task() -> None:
    async with world(Script([HANG])) as here:
        engine = here.engines["p"]
        engine.counting, engine.tokens = asyncio.Event(), 10
        long = "x" * 5_000
        async with asyncio.TaskGroup() as group:
            twins = [group.create_task(here.submit(task_id="mine", prompt=long)) for _ in range(3)]
            await settle()
            engine.counting.set()
        assert len({id(twin.result()) for twin in twins}) == 1
        assert here.metric("tasks_enqueued_total") == 1


# --- the context ------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-05")
async def test_a_prompt_beyond_the_context_is_refused_with_the_numbers() -> None:
    async with world() as here:
        here.engines["p"].tokens = 5_000
        refusal = await refusal_of(here, prompt="x" * 5_000)
        assert refusal.code is ErrorCode.INVALID_PARAMS
        assert refusal.message == "the prompt has 5000 tokens and the context holds 4096"
        here.engines["p"].tokens = 4_090
        refusal = await refusal_of(here, prompt="x" * 5_000)
        assert refusal.message == "4090 prompt tokens and max_tokens 8 exceed the context of 4096"
        assert here.engines["p"].asked == []
        assert len(here.orchestrator.backlog) == 0


@pytest.mark.req("HP-05")
async def test_a_prompt_far_beyond_the_context_is_refused_by_its_beginning() -> None:
    """A tokenizer may take minutes for all of it, and the engine that gave up counting would hold its slot as long."""
    async with world() as here:
        engine = here.engines["p"]
        engine.tokens = 8_000
        refusal = await refusal_of(here, prompt="moon " * 800_000)
        assert refusal.code is ErrorCode.INVALID_PARAMS
        assert refusal.message == "the prompt has more than the 4096 tokens that the context holds"
        (counted,) = engine.counted
        assert counted < 40_000
        engine.tokens = 4_000  # so few: long words, and the whole is counted
        assert end_of(await ended(await here.submit(prompt="moonlight " * 4_000)))["finish_reason"] == "stop"
        assert engine.counted[-1] == 40_000


@pytest.mark.req("HP-05")
async def test_only_the_pools_whose_context_holds_it_may_run_it() -> None:
    settings = config(pool("large"), pool("small"))
    async with world(
        settings=settings, snapshots=lambda each: snapshot(each, ctx_max={"large": 8192, "small": 256}[each])
    ) as here:
        for engine in here.engines.values():
            engine.tokens = 1_000
        tasks = [await here.submit(prompt="x" * 5_000) for _ in range(3)]
        for task in tasks:
            assert frames_of(await ended(task))[0].data["pool_id"] == "large"


@pytest.mark.req("HP-05")
@pytest.mark.parametrize("answer", [None, EngineError(Failure.PROTOCOL, "no such route")])
async def test_where_nobody_can_count_the_engine_itself_decides(answer: EngineError | None) -> None:
    async with world(Script(headers=[EngineError(Failure.CONTEXT, "5000 tokens, 4096 fit")])) as here:
        here.engines["p"].tokens = answer
        error = error_of(await ended(await here.submit(prompt="x" * 5_000)))
        assert (error["code"], error["message"]) == ("INVALID_PARAMS", "5000 tokens, 4096 fit")


# --- pools that come and go -------------------------------------------------------------------------------------------


async def test_a_task_waits_for_a_pool_that_is_on_its_way() -> None:
    async with world(ready=False) as here:
        here.orchestrator.report(snapshot(state=PoolState.STARTING))
        task = await here.submit()
        await pass_time(60)
        assert task.state is TaskState.QUEUED
        here.orchestrator.report(snapshot(revision=2))
        assert end_of(await ended(task))["finish_reason"] == "stop"


@pytest.mark.parametrize("state", [PoolState.STOPPED, PoolState.DRAINING, PoolState.BROKEN, PoolState.QUARANTINED])
async def test_what_waits_for_a_pool_that_will_not_come_back_is_told_so(state: PoolState) -> None:
    async with world(Script([HANG])) as here:
        running, waiting = await here.submit(), await here.submit()
        error = PoolError(cause=Cause.GPU_LOST, message="the GPU fell off the bus", hint="reboot")
        here.orchestrator.report(snapshot(revision=2, state=state, last_error=error))
        told = error_of(waiting.log.read(0))
        assert (told["code"], told["retriable"]) == ("POOL_UNAVAILABLE", state is not PoolState.BROKEN)
        assert told["message"] == f"no pool is left that could run this task: pool 'p' is {state}"
        assert told.get("hint") == ("reboot" if state in FAILING else None)  # elsewhere the last error is history
        assert not running.finished
        assert (await refusal_of(here)).code is ErrorCode.POOL_UNREADY


async def test_a_task_with_another_pool_left_waits_on() -> None:
    settings = config(pool("a"), pool("b"))
    engines = {each: ScriptedAdapter(otherwise=Script([Pause(1), STOPPED_WELL])) for each in "ab"}
    async with world(settings=settings, engines=engines) as here:
        tasks = [await here.submit() for _ in range(6)]
        here.orchestrator.report(snapshot("a", PoolState.DRAINING, revision=2))
        for task in tasks:
            assert events_of(await ended(task))[-1] == "end"
        assert (len(engines["a"].asked), len(engines["b"].asked)) == (1, 5)


@pytest.mark.req("HP-08")
@pytest.mark.parametrize("away", ["stopped", "with another model"])
async def test_what_came_while_a_pool_was_away_may_run_there_when_it_is_back(away: str) -> None:
    settings = config(pool("a"), pool("b"))
    engines = {each: ScriptedAdapter(otherwise=Script([Pause(1), STOPPED_WELL])) for each in "ab"}
    async with world(settings=settings, engines=engines) as here:
        other = snapshot("a", model_ref="file:/models/n.gguf", model_id="n", model_digest="sha256:1", revision=2)
        gone = snapshot("a", PoolState.STOPPED, revision=2) if away == "stopped" else other
        here.orchestrator.report(gone)
        only_b = Placement(mode=PlacementMode.PIN, pool_id="b")
        running = await here.submit()
        pinned = await here.submit(placement=only_b)
        shy, anywhere = await here.submit(placement=Placement(avoid=("a",))), await here.submit()
        assert not running.finished
        here.orchestrator.report(snapshot("a", revision=3))
        assert frames_of(await ended(anywhere))[0].data["pool_id"] == "a"
        assert not pinned.finished
        assert [frames_of(await ended(task))[0].data["pool_id"] for task in (running, pinned, shy)] == ["b", "b", "b"]


@pytest.mark.req("HP-08")
async def test_what_came_while_a_pool_was_away_does_not_end_with_the_other_one() -> None:
    settings = config(pool("a"), pool("b"))
    engines = {each: ScriptedAdapter(otherwise=Script([Pause(1), STOPPED_WELL])) for each in "ab"}
    async with world(settings=settings, engines=engines) as here:
        here.orchestrator.report(snapshot("a", PoolState.STOPPED, revision=2))
        running, waiting = await here.submit(), await here.submit()
        here.orchestrator.report(snapshot("a", PoolState.STARTING, revision=3))
        here.orchestrator.report(snapshot("b", PoolState.DRAINING, revision=2))
        assert not waiting.finished
        here.orchestrator.report(snapshot("a", revision=4))
        assert frames_of(await ended(waiting))[0].data["pool_id"] == "a"
        await ended(running)


async def test_a_task_never_runs_on_a_model_that_it_did_not_ask_for() -> None:
    """The pool was reloaded with another model while the task waited."""
    settings = config(pool("a"), pool("b"))
    engines = {each: ScriptedAdapter(otherwise=Script([Pause(1), STOPPED_WELL])) for each in "ab"}
    async with world(settings=settings, engines=engines) as here:
        pinned = Placement(mode=PlacementMode.PIN, pool_id="a")
        running = [await here.submit(), await here.submit()]
        anywhere, only_a = await here.submit(), await here.submit(placement=pinned)
        other = snapshot("a", model_ref="file:/models/n.gguf", model_id="n", model_digest="sha256:1")
        here.orchestrator.report(msgspec.structs.replace(other, revision=2, endpoint=Endpoint(url="http://a2")))
        told = error_of(only_a.log.read(0))
        assert told["code"] == "MODEL_UNAVAILABLE"
        assert told["message"] == "pool 'a' serves 'file:/models/n.gguf' now, and no other pool may run this task"
        assert frames_of(await ended(anywhere))[0].data["pool_id"] == "b"
        assert [events_of(await ended(task))[-1] for task in running] == ["end", "end"]
        assert frames_of(await ended(await here.submit(model_ref="n")))[0].data["pool_id"] == "a"


async def test_a_pool_that_goes_while_tokens_are_counted_gets_no_task() -> None:
    async with world() as here:
        engine = here.engines["p"]
        engine.counting, engine.tokens = asyncio.Event(), 10
        async with asyncio.TaskGroup() as group:
            late = group.create_task(refusal_of(here, prompt="x" * 5_000))
            await settle()
            here.orchestrator.report(snapshot(revision=2, state=PoolState.DRAINING))
            engine.counting.set()
        assert late.result().code is ErrorCode.POOL_UNREADY
        assert len(here.orchestrator.backlog) == 0


async def test_a_report_of_an_unknown_pool_is_said_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as here:
        here.orchestrator.report(snapshot("stranger"))
        assert "pool 'stranger', which this configuration does not have" in caplog.text
        assert end_of(await ended(await here.submit()))["finish_reason"] == "stop"


async def test_before_any_report_it_is_the_managers_absence_that_is_told() -> None:
    async with world(ready=False) as here:
        refusal = await refusal_of(here)
        assert refusal.code is ErrorCode.POOL_UNAVAILABLE
        assert refusal.message == "pool-managerd has not reported any pool yet"
        assert refusal.hint == "is pool-managerd running? systemctl --user status pool-managerd"


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-10")
async def test_a_waiting_task_is_told_when_its_place_changes_and_only_then() -> None:
    async with world(engines={"p": ScriptedAdapter(otherwise=Script([Pause(2), STOPPED_WELL]))}) as here:
        tasks = [await here.submit() for _ in range(4)]
        with here.orchestrator.reading(tasks[3], lambda: None):
            stream = await ended(tasks[3])
        frames = frames_of(stream)
        told = [frame.data for frame in frames if frame.event == "metrics"]
        assert [frame.event for frame in frames] == ["metrics"] * len(told) + ["started", "end"]
        places = [(each["queue_position"], each["queue_depth"]) for each in told]
        assert sorted(set(places), reverse=True) == [(2, 3), (1, 2), (0, 1)]
        assert len(told) <= 6  # nothing but its place and notable news of its start
        assert all(each["predicted_start_low_ms"] <= each["predicted_start_ms"] for each in told)
        assert "on_time_probability" not in told[0]
        assert tasks[3].accepted.queue_position == 2
        assert frames[-2].data["queue_position"] == 2


async def test_a_task_that_nobody_reads_is_found_at_its_place_and_told_nothing() -> None:
    async with world(engines={"p": ScriptedAdapter(otherwise=Script([Pause(2), STOPPED_WELL]))}) as here:
        tasks = [await here.submit() for _ in range(4)]
        await pass_time(3)
        assert here.orchestrator.get(tasks[3].id).status.queue_position == 1
        queued = finished(here.orchestrator.select(TaskState.QUEUED, 9))
        assert {task.status.queue_position for task in queued} == {0, 1}
        assert [frame.event for frame in frames_of(await ended(tasks[3]))] == ["started", "end"]


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-08")
async def test_when_the_daemon_stops_every_task_gets_its_terminal_event() -> None:
    settings = config(pool(queue=Queue(capacity=50)))
    async with world(settings=settings, engines={"p": ScriptedAdapter(otherwise=Script(["a", HANG]))}, slots=2) as here:
        tasks = [await here.submit() for _ in range(5)]
        await settle()
        here.stopping.set()
        streams = [await ended(task) for task in tasks]
        for stream in streams:
            error = error_of(stream)
            assert (error["code"], error["message"]) == ("POOL_UNAVAILABLE", "orchestratord is stopping")
            assert error["retriable"]
        await settle()
        assert here.engines["p"].open == 0
        assert (await refusal_of(here)).message == "orchestratord is stopping"


@pytest.mark.req("HP-08")
async def test_a_task_whose_tokens_are_counted_when_the_daemon_stops_is_refused() -> None:
    async with world() as here:
        engine = here.engines["p"]
        engine.counting, engine.tokens = asyncio.Event(), 10
        async with asyncio.TaskGroup() as group:
            late = group.create_task(refusal_of(here, prompt="x" * 5_000))
            await settle()
            here.stopping.set()
            await settle()
            engine.counting.set()
        assert late.result().message == "orchestratord is stopping"
        assert finished(here.orchestrator.select(None, 9)) == []


async def test_a_stop_does_not_wait_for_an_engine_to_come_back() -> None:
    loop = asyncio.get_running_loop()
    async with world(Script([EngineError(Failure.BROKEN, "gone")])) as here:
        here.engines["p"].healths = [Health.DOWN] * 1000
        await ended(await here.submit())
        await pass_time(5)
        asked = loop.time()
    assert loop.time() - asked < 0.01


async def test_what_comes_before_the_start_waits_for_it() -> None:
    here = World(config(), {"p": ScriptedAdapter()})
    here.orchestrator.report(snapshot())
    task = await here.submit()
    await settle()
    assert task.state is TaskState.QUEUED
    async with asyncio.TaskGroup() as group:
        group.create_task(here.orchestrator.run(here.stopping))
        assert end_of(await ended(task))["finish_reason"] == "stop"
        here.stopping.set()


async def test_nothing_starts_after_the_stop() -> None:
    async with world(engines={"p": ScriptedAdapter(otherwise=Script([Pause(1), STOPPED_WELL]))}) as here:
        tasks = [await here.submit() for _ in range(3)]
        await pass_time(0.5)
        here.stopping.set()
        await pass_time(5)
        assert all(task.finished for task in tasks)
        assert len(here.engines["p"].asked) == 1


# --- the books --------------------------------------------------------------------------------------------------------


async def test_what_is_counted() -> None:
    async with world(Script(["a", "b", Finished(reason=FinishReason.STOP, tokens_in=3, tokens_out=9)])) as here:
        await ended(await here.submit())
        await settle()
        where = {"engine": "llamacpp", "engine_version": "b1", "pool_id": "p", "replica_id": "p-0"}
        assert here.metric("tasks_enqueued_total", priority="interactive", **where) == 1
        assert here.metric("tasks_started_total", priority="interactive", **where) == 1
        assert here.metric("tokens_in_total", **where) == 3
        assert here.metric("tokens_out_total", **where) == 9
        assert here.metric("latency_first_token_ms_count", pool_id="p") == 1
        assert here.metric("latency_decode_ms_count", pool_id="p") == 1
        assert here.metric("placement_decisions_total", outcome="placed", pinned="false") == 1


@pytest.mark.req("HP-03")
async def test_predictions_are_measured() -> None:
    async with world(engines={"p": ScriptedAdapter(otherwise=Script([Pause(1), STOPPED_WELL]))}) as here:
        for _ in range(10):
            await ended(await here.submit())
        await settle()
        tasks = [await here.submit() for _ in range(4)]
        for task in tasks:
            await ended(task)
        predicted = [task.accepted.predicted_start_ms for task in tasks]
        assert predicted == pytest.approx([0, 1000, 2000, 3000], rel=0.1)
        assert here.metric("prediction_error_ms", pool_id="p", quantile="0.9") < 200


async def test_only_complete_answers_say_what_a_task_takes() -> None:
    second = Script([Pause(1), STOPPED_WELL])
    async with world(*[second] * 8, *[Script([HANG])] * 9) as here:
        for _ in range(8):
            await ended(await here.submit())
        for _ in range(8):
            cut_short = await here.submit()
            await pass_time(0.1)
            here.orchestrator.cancel(cut_short, "client")
            await settle()
        await here.submit()
        assert (await here.submit()).accepted.predicted_start_ms == pytest.approx(1_000, rel=0.1)


async def test_restarts_are_counted_by_cause() -> None:
    async with world() as here:
        error = PoolError(cause=Cause.ENGINE_EXIT, message="exited with status 1")
        here.orchestrator.report(snapshot(revision=2, state=PoolState.BACKOFF, restarts=0, last_error=error))
        here.orchestrator.report(snapshot(revision=3, restarts=2, last_error=error))
        here.orchestrator.report(snapshot(revision=4, restarts=2))
        assert here.metric("engine_restarts_total", pool_id="p", cause="engine_exit") == 2


@pytest.mark.req("HP-25", "ORCH-3811", "HP-22")
async def test_admission_is_logged_with_identity_place_and_prediction(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world(Script([HANG])) as here:
        await here.submit()
        task = await here.submit()
        record = next(each for each in caplog.records if f"task {task.id} admitted" in each.message)
        predicted = task.accepted.predicted_start_ms
        assert record.message == f"task {task.id} admitted at position 0, start predicted in {predicted} ms"
        assert {
            name: getattr(record, name)
            for name in (
                "task_id",
                "correlation_id",
                "identity",
                "priority",
                "engine",
                "engine_version",
                "pool_id",
                "replica_id",
                "queue_position",
                "predicted_start_ms",
            )
        } == {
            "task_id": task.id,
            "correlation_id": "corr-1",
            "identity": "localhost",
            "priority": "interactive",
            "engine": "llamacpp",
            "engine_version": "b1",
            "pool_id": "p",
            "replica_id": "p-0",
            "queue_position": 0,
            "predicted_start_ms": predicted,
        }


@pytest.mark.req("ORCH-3811", "HP-22")
async def test_a_refusal_is_logged_with_who_was_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world() as here:
        await refusal_of(here, model_ref="other")
        record = next(each for each in caplog.records if each.message.startswith("task refused"))
        assert record.message == "task refused: no pool serves the model 'other'"
        fields = {name: getattr(record, name) for name in ("code", "correlation_id", "identity")}
        assert fields == {"code": "MODEL_UNAVAILABLE", "correlation_id": "corr-1", "identity": "localhost"}
        assert here.metric("tasks_rejected_total", reason="MODEL_UNAVAILABLE") == 1


async def test_a_task_that_is_unknown_is_told_so() -> None:
    async with world() as here:
        with pytest.raises(ApiError) as caught:
            here.orchestrator.get("nobody")
        assert caught.value.refusal.code is ErrorCode.NOT_FOUND
        assert caught.value.refusal.message == "there is no task 'nobody'"


async def test_an_engine_that_counts_below_nothing_harms_nobody() -> None:
    odd = Finished(reason=FinishReason.STOP, tokens_in=-1, tokens_out=-5, decode_ms=-0.5)
    async with world(Script(["a", odd])) as here:
        end = end_of(await ended(await here.submit()))
        assert (end["tokens_in"], end["tokens_out"], end["decode_time_ms"] >= 0) == (0, 0, True)
        assert end_of(await ended(await here.submit()))["finish_reason"] == "stop"


# --- a disk that an admission waits for ---


async def test_a_disk_that_fails_undoes_an_admission_and_nothing_that_was_told_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails() -> None:
        raise api_error(ErrorCode.POOL_UNAVAILABLE, "the disk does not take it")

    async with world(Script(body=(HANG,))) as here:
        before = await here.submit(task_id="before")
        monkeypatch.setattr(here.keeper, "admitted", fails)
        for task_id in ("before", "new"):
            with pytest.raises(ApiError):
                await here.orchestrator.submit(request(task_id=task_id), Caller("corr-2", "localhost"))
        assert not before.finished
        assert here.orchestrator.get("new").state is TaskState.CANCELED


async def test_who_goes_before_the_disk_has_taken_it_has_the_grace_of_any_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world(Script(body=(HANG,)), settings=config(disconnect_grace_ms=1_000)) as here:
        monkeypatch.setattr(here.keeper, "admitted", asyncio.Event().wait)
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(here.submit(task_id="t"))
            await settle()
            asking.cancel()
        await pass_time(0.9)
        assert not here.orchestrator.get("t").finished
        await pass_time(0.2)
        assert here.orchestrator.get("t").state is TaskState.CANCELED


@pytest.mark.req("HP-11")
@pytest.mark.parametrize(("counted", "told"), [(300, 300), (None, 0)])
async def test_a_cancelled_task_tells_the_tokens_of_its_prompt_where_they_were_counted(
    counted: int | None, told: int
) -> None:
    engine = ScriptedAdapter(Script(["a", HANG]))
    engine.tokens = counted
    async with world(engines={"p": engine}, snapshots=lambda each: snapshot(each, ctx_max=400)) as here:
        running, waiting = [await here.submit(prompt="hello " * 200) for _ in range(2)]
        await pass_time(1)
        for task in (running, waiting):
            here.orchestrator.cancel(task, "client")
        assert end_of(running.log.read(0))["tokens_in"] == told
        assert end_of(waiting.log.read(0))["tokens_in"] == 0  # no engine was given it

"""What a whole orchestrator foretells of tasks that wait, what it says of them, and which it ends."""

import asyncio
from typing import Any

import pytest

from adapters.base import EngineError, Failure, Finished
from contracts.config import Config, FullPolicy, Limits, Queue, Timeouts
from contracts.errors import ErrorCode
from contracts.events import FinishReason
from contracts.pools import PoolState
from contracts.tasks import Priority, TaskForecast, TaskState, Workload
from daemon_core.steps import finished
from orchestratord.admission import Refusal
from orchestratord.errors import ApiError
from orchestratord.prediction import Forecast
from tests.support.virtual_loop import pass_time, settle
from tests.unit.orchestratord.frames import Frame, frames_of
from tests.unit.orchestratord.world import (
    CALLER,
    HANG,
    SERVES,
    STOPPED_WELL,
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


def steady(seconds: float, tokens: int = 2) -> ScriptedAdapter:
    """An engine on which every task takes as long, and which is never silent up to the pool's idle limit."""
    finished = Finished(reason=FinishReason.STOP, tokens_in=5, tokens_out=tokens)
    return ScriptedAdapter(otherwise=Script([Pause(0.6 * seconds), "a", Pause(0.4 * seconds), "b", finished]))


async def experienced(here: World, runs: int = 10) -> None:
    for _ in range(runs):
        await ended(await here.submit())
    await settle()


async def forecast(here: World, **changes: Any) -> TaskForecast:  # noqa: ANN401 - any field of the request
    return await here.orchestrator.foretell(request(**changes), CALLER)


async def refusal_of(here: World, **changes: Any) -> Refusal:  # noqa: ANN401 - any field of the request
    with pytest.raises(ApiError) as caught:
        await here.submit(**changes)
    return caught.value.refusal


def metrics_of(stream: bytes) -> list[dict[str, Any]]:
    return [frame.data for frame in frames_of(stream) if frame.event == "metrics"]


def last_of(stream: bytes) -> Frame:
    return frames_of(stream)[-1]


# --- when tasks end ---------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-03")
async def test_the_first_end_of_some_tasks_is_foretold_wherever_they_stand() -> None:
    async with world(engines={"p": steady(10)}) as here:
        await experienced(here)
        outlook = here.orchestrator.outlook
        running, *waiting = [await here.submit() for _ in range(3)]
        await settle()
        assert outlook.first_end_ms([running, *waiting]) == pytest.approx(10_000, rel=0.1)
        assert outlook.first_end_ms(reversed(waiting)) == pytest.approx(20_000, rel=0.1)
        await pass_time(4)
        assert outlook.first_end_ms([running, *waiting]) == pytest.approx(6_000, rel=0.1)
        here.orchestrator.cancel(waiting[1], "client")
        assert outlook.first_end_ms([running, *waiting]) == 0
        assert outlook.first_end_ms([]) == 0


# --- forecasts --------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-03")
async def test_a_forecast_is_what_a_task_is_then_told() -> None:
    async with world(engines={"p": steady(1)}) as here:
        await experienced(here)
        for _ in range(4):
            await here.submit()
        before = await forecast(here, deadline_ms=60_000)
        task = await here.submit(deadline_ms=60_000)
        told = task.accepted
        assert (before.queue_position, before.predicted_start_ms) == (told.queue_position, told.predicted_start_ms)
        assert before.predicted_start_low_ms == told.predicted_start_low_ms
        assert before.predicted_start_high_ms == told.predicted_start_high_ms
        assert before.on_time_probability == told.on_time_probability == 1.0
        assert before.predicted_start_low_ms <= 4_000 <= before.predicted_start_high_ms
        assert before.predicted_end_ms == pytest.approx(5_000, rel=0.1)
        assert (before.pool_id, before.replica_id, before.eligible_pools) == ("p", "p-0", ("p",))
        assert (before.new_tokens, before.evicts) == (2, None)


async def test_a_forecast_leaves_nothing_behind() -> None:
    settings = Config(pools=(pool(),), limits=Limits(requests_per_minute=2))
    async with world(engines={"p": steady(1)}, settings=settings) as here:
        for _ in range(20):
            await forecast(here, task_id="mine")
        assert len(here.orchestrator.backlog) == 0
        assert finished(here.orchestrator.select(None, 9)) == []
        assert here.metric("tasks_enqueued_total") == 0
        await here.submit(task_id="mine")
        await here.submit()
        with pytest.raises(ApiError):
            await forecast(here)
        assert here.metric("tasks_rejected_total") == 0


@pytest.mark.req("HP-05")
@pytest.mark.parametrize(("counted", "expected"), [(123, (123, True)), (None, (25, False))])
async def test_a_forecast_says_whether_the_prompt_was_counted(counted: int | None, expected: tuple[int, bool]) -> None:
    engine = ScriptedAdapter()
    engine.tokens = counted
    async with world(engines={"p": engine}) as here:
        found = await forecast(here, prompt="a" * 100)
        assert (found.prompt_tokens, found.prompt_tokens_counted) == expected


async def test_of_several_inputs_one_alone_is_counted_and_all_are_estimated() -> None:
    engine = ScriptedAdapter()
    engine.tokens = 3
    engine.says = type(SERVES)(workloads=(Workload.EMBEDDING,))
    async with world(engines={"p": engine}) as here:
        found = await forecast(
            here, workload=Workload.EMBEDDING, prompt=None, inputs=("a" * 100, "b" * 60), max_tokens=None
        )
        assert (found.prompt_tokens, found.prompt_tokens_counted, found.new_tokens) == (40, False, 0)


async def test_an_engine_that_cannot_count_now_is_no_reason_to_refuse() -> None:
    engine = ScriptedAdapter()
    engine.tokens = EngineError(Failure.BROKEN, "busy")
    async with world(engines={"p": engine}) as here:
        assert not (await forecast(here)).prompt_tokens_counted


@pytest.mark.req("HP-02")
async def test_a_forecast_names_the_task_that_would_have_to_give_way() -> None:
    settings = config(pool(queue=Queue(capacity=1, full_policy=FullPolicy.DROP_LRU)))
    async with world(Script([HANG]), settings=settings) as here:
        await here.submit()
        waiting = await here.submit(priority=BATCH)
        found = await forecast(here)
        assert (found.evicts, found.queue_position) == (waiting.id, 0)
        assert waiting.state is TaskState.QUEUED


async def test_the_very_refusal_that_a_task_would_get() -> None:
    settings = config(pool(queue=Queue(capacity=1)))
    async with world(Script([HANG]), settings=settings) as here:
        await here.submit()
        await here.submit()
        with pytest.raises(ApiError) as caught:
            await forecast(here)
        assert caught.value.refusal == await refusal_of(here)


async def test_a_known_task_id_with_another_body_is_a_conflict() -> None:
    async with world() as here:
        await here.submit(task_id="mine")
        with pytest.raises(ApiError) as caught:
            await forecast(here, task_id="mine", prompt="another")
        assert caught.value.refusal.code is ErrorCode.CONFLICT


async def test_batch_is_foretold_to_wait_for_the_interactive_tasks_that_keep_coming() -> None:
    async with world(engines={"p": steady(1)}) as here:
        for _ in range(40):  # half of the time
            await here.submit()
            await pass_time(2)
        await here.submit()
        for _ in range(5):
            await here.submit(priority=BATCH)
        assert (await forecast(here, priority=BATCH)).predicted_start_ms == pytest.approx(12_000, rel=0.25)
        assert (await forecast(here)).predicted_start_ms == pytest.approx(1_000, rel=0.2)


async def test_twenty_ahead_or_a_thousand_the_forecast_goes_on_where_it_was() -> None:
    settings = config(pool(queue=Queue(capacity=10_000)))
    async with world(engines={"p": steady(1)}, settings=settings) as here:
        await experienced(here, 60)
        starts = {}
        for number in range(1_001):
            task = await here.submit()
            if number in {5, 20, 21, 22, 100, 1_000}:
                starts[number] = task.accepted.predicted_start_ms
        for number, start in starts.items():
            assert start == pytest.approx(1_000 * number, rel=0.05)


async def test_what_a_run_has_done_already_is_taken_off() -> None:
    async with world(engines={"p": steady(10)}) as here:
        await experienced(here)
        await here.submit()
        first = (await forecast(here)).predicted_start_ms
        await pass_time(8)
        then = (await forecast(here)).predicted_start_ms
        assert first == pytest.approx(10_000, rel=0.1)
        assert then == pytest.approx(2_000, abs=3_500)
        assert then < first / 1.5


@pytest.mark.req("HP-03", "HP-15")
@pytest.mark.parametrize("slots", [1, 3])
async def test_a_turn_waits_for_all_the_turns_before_it(slots: int) -> None:
    async with world(engines={"p": steady(10)}, slots=slots) as here:
        await experienced(here, 30)
        turns = [await here.submit(session_id="s") for _ in range(4)]
        starts = [turn.accepted.predicted_start_ms for turn in turns]
        assert starts == pytest.approx([0, 10_000, 20_000, 30_000], rel=0.1)
        last = turns[-1]
        assert here.orchestrator.outlook.of_waiting(last.id).start_ms == pytest.approx(30_000, rel=0.1)
        here.orchestrator.cancel(last, "client")
        assert (await forecast(here, session_id="s")).predicted_start_ms == pytest.approx(30_000, rel=0.1)


@pytest.mark.req("HP-15")
async def test_a_turn_waits_for_one_that_waits_itself() -> None:
    async with world(engines={"p": steady(10)}) as here:
        await experienced(here, 30)
        for _ in range(2):
            await here.submit()
        for start in (20_000, 30_000, 40_000):
            task = await here.submit(session_id="s")
            assert task.accepted.predicted_start_ms == pytest.approx(start, rel=0.1)


async def test_another_model_in_the_pool_is_measured_anew() -> None:
    async with world(engines={"p": steady(10)}) as here:
        await experienced(here)
        here.engines["p"].otherwise = steady(1).otherwise
        here.orchestrator.report(snapshot(revision=2, restarts=1, model_digest="sha256:9"))
        await settle()
        await experienced(here, 8)
        await here.submit()
        assert (await forecast(here)).predicted_start_ms < 4_000


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-03", "HP-14")
async def test_a_waiting_task_is_ended_when_its_deadline_has_become_impossible() -> None:
    engine = steady(1)
    async with world(engines={"p": engine}) as here:
        await experienced(here)
        engine.scripts = [Script(ticking("a", 0.5, 60))]
        await here.submit(max_tokens=60)
        task = await here.submit(deadline_ms=8_000)
        assert (task.accepted.on_time_probability or 0) > 0.9
        before = asyncio.get_running_loop().time()
        error = last_of(await ended(task)).data
        took = asyncio.get_running_loop().time() - before
        assert took < 7.9
        assert error["code"] == "ADMISSION_REJECT"
        assert error["message"].startswith("the deadline of 8000 ms cannot be met any more: the answer would come ")
        assert error["retriable"] is True
        assert error["retry_after_ms"] > 0
        assert here.metric("tasks_rejected_total", reason="ADMISSION_REJECT") == 1


@pytest.mark.req("HP-14")
async def test_who_listens_is_told_the_chance_to_be_in_time_and_only_when_it_changes() -> None:
    engine = steady(1)
    async with world(engines={"p": engine}) as here:
        await experienced(here)
        engine.scripts = [Script([Pause(0.5), "a", Pause(7), STOPPED_WELL])]
        await here.submit()
        await here.submit()
        task = await here.submit(deadline_ms=10_000)
        with here.orchestrator.reading(task, lambda: None):
            told = metrics_of(await ended(task))
        assert all(0 <= each["on_time_probability"] <= 1 for each in told)
        assert told[0]["on_time_probability"] > 0.9
        assert told[0]["queue_position"] == 1
        assert 2 <= len(told) <= 14


async def test_a_task_that_nobody_reads_is_told_nothing_and_still_ended() -> None:
    engine = steady(1)
    async with world(engines={"p": engine}) as here:
        await experienced(here)
        engine.scripts = [Script(ticking("a", 0.5, 60))]
        await here.submit(max_tokens=60)
        task = await here.submit(deadline_ms=8_000)
        await pass_time(8)
        assert [frame.event for frame in frames_of(task.log.read(0))] == ["error"]


# --- pools that do not serve ------------------------------------------------------------------------------------------


async def test_a_mistake_of_ours_about_one_that_waits_ends_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(engines={"p": steady(2)}) as here:
        foretell, wrong = here.orchestrator.outlook.of_waiting, [True]

        def mistaken(task_id: str) -> Forecast:
            if wrong and wrong.pop():
                raise ZeroDivisionError
            return foretell(task_id)

        monkeypatch.setattr(here.orchestrator.outlook, "of_waiting", mistaken)
        _, waiting = [await here.submit(deadline_ms=60_000) for _ in range(2)]
        stream = await ended(waiting)
    assert last_of(stream).event == "end"
    assert "waiting tasks could not be looked after" in caplog.text
    assert not wrong


def impatient(**changes: Any) -> Config:  # noqa: ANN401 - any field of the pool
    return config(pool(timeouts=Timeouts(start_ms=20_000), **changes))


@pytest.mark.parametrize("state", [PoolState.STARTING, PoolState.BACKOFF, PoolState.READY])
async def test_nobody_waits_longer_for_a_pool_than_an_engine_may_take_to_start(state: PoolState) -> None:
    engine = ScriptedAdapter()
    engine.says = EngineError(Failure.REFUSED, "nobody is there")
    async with world(engines={"p": engine}, settings=impatient(), ready=False) as here:
        here.orchestrator.report(snapshot(state=state))
        await pass_time(5)
        begun = asyncio.get_running_loop().time()
        task = await here.submit()
        entered = asyncio.get_running_loop().time()
        error = last_of(await ended(task)).data
        assert asyncio.get_running_loop().time() - entered == pytest.approx(20, abs=0.6)
        assert (error["code"], error["retriable"]) == ("POOL_UNREADY", True)
        how = "ready and does not answer" if state is PoolState.READY else state
        assert error["message"] == f"no pool has served this task for 20000 ms: 'p' is {how}"
        assert entered - begun < 3


async def test_a_pool_that_comes_back_in_time_serves_what_waits() -> None:
    async with world(settings=impatient(), ready=False) as here:
        here.orchestrator.report(snapshot(state=PoolState.STARTING))
        task = await here.submit()
        await pass_time(19)
        here.orchestrator.report(snapshot(revision=2))
        assert last_of(await ended(task)).event == "end"


async def test_the_time_counts_from_the_last_pool_that_went() -> None:
    settings = config(
        pool("p", timeouts=Timeouts(start_ms=20_000, wall_ms=10**8, idle_ms=10**8)),
        pool("q", timeouts=Timeouts(start_ms=5_000, wall_ms=10**8, idle_ms=10**8)),
    )
    engines = {each: ScriptedAdapter(otherwise=Script([HANG])) for each in "pq"}
    async with world(settings=settings, engines=engines) as here:
        for _ in range(2):
            await here.submit()
        task = await here.submit()
        here.orchestrator.report(snapshot("p", PoolState.BACKOFF, revision=2))
        await pass_time(30)
        assert task.state is TaskState.QUEUED
        here.orchestrator.report(snapshot("q", PoolState.BACKOFF, revision=2))
        begun = asyncio.get_running_loop().time()
        assert last_of(await ended(task)).data["code"] == "POOL_UNREADY"
        assert asyncio.get_running_loop().time() - begun == pytest.approx(20, abs=1.1)


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-04", "HP-16")
async def test_a_client_is_held_to_its_rate_and_told_when_to_come_again() -> None:
    settings = Config(pools=(pool(),), limits=Limits(requests_per_minute=2))
    async with world(settings=settings) as here:
        known = await here.submit(task_id="mine")
        await here.submit()
        refusal = await refusal_of(here)
        assert (refusal.code, refusal.policy_label) == (ErrorCode.ADMISSION_REJECT, "requests_per_minute")
        assert refusal.retry_after_ms == 30_000
        assert here.metric("admission_backpressure_events_total", policy="requests_per_minute") == 1
        assert await here.submit(task_id="mine") is known  # asks for nothing new
        await pass_time(30)
        await here.submit()


@pytest.mark.req("HP-16")
async def test_new_tokens_that_were_not_made_are_given_back() -> None:
    settings = Config(pools=(pool(),), limits=Limits(tokens_per_minute=1_000))
    async with world(settings=settings) as here:
        task = await here.submit(max_tokens=990)
        assert (await refusal_of(here, max_tokens=100)).policy_label == "tokens_per_minute"
        await ended(task)  # it read 3 and made 2
        await here.submit(max_tokens=900)


async def test_a_task_that_never_ran_has_used_nothing() -> None:
    settings = Config(pools=(pool(),), limits=Limits(tokens_per_minute=1_000))
    async with world(Script([HANG]), settings=settings) as here:
        await here.submit(max_tokens=100)
        waiting = await here.submit(max_tokens=800)
        await refusal_of(here, max_tokens=800)
        here.orchestrator.cancel(waiting, "client")
        await here.submit(max_tokens=800)


async def test_a_refused_task_is_not_counted() -> None:
    settings = Config(pools=(pool(queue=Queue(capacity=1)),), limits=Limits(requests_per_minute=3))
    async with world(Script([HANG]), settings=settings) as here:
        first = await here.submit()
        await here.submit()
        for _ in range(5):
            assert (await refusal_of(here)).policy_label == "reject"
        here.orchestrator.cancel(first, "client")
        await settle()
        await here.submit()
        assert (await refusal_of(here)).policy_label == "reject"

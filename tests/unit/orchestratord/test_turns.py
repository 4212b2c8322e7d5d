"""Sessions in a whole orchestrator: where turns run, what they use up, and what is left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from adapters.base import EngineError, Failure, Finished
from contracts.config import Config, Engine, Mode, Sessions
from contracts.errors import ErrorCode
from contracts.events import FinishReason
from contracts.pools import PoolState
from contracts.sessions import SessionBudgets
from contracts.tasks import Determinism, KvHint, Placement, PlacementMode, Priority, TaskState, Workload
from orchestratord.errors import ApiError
from orchestratord.task import Task
from tests.plugins.failures import OperatorSees
from tests.support.virtual_loop import pass_time, settle
from tests.unit.orchestratord.frames import frames_of
from tests.unit.orchestratord.test_retry import Told
from tests.unit.orchestratord.world import (
    CALLER,
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
    world,
)


def settings(*pool_ids: str, **sessions: Any) -> Config:  # noqa: ANN401 - any field of the sessions
    """A configuration with these limits of sessions."""
    made = config(*(pool(each) for each in pool_ids or ("p",)))
    return msgspec.structs.replace(made, sessions=Sessions(**sessions))


def finished(prompt: int, cached: int | None, out: int = 2) -> Finished:
    return Finished(reason=FinishReason.STOP, tokens_in=prompt, tokens_out=out, cached_tokens=cached)


def turn(prompt: int, cached: int | None, *before: Any) -> Script:  # noqa: ANN401 - any step of a script
    """A turn that reads so many tokens, of which so many were in the cache."""
    return Script([*before, "Hel", "lo", finished(prompt, cached)])


async def answer(here: World, session: str | None = "s", **changes: Any) -> list[Any]:  # noqa: ANN401 - any field
    """The frames of a task that is submitted and read to its end."""
    return frames_of(await ended(await here.submit(session_id=session, **changes)))


def told(frames: list[Any], event: str) -> list[dict[str, Any]]:
    return [frame.data for frame in frames if frame.event == event]


def slots(here: World, pool_id: str = "p") -> list[int | None]:
    """The slots that were asked for, one generation after the other."""
    return [each.slot for each in here.engines[pool_id].asked]


async def refused(here: World, **changes: Any) -> ApiError:  # noqa: ANN401 - any field of the request
    with pytest.raises(ApiError) as caught:
        await here.submit(**({"session_id": "s"} | changes))
    return caught.value


# --- warm and cold ----------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-07")
@pytest.mark.req("HP-14")
async def test_a_turn_gets_the_slot_of_its_session_and_says_what_the_engine_reused() -> None:
    async with world(turn(20, 0), turn(9, 0), turn(24, 21), turn(9, 0), turn(30, 1), slots=2) as here:
        first = await answer(here)
        await answer(here, None)
        second = await answer(here)
        await answer(here, None)
        third = await answer(here)
    assert slots(here) == [0, 1, 0, 1, 0]
    assert [told(each, "started")[0]["kv_warmth"] for each in (first, second, third)] == [False, True, True]
    assert told(first, "metrics") == told(second, "metrics") == []  # it was as it was said
    assert told(third, "metrics") == [{"kv_warmth": False}]
    assert [frame.event for frame in third[-2:]] == ["metrics", "end"]


@pytest.mark.req("HP-07")
async def test_the_engine_may_know_better_than_we_do() -> None:
    """One slot, and a stranger in between: cold is expected, but the engine had kept the cache elsewhere."""
    async with world(turn(20, 0), turn(9, 0), turn(24, 21)) as here:
        await answer(here)
        await answer(here, None)
        third = await answer(here)
        assert here.orchestrator.turns.info("s").kv_warmth
    assert told(third, "started")[0]["kv_warmth"] is False
    assert told(third, "metrics") == [{"kv_warmth": True}]


@pytest.mark.req("HP-07")
async def test_a_stranger_in_the_only_slot_makes_a_session_cold() -> None:
    gate = asyncio.Event()
    async with world(turn(20, 0), turn(9, 0), turn(24, 1, Hold(gate))) as here:
        await answer(here)
        await answer(here, None)
        seen = here.orchestrator.turns.info("s")
        assert (seen.kv_tokens, seen.kv_bytes, seen.replica_id) == (0, 0, None)
        task = await here.submit(session_id="s")
        await settle()
        assert here.orchestrator.turns.info("s").replica_id is None  # it is being computed again
        gate.set()
        third = frames_of(await ended(task))
    assert told(third, "started")[0]["kv_warmth"] is False
    assert told(third, "metrics") == []


@pytest.mark.req("HP-07")
async def test_a_dry_run_tells_whether_a_turn_would_be_warm_and_is_none() -> None:
    async with world(turn(20, 0), settings=settings(max_turns=2)) as here:

        async def foretold(**changes: Any) -> bool:  # noqa: ANN401 - any field of the request
            return (await here.orchestrator.foretell(request(**changes), CALLER)).kv_warmth

        assert await foretold(session_id="s") is False
        await answer(here)
        assert await foretold(session_id="s") is True
        assert await foretold(session_id="s", kv_hint=KvHint.COLD) is False
        assert await foretold() is False
        assert here.orchestrator.turns.info("s").turns == 1
        await answer(here)
        with pytest.raises(ApiError, match="has had 2 of 2 turns"):
            await foretold(session_id="s")


@pytest.mark.req("HP-07")
async def test_another_start_of_the_engine_has_nothing() -> None:
    async with world(turn(20, 0), turn(24, 0)) as here:
        await answer(here)
        assert here.orchestrator.turns.info("s").replica_id == "p-0"
        here.orchestrator.report(snapshot(restarts=1))
        await settle()
        seen = here.orchestrator.turns.info("s")
        assert (seen.kv_tokens, seen.replica_id, seen.turns) == (0, None, 1)
        assert told(await answer(here), "started")[0]["kv_warmth"] is False


@pytest.mark.req("HP-12")
@pytest.mark.parametrize("changes", [{"determinism": Determinism.STRICT}, {"kv_hint": KvHint.COLD}])
async def test_a_turn_that_may_use_no_cache_is_cold_and_the_next_one_is_not(changes: dict[str, Any]) -> None:
    async with world(turn(20, 0), turn(24, 0), turn(28, 25)) as here:
        await answer(here)
        cold, warm = await answer(here, **changes), await answer(here)
    assert [each.cache_prompt for each in here.engines["p"].asked] == [True, False, True]
    assert [told(each, "started")[0]["kv_warmth"] for each in (cold, warm)] == [False, True]
    assert told(cold, "metrics") == told(warm, "metrics") == []


@pytest.mark.req("HP-07")
@pytest.mark.parametrize(
    "changes", [{"provisioning_mode": Mode.EXTERNAL}, {"engine": Engine.VLLM}, {"engine": Engine.TGI}]
)
async def test_where_slots_are_the_engines_own_business_its_count_is_all_there_is(changes: dict[str, Any]) -> None:
    scripts = (turn(20, 0), turn(24, 20), turn(28, 24), turn(32, None))
    async with world(*scripts, slots=2, snapshots=lambda each: snapshot(each, slots=2, **changes)) as here:
        answers = [await answer(here) for _ in scripts]
        seen = here.orchestrator.turns.info("s")
    assert slots(here) == [None] * 4
    assert [told(each, "started")[0]["kv_warmth"] for each in answers] == [False, False, True, True]
    assert [told(each, "metrics") for each in answers] == [[], [{"kv_warmth": True}], [], [{"kv_warmth": False}]]
    assert not seen.kv_warmth


@pytest.mark.req("HP-15")
async def test_a_session_shows_what_the_engine_has_of_it() -> None:
    limits = settings(ttl_ms=1000, token_budget=500, time_budget_ms=60_000)
    reports = lambda each: snapshot(each, kv_bytes_per_token=1024)  # noqa: E731 - shorter than a function
    async with world(turn(20, 0, Pause(0.5)), turn(24, 22), settings=limits, snapshots=reports) as here:
        await answer(here)
        await answer(here)
        await pass_time(0.25)
        seen = here.orchestrator.turns.info("s")
        assert (seen.ttl_ms_remaining, seen.turns, seen.turns_max) == (750, 2, 8)
        assert (seen.kv_tokens, seen.kv_bytes, seen.kv_warmth, seen.replica_id) == (25, 25 * 1024, True, "p-0")
        assert seen.budgets == SessionBudgets(tokens_remaining=500 - 48, time_remaining_ms=59_500)
        await pass_time(0.75)
        with pytest.raises(ApiError, match="there is no session 's'") as caught:
            here.orchestrator.turns.info("s")
        assert caught.value.refusal.code is ErrorCode.NOT_FOUND


# --- several replicas -------------------------------------------------------------------------------------------------


async def busy(here: World, pool_id: str, session: str | None = None) -> Task:
    """A task that keeps a slot of this pool."""
    task = await here.submit(session_id=session, placement=Placement(mode=PlacementMode.PIN, pool_id=pool_id))
    await settle()
    assert task.run is not None
    return task


@pytest.mark.req("HP-07")
@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.LLAMACPP])
async def test_a_turn_waits_for_its_replica_but_not_for_ever(engine: Engine) -> None:
    """Some engines have caches beside those of their running tasks; of llama.cpp that is seen once it gave one back."""
    engines = {
        "a": ScriptedAdapter(turn(20, 0), turn(9, 0), turn(24, 20), Script([Pause(1e6)])),
        "b": ScriptedAdapter(otherwise=turn(28, 0)),
    }
    limits = settings("a", "b", affinity_wait_ms=300)
    async with world(settings=limits, engines=engines, snapshots=lambda each: snapshot(each, engine=engine)) as here:
        for session in ("s", None, "s"):
            await answer(here, session, placement=Placement(prefer=("a",)))
        await busy(here, "a")
        waiting = await here.submit(session_id="s")
        stranger = await here.submit()
        await ended(stranger)
        assert waiting.state is TaskState.QUEUED
        assert stranger.run is not None
        assert stranger.run.pool_id == "b"
        await pass_time(0.29)
        assert waiting.state is TaskState.QUEUED
        await pass_time(0.02)
        frames = frames_of(await ended(waiting))
        assert told(frames, "started")[0]["kv_warmth"] is False
        assert here.orchestrator.turns.info("s").replica_id == "b-0"
        again = await here.submit(session_id="s")
        await ended(again)
        assert again.run is not None
        assert again.run.pool_id == "b"  # it is at home there now


@pytest.mark.req("HP-07")
async def test_a_turn_does_not_wait_for_what_is_lost() -> None:
    engines = {"a": ScriptedAdapter(turn(20, 0), Script([Pause(1e6)])), "b": ScriptedAdapter(otherwise=turn(28, 0))}
    async with world(settings=settings("a", "b"), engines=engines) as here:
        await answer(here, placement=Placement(prefer=("a",)))
        await busy(here, "a")
        task = await here.submit(session_id="s")
        await settle()
        assert task.run is not None
        assert task.run.pool_id == "b"


@pytest.mark.req("HP-07")
async def test_a_turn_goes_to_its_replica_though_another_is_preferred() -> None:
    engines = {each: ScriptedAdapter(otherwise=turn(20, 0)) for each in "ab"}
    async with world(settings=settings("a", "b"), engines=engines) as here:
        await answer(here, placement=Placement(prefer=("b",)))
        task = await here.submit(session_id="s", placement=Placement(prefer=("a",)))
        await ended(task)
        assert task.run is not None
        assert task.run.pool_id == "b"


@pytest.mark.req("HP-07")
async def test_a_turn_whose_replica_dies_goes_on_elsewhere_and_says_cold() -> None:
    engines = {
        "a": ScriptedAdapter(turn(20, 0), Script([EngineError(Failure.BROKEN, "gone")])),
        "b": ScriptedAdapter(otherwise=turn(24, 0)),
    }
    async with world(settings=settings("a", "b"), engines=engines) as here:
        await answer(here, placement=Placement(prefer=("a",)))
        frames = await answer(here)
        assert told(frames, "started")[0]["kv_warmth"] is True
        moved = [each for each in told(frames, "metrics") if "pool_id" in each]
        assert [(each["pool_id"], each["kv_warmth"]) for each in moved] == [("b", False)]
        seen = here.orchestrator.turns.info("s")
        assert (seen.replica_id, seen.turns) == ("b-0", 2)


# --- one after the other ----------------------------------------------------------------------------------------------


@pytest.mark.req("HP-15")
async def test_turns_that_come_together_run_one_after_the_other() -> None:
    gate = asyncio.Event()
    async with world(turn(20, 0, Hold(gate)), turn(24, 20), turn(28, 24), slots=3) as here:
        tasks = [await here.submit(session_id="s") for _ in range(3)]
        await settle()
        assert [task.state for task in tasks] == [TaskState.RUNNING, TaskState.QUEUED, TaskState.QUEUED]
        gate.set()
        for task in tasks:
            await ended(task)
        assert here.engines["p"].most_open == 1
        assert slots(here) == [0, 0, 0]


async def test_a_turn_that_waits_for_its_own_lets_others_pass_and_keeps_its_place() -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    scripts = (turn(20, 0, Hold(gates[0])), turn(9, 0, Hold(gates[1])), turn(24, 20), turn(9, 0))
    async with world(*scripts, slots=2) as here:
        first, second = [await here.submit(session_id="s", prompt=each) for each in ("one", "two")]
        stranger, last = [await here.submit(prompt=each) for each in ("three", "four")]
        await settle()
        assert stranger.state is TaskState.RUNNING
        assert (second.state, last.state) == (TaskState.QUEUED, TaskState.QUEUED)
        gates[0].set()
        await ended(first)
        await ended(second)
        gates[1].set()
        await ended(last)
        asked = here.engines["p"].asked
        assert [each.prompt for each in asked] == ["one", "three", "two", "four"]  # it came before the last one
        assert asked[2].slot == asked[0].slot


@pytest.mark.parametrize("how", ["cancel", "fail", "evict"])
async def test_however_a_turn_ends_the_next_one_goes_on(how: str) -> None:
    gate = asyncio.Event()
    first_script = Script([EngineError(Failure.INVALID, "no")]) if how == "fail" else turn(20, 0, Hold(gate))
    async with world(first_script, otherwise_turn(), slots=1) as here:
        tasks = [await here.submit(session_id="s") for _ in range(3)]
        await settle()
        if how == "cancel":
            here.orchestrator.cancel(tasks[1], "client")
            here.orchestrator.cancel(tasks[0], "client")
        elif how == "evict":
            here.orchestrator.cancel(tasks[1], "client")
            gate.set()
        for task in tasks:
            await ended(task)
        assert tasks[2].state is TaskState.DONE
        await settle()
        assert here.orchestrator.turns.info("s").turns == (3 if how == "fail" else 2)
    assert here.engines["p"].most_open == 1


def otherwise_turn() -> Script:
    return turn(24, 20)


async def test_a_turn_that_waits_for_a_cancelled_one_that_never_ran_goes_on() -> None:
    gate = asyncio.Event()
    async with world(turn(9, 0, Hold(gate)), turn(24, 0)) as here:
        stranger = await here.submit()
        await settle()
        first, second = [await here.submit(session_id="s") for _ in range(2)]
        here.orchestrator.cancel(first, "client")
        gate.set()
        await ended(stranger)
        await ended(second)
        assert second.state is TaskState.DONE
        assert here.orchestrator.turns.info("s").turns == 1


async def test_a_batch_turn_keeps_its_session_in_order() -> None:
    gate = asyncio.Event()
    async with world(turn(9, 0, Hold(gate)), turn(20, 0), turn(24, 20)) as here:
        await here.submit()
        await settle()
        first = await here.submit(session_id="s", priority=Priority.BATCH)
        second = await here.submit(session_id="s")
        gate.set()
        await ended(second)
        assert first.state is TaskState.DONE


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-16")
@pytest.mark.req("HP-14")
async def test_a_budget_of_tokens_is_shown_and_refuses_before_the_queue() -> None:
    async with world(turn(20, 0), settings=settings(token_budget=40)) as here:
        here.engines["p"].tokens = 20
        task = await here.submit(session_id="s", max_tokens=20)
        assert here.orchestrator.turns.headers("s") == {"X-Budget-Tokens-Remaining": "40"}
        frames = frames_of(await ended(task))
        assert told(frames, "metrics") == [{"tokens_budget_remaining": 18}]
        error = await refused(here, max_tokens=1)
        assert error.refusal.policy_label == "session_tokens"
        assert here.metric("tasks_enqueued_total") == 1
        assert here.metric("admission_backpressure_events_total", policy="session_tokens") == 1
        assert here.orchestrator.turns.info("s").turns == 1


@pytest.mark.req("HP-16")
async def test_two_turns_at_once_cannot_pass_a_budget_together() -> None:
    gate = asyncio.Event()
    async with world(turn(10, 0, Hold(gate)), settings=settings(token_budget=50), slots=2) as here:
        here.engines["p"].tokens = 10
        first = await here.submit(session_id="s", max_tokens=20)
        error = await refused(here, max_tokens=20)
        assert "30 of them set aside" in error.refusal.message
        gate.set()
        await ended(first)
        await settle()
        await ended(await here.submit(session_id="s", max_tokens=20))


@pytest.mark.req("HP-16")
async def test_what_is_set_aside_for_a_turn_stays_so_while_it_waits_for_another_replica() -> None:
    gate = asyncio.Event()
    engines = {
        "a": ScriptedAdapter(Script(headers=[EngineError(Failure.BROKEN, "gone")])),
        "b": ScriptedAdapter(turn(9, 0, Hold(gate)), otherwise=turn(10, 0)),
    }
    async with world(settings=settings("a", "b", token_budget=50), engines=engines) as here:
        for engine in engines.values():
            engine.tokens = 10
        stranger = await here.submit(placement=Placement(mode=PlacementMode.PIN, pool_id="b"))
        first = await here.submit(session_id="s", max_tokens=30)
        await settle()
        assert (first.state, first.attempts) == (TaskState.QUEUED, 1)
        assert "40 of them set aside" in (await refused(here, max_tokens=30)).refusal.message
        gate.set()
        await ended(stranger)
        await ended(first)
        assert here.orchestrator.turns.info("s").budgets.tokens_remaining == 38


@pytest.mark.req("HP-16")
async def test_an_answer_without_a_bound_gets_what_is_left_of_the_budget() -> None:
    async with world(turn(10, 0), settings=settings(token_budget=50)) as here:
        here.engines["p"].tokens = 10
        await answer(here, max_tokens=None)
    assert here.engines["p"].asked[0].max_tokens == 40


@pytest.mark.req("HP-16")
async def test_where_nobody_can_count_the_length_of_the_text_does() -> None:
    async with world(turn(10, 0), settings=settings(token_budget=100)) as here:
        error = await refused(here, prompt="x" * 30, max_tokens=7)
        assert "this turn may take 101" in error.refusal.message
        await ended(await here.submit(session_id="s", prompt="x" * 30, max_tokens=6))


@pytest.mark.req("HP-16")
@pytest.mark.parametrize(("pieces", "spent"), [(0, 0), (3, 13)])
async def test_of_a_cancelled_turn_what_was_generated_counts(pieces: int, spent: int) -> None:
    script = Script([*["x"] * pieces, Pause(1e6)])
    async with world(script, settings=settings(token_budget=100)) as here:
        here.engines["p"].tokens = 10
        task = await here.submit(session_id="s")
        await settle()
        here.orchestrator.cancel(task, "client")
        await settle()
        assert here.orchestrator.turns.info("s").budgets.tokens_remaining == 100 - spent


@pytest.mark.req("HP-16")
async def test_a_turn_ends_when_the_time_of_its_session_is_over(operator_sees: OperatorSees) -> None:
    steady = Script(["x", Pause(3.0)] * 20)
    async with world(steady, settings=settings(time_budget_ms=10_000)) as here:
        first, second = [await here.submit(session_id="s") for _ in range(2)]
        assert here.orchestrator.turns.headers("s") == {"X-Budget-Time-Remaining-Ms": "10000"}
        await ended(first)
        await ended(second)
        assert [task.status.error_code for task in (first, second)] == ["BUDGET_EXHAUSTED"] * 2
        said = frames_of(first.log.read(0))[-1].data
        operator_sees("session/time", f"{said['code']}: {said['message']}\nhint: {said['hint']}")
        assert len(here.engines["p"].asked) == 1
        await settle()
        error = await refused(here)
        assert error.refusal.policy_label == "session_time"
        assert error.refusal.retry_after_ms == 600_000
        assert here.orchestrator.turns.info("s").budgets.time_remaining_ms == 0


@pytest.mark.req("HP-15")
async def test_turns_are_refused_before_the_queue_with_the_time_that_is_left() -> None:
    async with world(turn(20, 0), settings=settings(max_turns=1, ttl_ms=5000)) as here:
        await answer(here)
        await pass_time(2)
        error = await refused(here)
        assert (error.refusal.code, error.refusal.policy_label) == (ErrorCode.BUDGET_EXHAUSTED, "session_turns")
        assert error.refusal.retry_after_ms == 3000
        await pass_time(3)
        await answer(here)


async def test_what_leaves_no_cache_is_no_turn() -> None:
    async with world() as here:
        here.engines["p"].says = msgspec.structs.replace(
            here.engines["p"].says,
            workloads=(Workload.EMBEDDING,),  # type: ignore[type-var]
        )
        here.orchestrator.report(snapshot(restarts=1))
        await settle()
        error = await refused(here, workload=Workload.EMBEDDING, prompt=None, inputs=("a",), max_tokens=None)
        assert (error.refusal.code, error.refusal.field) == (ErrorCode.INVALID_PARAMS, "session_id")


async def test_a_refused_task_begins_no_session() -> None:
    async with world(turn(20, 0)) as here:
        await refused(here, model_ref="unknown")
        with pytest.raises(ApiError):
            here.orchestrator.turns.info("s")


# --- ending one -------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-15")
async def test_a_deleted_session_leaves_nothing_in_its_slot() -> None:
    async with world(turn(9, 0), turn(20, 0), turn(24, 0), slots=2) as here:
        await answer(here, None)
        await answer(here)
        await here.orchestrator.turns.delete("s")
        assert here.engines["p"].erased == [1]
        with pytest.raises(ApiError) as caught:
            await here.orchestrator.turns.delete("s")
        assert caught.value.refusal.code is ErrorCode.NOT_FOUND
        assert told(await answer(here), "started")[0]["kv_warmth"] is False
        assert here.orchestrator.turns.info("s").turns == 1


@pytest.mark.req("HP-15")
async def test_an_engine_has_no_more_to_do_than_it_has_slots_while_one_is_erased() -> None:
    async with world(turn(20, 0), turn(9, 0)) as here:
        engine = here.engines["p"]
        engine.erasing = asyncio.Event()
        await answer(here)
        async with asyncio.TaskGroup() as group:
            group.create_task(here.orchestrator.turns.delete("s"))
            await settle()
            task = await here.submit()
            await settle()
            assert task.state is TaskState.QUEUED
            engine.erasing.set()
        await ended(task)
        assert engine.erased == [0]


@pytest.mark.req("HP-15", "PM-04")
async def test_an_engine_that_drains_ends_once_its_slot_is_erased() -> None:
    manager = Told()
    async with world(turn(20, 0), manager=manager) as here:
        engine = here.engines["p"]
        engine.erasing = asyncio.Event()
        await answer(here)
        async with asyncio.TaskGroup() as group:
            group.create_task(here.orchestrator.turns.delete("s"))
            await settle()
            here.orchestrator.report(snapshot(state=PoolState.DRAINING, revision=2))
            assert manager.said == []
            engine.erasing.set()
        assert manager.said == [("idle", "p")]


@pytest.mark.req("HP-15")
async def test_a_turn_of_a_deleted_session_goes_on_and_its_slot_is_freed_then() -> None:
    gate = asyncio.Event()
    async with world(turn(20, 0, Hold(gate)), turn(24, 20), turn(9, 0), slots=2) as here:
        first, second = [await here.submit(session_id="s") for _ in range(2)]
        await settle()
        await here.orchestrator.turns.delete("s")
        assert here.engines["p"].erased == []
        fresh = await here.submit(session_id="s")
        await ended(fresh)
        assert slots(here) == [0, 1]
        gate.set()
        await ended(first)
        await ended(second)
        await settle()
        assert here.engines["p"].erased == [0]
        assert here.orchestrator.turns.info("s").turns == 1


@pytest.mark.req("HP-15")
async def test_a_slot_that_somebody_else_has_by_now_is_left_alone() -> None:
    gate = asyncio.Event()
    async with world(turn(20, 0), turn(9, 0, Hold(gate))) as here:
        await answer(here)
        task = await here.submit()
        await settle()
        await here.orchestrator.turns.delete("s")
        gate.set()
        await ended(task)
        assert here.engines["p"].erased == []


async def test_an_engine_that_does_not_erase_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async with world(turn(20, 0), turn(20, 0), turn(9, 0)) as here:
        engine = here.engines["p"]
        await answer(here)
        engine.erase_fails = EngineError(Failure.PROTOCOL, "no such thing")
        await here.orchestrator.turns.delete("s")
        await answer(here)
        engine.erasing = asyncio.Event()
        await here.orchestrator.turns.delete("s")
        await answer(here, None)
    assert [record.getMessage() for record in caplog.records if record.name.endswith("turns")] == [
        "pool p did not erase slot 0: no such thing",
        "pool p did not erase slot 0: it did not answer",
    ]


async def test_a_mistake_of_ours_while_a_slot_is_erased_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with world(turn(20, 0), turn(9, 0)) as here:
        await answer(here)
        here.engines["p"].erase_fails = RuntimeError("a mistake")
        await here.orchestrator.turns.delete("s")
        await answer(here, None)
    assert "slot 0 of pool p could not be erased" in caplog.text


async def test_an_engine_that_is_gone_has_nothing_to_erase() -> None:
    async with world(turn(20, 0)) as here:
        await answer(here)
        here.orchestrator.report(snapshot(state=PoolState.BACKOFF, restarts=1))
        await here.orchestrator.turns.delete("s")
        assert here.engines["p"].erased == []


@pytest.mark.req("HP-15")
async def test_where_every_session_has_a_turn_there_is_no_room(operator_sees: OperatorSees) -> None:
    gate = asyncio.Event()
    async with world(turn(20, 0, Hold(gate)), settings=settings(max_sessions=1)) as here:
        await here.submit(session_id="s")
        refusal = (await refused(here, session_id="another")).refusal
        assert (refusal.code, refusal.policy_label) == (ErrorCode.ADMISSION_REJECT, "max_sessions")
        operator_sees("session/no-room", f"{refusal.code}: {refusal.message}\nhint: {refusal.hint}")
        gate.set()


@pytest.mark.req("HP-15")
async def test_a_session_that_makes_room_leaves_its_slot_to_the_next() -> None:
    scripts = [turn(20, 0) for _ in range(4)]
    async with world(*scripts, settings=settings(max_sessions=2), slots=2) as here:
        for session in ("a", "b", "c"):
            await answer(here, session)
        assert slots(here) == [0, 1, 0]
        with pytest.raises(ApiError):
            here.orchestrator.turns.info("a")
        await answer(here, None)
        assert slots(here)[-1] == 1  # used less recently than that of c

"""What a running engine says of itself: asked once in each of its starts, and nothing is promised before."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from adapters.base import EngineError, Failure, Generation, Props
from contracts.config import Engine, Mode
from contracts.errors import ErrorCode
from contracts.events import StreamError
from contracts.pools import Endpoint, PoolSnapshot, PoolState
from contracts.tasks import KvHint, TaskState, Workload
from orchestratord.errors import ApiError
from tests.support.virtual_loop import pass_time, settle
from tests.unit.orchestratord.frames import frames_of
from tests.unit.orchestratord.world import (
    SERVES,
    STOPPED_WELL,
    Hold,
    Pause,
    Script,
    ScriptedAdapter,
    config,
    ended,
    pool,
    snapshot,
    world,
)

EMBEDDER = Props(workloads=(Workload.EMBEDDING,), features=("tokenize",))
EMBEDDING = {"workload": Workload.EMBEDDING, "prompt": None, "inputs": ("a",), "max_tokens": None}


@pytest.mark.req("ORCH-3812", "AD-04")
@pytest.mark.parametrize("prepared", [None, "unknown", "b1"])
async def test_an_engine_is_asked_once_and_knows_its_version(prepared: str | None) -> None:
    engine = ScriptedAdapter()
    engine.says = Props(engine_version="b4711")
    async with world(engines={"p": engine}, snapshots=lambda pool: snapshot(pool, engine_version=prepared)) as made:
        await settle()
        made.orchestrator.report(snapshot("p", engine_version=prepared, revision=9))
        await settle()
        assert made.pools["p"].engine_version == ("b1" if prepared == "b1" else "b4711")
        assert engine.introductions == 1


@pytest.mark.parametrize(
    "again",
    [{"endpoint": Endpoint(url="http://p", api_key="new")}, {"restarts": 1}],
    ids=["another engine", "the same one anew"],
)
async def test_each_start_is_asked_anew(again: dict[str, Any]) -> None:
    engine = ScriptedAdapter()
    async with world(engines={"p": engine}) as made:
        await settle()
        engine.says = EMBEDDER
        made.orchestrator.report(snapshot("p", revision=2, **again))
        before = made.pools["p"].workloads, made.pools["p"].usable
        await settle()
        assert before == ((), False)
        assert made.pools["p"].workloads == (Workload.EMBEDDING,)
        assert engine.introductions == 2


async def test_what_an_earlier_start_says_late_is_worth_nothing() -> None:
    engine, gate = ScriptedAdapter(), asyncio.Event()
    engine.says = Hold(gate)
    async with world(engines={"p": engine}) as made:
        await settle()
        engine.says = EMBEDDER
        made.orchestrator.report(snapshot("p", revision=2, restarts=1))
        gate.set()
        await settle()
        assert made.pools["p"].workloads == (Workload.EMBEDDING,)


async def test_the_model_that_an_earlier_start_names_late_is_not_held_against_this_one() -> None:
    engine = ScriptedAdapter()
    engine.serves_model, engine.naming = "old", asyncio.Event()

    def external(pool_id: str, **changes: Any) -> PoolSnapshot:  # noqa: ANN401 - any field of the snapshot
        return snapshot(pool_id, provisioning_mode=Mode.EXTERNAL, **changes)

    async with world(engines={"p": engine}, snapshots=external) as made:
        await settle()
        engine.serves_model = "new"
        made.orchestrator.report(external("p", revision=2, restarts=1))
        await settle()
        engine.naming.set()
        await settle()
        entry = made.pools["p"]
        assert (entry.usable, entry.mute, entry.model) == (True, None, "new")


async def test_a_task_waits_a_moment_for_what_the_engine_says() -> None:
    engine, gate = ScriptedAdapter(), asyncio.Event()
    engine.says = Hold(gate)
    async with world(engines={"p": engine}) as made, asyncio.TaskGroup() as group:
        submitting = group.create_task(made.submit())
        await settle()
        assert not submitting.done()
        assert made.pools["p"].workloads == ()
        gate.set()
        task = await submitting
        assert task.state is not TaskState.QUEUED


@pytest.mark.req("HP-08")
async def test_no_task_waits_for_what_one_engine_says_while_another_can_run_it() -> None:
    silent = ScriptedAdapter()
    silent.says = Hold(asyncio.Event())
    engines = {"p": ScriptedAdapter(), "q": silent}
    async with world(settings=config(pool("p"), pool("q")), engines=engines) as made:
        await settle()
        before = asyncio.get_running_loop().time()
        task = await made.submit()
        assert (task.state, asyncio.get_running_loop().time()) == (TaskState.RUNNING, before)


@pytest.mark.req("HP-03")
async def test_no_task_waits_for_what_an_engine_says_that_went_away_before_it_answered() -> None:
    engine = ScriptedAdapter()
    engine.says = EngineError(Failure.REFUSED, "gone")
    async with world(engines={"p": engine}) as made:
        await settle()
        made.orchestrator.report(snapshot("p", PoolState.BACKOFF, revision=2, endpoint=Endpoint(url="http://p")))
        before = asyncio.get_running_loop().time()
        task = await made.submit()
        assert (task.state, asyncio.get_running_loop().time()) == (TaskState.QUEUED, before)


async def test_a_workload_that_it_does_not_serve_is_refused_with_what_it_serves() -> None:
    engine = ScriptedAdapter()
    engine.says = EMBEDDER
    async with world(engines={"p": engine}) as made:
        with pytest.raises(ApiError) as caught:
            await made.submit()
        refusal = caught.value.refusal
        assert (refusal.code, refusal.field) == (ErrorCode.INVALID_PARAMS, "workload")
        assert refusal.hint == "it serves: embedding"
        assert (await made.submit(**EMBEDDING)).state is TaskState.RUNNING


async def test_a_task_that_could_not_wait_longer_is_told_in_its_stream() -> None:
    engine, gate = ScriptedAdapter(), asyncio.Event()
    engine.says = Hold(gate)
    async with world(engines={"p": engine}) as made, asyncio.TaskGroup() as group:
        submitting = group.create_task(made.submit(**EMBEDDING))
        await pass_time(3)
        task = await submitting
        assert task.state is TaskState.QUEUED
        gate.set()
        await ended(task)
        assert isinstance(task.outcome, StreamError)
        assert task.outcome.code is ErrorCode.INVALID_PARAMS
        assert task.outcome.message == "workload embedding is not served by pool 'p'"
        assert engine.asked == []


async def test_a_task_for_a_pool_on_its_way_is_not_refused_for_what_nobody_knows() -> None:
    engine = ScriptedAdapter()
    async with world(engines={"p": engine}, snapshots=lambda pool: snapshot(pool, PoolState.STARTING)) as made:
        task = await made.submit(**EMBEDDING)
        engine.says = EMBEDDER
        made.orchestrator.report(snapshot("p", revision=2))
        await ended(task)
        assert engine.asked[0].inputs == ("a",)


async def test_an_engine_that_cannot_say_it_yet_is_asked_again_and_its_tasks_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedAdapter()
    engine.says = EngineError(Failure.LOADING, "loading")
    async with world(engines={"p": engine}) as made, asyncio.TaskGroup() as group:
        submitting = group.create_task(made.submit())
        await pass_time(4)
        task = await submitting
        waiting = task.state
        assert waiting is TaskState.QUEUED
        assert engine.introductions > 3
        engine.says = ScriptedAdapter().says
        await ended(task)
        assert task.state is TaskState.DONE
    assert [record.message for record in caplog.records].count("pool p does not say what it is: loading") == 1


async def test_an_engine_that_will_not_say_it_gets_no_task_until_that_is_mended() -> None:
    engine = ScriptedAdapter()
    engine.says = EngineError(Failure.INVALID, "the server has no model 'x'")
    async with world(engines={"p": engine}) as made:
        await settle()
        with pytest.raises(ApiError) as caught:
            await made.submit()
        refusal = caught.value.refusal
        assert refusal.code is ErrorCode.POOL_UNREADY
        assert refusal.message == "pool 'p' runs and does not say what it serves: the server has no model 'x'"
        engine.says = ScriptedAdapter().says
        await pass_time(2)
        assert (await made.submit()).state is TaskState.RUNNING


@pytest.mark.req("HP-08")
async def test_what_waited_for_an_engine_that_then_will_not_say_it_is_told_so() -> None:
    engine = ScriptedAdapter()
    async with world(engines={"p": engine}, snapshots=lambda pool: snapshot(pool, PoolState.STARTING)) as made:
        task = await made.submit()
        engine.says = EngineError(Failure.INVALID, "the server has no model 'x'")
        made.orchestrator.report(snapshot("p", revision=2))
        await ended(task)
        assert isinstance(task.outcome, StreamError)
        assert task.outcome.code is ErrorCode.POOL_UNREADY
        assert task.outcome.message == "pool 'p' runs and does not say what it serves: the server has no model 'x'"
        assert task.outcome.hint == "correct the pool's model, URL or key; it is asked again and again"


@pytest.mark.req("HP-08")
async def test_what_another_pool_may_run_outlasts_an_engine_that_will_not_say_it() -> None:
    mute, other = ScriptedAdapter(), ScriptedAdapter()
    mute.says = EngineError(Failure.INVALID, "the server has no model 'x'")
    async with world(
        settings=config(pool("p"), pool("q")),
        engines={"p": mute, "q": other},
        snapshots=lambda each: snapshot(each, PoolState.STARTING),
    ) as made:
        task = await made.submit()
        made.orchestrator.report(snapshot("p", revision=2))
        await pass_time(3)
        waiting = task.state
        assert waiting is TaskState.QUEUED
        made.orchestrator.report(snapshot("q", revision=2))
        await ended(task)
        assert task.state is TaskState.DONE


async def test_a_mistake_of_ours_about_one_engine_ends_nothing_else() -> None:
    engine = ScriptedAdapter()
    engine.says = RuntimeError("ours")
    async with world(engines={"p": engine}) as made:
        await settle()
        assert made.pools["p"].mute == "internal error; the log has the details"


@pytest.mark.parametrize(
    ("mode", "said", "expected"),
    [
        (Mode.EXTERNAL, 32_768, 32_768),
        (Mode.EXTERNAL, 512, 512),
        (Mode.EXTERNAL, None, 4096),
        (Mode.EXTERNAL, 0, 4096),
        (Mode.SOURCE, 32_768, 4096),
        (Mode.SOURCE, 512, 512),
    ],
)
async def test_the_context_is_what_both_know(mode: Mode, said: int | None, expected: int) -> None:
    engine = ScriptedAdapter()
    engine.says = Props(ctx_max=said)
    async with world(engines={"p": engine}, snapshots=lambda pool: snapshot(pool, provisioning_mode=mode)) as made:
        await settle()
        assert made.pools["p"].ctx_max == expected
        assert made.pools["p"].view.snapshot.ctx_max == expected


@pytest.mark.req("AD-04")
@pytest.mark.parametrize(("said", "at_a_time"), [(None, 3), (0, 3), (1, 1), (2, 2), (64, 3)])
async def test_no_engine_gets_more_at_a_time_than_it_says_it_has_slots(said: int | None, at_a_time: int) -> None:
    engine = ScriptedAdapter(otherwise=Script(["a", Pause(1), STOPPED_WELL]))
    engine.says = replace(SERVES, slots=said)
    async with world(engines={"p": engine}, slots=3) as made:
        await settle()
        tasks = [await made.submit() for _ in range(5)]
        for task in tasks:
            await ended(task)
        assert engine.most_open == at_a_time
        assert made.pools["p"].view.snapshot.slots == at_a_time


class Counting(ScriptedAdapter):
    """One token for each byte of the longest input."""

    async def count_tokens(self, generation: Generation) -> int:
        return max((len(text) for text in generation.inputs or ()), default=0)


@pytest.mark.req("HP-05")
async def test_an_input_is_counted_for_the_narrowest_pool_and_not_for_the_one_that_counts() -> None:
    engines: dict[str, ScriptedAdapter] = {"narrow": Counting(), "wide": Counting()}
    for engine in engines.values():
        engine.says = EMBEDDER
    settings = config(pool("wide"), pool("narrow"))

    def reported(pool_id: str) -> PoolSnapshot:
        return snapshot(pool_id, ctx_max=512 if pool_id == "narrow" else 8192)

    async with world(settings=settings, engines=engines, snapshots=reported) as made:
        await settle()
        task = await made.submit(**EMBEDDING | {"inputs": ("a" * 3000,)})
        await ended(task)
        assert engines["narrow"].asked == []
        assert len(engines["wide"].asked) == 1


@pytest.mark.req("AD-06")
@pytest.mark.parametrize(
    ("engine", "features", "unheeded"),
    [
        (Engine.LLAMACPP, ("cache_prompt",), None),
        (Engine.VLLM, ("cache_prompt",), None),
        (Engine.VLLM, (), ["kv_hint"]),
        (Engine.TRITON, (), ["kv_hint"]),
    ],
)
async def test_a_hint_that_the_engine_cannot_follow_is_named_when_the_task_starts(
    engine: Engine, features: tuple[str, ...], unheeded: list[str] | None
) -> None:
    adapter = ScriptedAdapter()
    adapter.says = Props(workloads=(Workload.COMPLETION,), features=("max_tokens", *features))
    async with world(engines={"p": adapter}, snapshots=lambda pool: snapshot(pool, engine=engine)) as made:
        stream = await ended(await made.submit(kv_hint=KvHint.COLD))
        (started,) = [frame.data for frame in frames_of(stream) if frame.event == "started"]
        assert started.get("unheeded") == unheeded
        assert not adapter.asked[0].cache_prompt


async def test_a_pool_on_its_way_has_no_free_slot_to_predict_with() -> None:
    async with world(snapshots=lambda pool: snapshot(pool, PoolState.STARTING)) as made:
        task = await made.submit()
        assert task.accepted.predicted_start_ms > 0

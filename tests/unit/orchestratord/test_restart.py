"""A daemon that goes on where another one was killed: the real parts, but for engines and time."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from contracts.config import Queue, Sessions, Timeouts
from contracts.errors import ErrorCode
from contracts.events import End, StreamError
from contracts.pools import PoolSnapshot, PoolState
from contracts.tasks import Determinism, OnDisconnect, Priority, TaskState
from orchestratord.pools import LinkState
from orchestratord.task import Task
from tests.support.stream_grammar import check
from tests.support.virtual_loop import pass_time
from tests.unit.orchestratord.world import (
    CALLER,
    HANG,
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
    world,
)

SILENT = Script(body=(HANG,))
SPEAKING = Script(body=("one", " two", HANG))


def killed(tmp_path: Path) -> Path:
    """The files as kill -9 at this moment would leave them."""
    copy = tmp_path / "after"
    shutil.copytree(tmp_path / "before", copy)
    return copy / "tasks.sqlite3"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return tmp_path / "before" / "tasks.sqlite3"


def found(made: World, task_id: str) -> Task:
    return made.orchestrator.get(task_id)


def codes(*tasks: Task) -> list[ErrorCode | None]:
    return [each.outcome.code if isinstance(each.outcome, StreamError) else None for each in tasks]


async def test_more_than_the_queue_holds_waits_on_in_its_order(before: Path, tmp_path: Path) -> None:
    settings = config(pool(queue=Queue(capacity=2)))
    async with world(SILENT, settings=settings, tasks=before) as made:
        for number in range(3):
            await made.submit(task_id=f"t{number}")
        await pass_time(0.1)
        assert found(made, "t0").state is TaskState.RUNNING
        after = killed(tmp_path)
    async with world(settings=settings, tasks=after, ready=False) as made:
        assert [found(made, f"t{number}").status.queue_position for number in range(3)] == [0, 1, 2]
        made.pools.linked(LinkState.UP)
        made.orchestrator.report(snapshot())
        for number in range(3):
            assert check(await ended(found(made, f"t{number}"))).end is not None
        assert [asked.correlation_id for asked in made.engines["p"].asked] == ["corr-1"] * 3
        runs = [found(made, f"t{number}").run for number in range(3)]
        assert sorted(runs, key=lambda run: run.at_ms if run else 0) == runs


async def test_drop_lru_displaces_nobody_who_was_let_in_before(before: Path, tmp_path: Path) -> None:
    settings = config(pool(queue=msgspec.convert({"capacity": 2, "full_policy": "drop-lru"}, Queue)))
    async with world(SILENT, settings=settings, tasks=before) as made:
        for number in range(3):
            await made.submit(task_id=f"t{number}")
        await pass_time(0.1)
        after = killed(tmp_path)
    async with world(settings=settings, tasks=after) as made:
        assert codes(*[await _over(found(made, f"t{number}")) for number in range(3)]) == [None] * 3


async def test_a_pool_that_was_not_seen_yet_may_still_come(before: Path, tmp_path: Path) -> None:
    settings = config(pool("p"), pool("q", model="file:/models/q.gguf"))
    q_ready = snapshot("q", model_ref="file:/models/q.gguf", model_id="q")
    async with world(SILENT, settings=settings, tasks=before, snapshots=_of(q_ready)) as made:
        await made.submit(task_id="first", model_ref="file:/models/q.gguf")
        await made.submit(task_id="second", model_ref="file:/models/q.gguf")
        after = killed(tmp_path)
    async with world(settings=settings, tasks=after, ready=False) as made:
        made.pools.linked(LinkState.UP)
        made.orchestrator.report(snapshot("p"))
        made.orchestrator.report(msgspec.structs.replace(q_ready, state=PoolState.STOPPED, endpoint=None))
        made.orchestrator.report(msgspec.structs.replace(q_ready, state=PoolState.STARTING, endpoint=None))
        await pass_time(5)
        assert found(made, "first").state is TaskState.QUEUED
        made.orchestrator.report(q_ready)
        assert codes(await _over(found(made, "first")), await _over(found(made, "second"))) == [None, None]


async def test_a_pool_that_is_broken_ends_what_waits_for_it(before: Path, tmp_path: Path) -> None:
    async with world(SILENT, tasks=before) as made:
        await made.submit(task_id="t")
        after = killed(tmp_path)
    async with world(tasks=after, ready=False) as made:
        made.pools.linked(LinkState.UP)
        made.orchestrator.report(snapshot(state=PoolState.BROKEN))
        assert codes(await _over(found(made, "t"))) == [ErrorCode.POOL_UNAVAILABLE]


@pytest.mark.req("HP-17")
async def test_what_had_spoken_ends_and_says_that_it_may_be_sent_again(before: Path, tmp_path: Path) -> None:
    async with world(SPEAKING, tasks=before) as made:
        await made.submit(task_id="t")
        await pass_time(0.1)
        whole = found(made, "t").log.read(0)
        begun = whole[: whole.index(b"\n\n", whole.index(b"event: started")) + 2]
        after = killed(tmp_path)
    async with world(tasks=after) as made:
        task = found(made, "t")
        stream = await ended(task)
        for said in (check(stream), check(task.log.read(task.log.offset_after(1)), after=1)):
            assert said.error is not None
            assert (said.error.code, said.error.retriable) == (ErrorCode.WORKER_RESET, True)
            assert said.error.retry_after_ms == 0
        assert stream.startswith(begun)
        assert task.interrupted
        assert made.engines["p"].asked == []


@pytest.mark.req("HP-12")
async def test_a_strict_task_goes_on_where_it_ran_and_nowhere_else(before: Path, tmp_path: Path) -> None:
    settings = config(pool("p"), pool("q"))
    engines = {"p": ScriptedAdapter(SPEAKING), "q": ScriptedAdapter(SPEAKING)}
    async with world(settings=settings, engines=engines, tasks=before, snapshots=_pinned) as made:
        await made.submit(task_id="t", determinism=Determinism.STRICT, seed=5)
        await pass_time(0.1)
        run = found(made, "t").run
        assert run is not None
        place = run.pool_id
        sent = found(made, "t").log.read(0)
        after = killed(tmp_path)
    whole = Script(body=("o", "ne two thr", "ee", STOPPED_WELL))
    engines = {"p": ScriptedAdapter(whole), "q": ScriptedAdapter(whole)}
    async with world(settings=settings, engines=engines, tasks=after, ready=False) as made:
        made.pools.linked(LinkState.UP)
        other = ({"p", "q"} - {place}).pop()
        made.orchestrator.report(_pinned(other))
        await pass_time(1)
        task = found(made, "t")
        assert task.state is TaskState.QUEUED
        assert task.log.read(0) == sent
        made.orchestrator.report(_pinned(place))
        stream = await ended(task)
        assert stream.startswith(sent)
        said = check(stream)
        assert [token.t for token in said.tokens] == ["one", " two", " thr", "ee"]
        assert said.end is not None
        assert [len(engine.asked) for engine in engines.values()].count(1) == 1
        assert engines[place].asked[0].seed == 5
        assert task.attempts == 2
        assert task.status.queue_time_ms == said.end.queue_time_ms
        assert said.end.first_token_ms is not None
        assert said.end.queue_time_ms <= said.end.first_token_ms  # what came after it was no waiting


@pytest.mark.parametrize(
    ("body", "token"),
    [(("one", " twenty", STOPPED_WELL), 1), (("One two", STOPPED_WELL), 0), (("one", STOPPED_WELL), 1)],
    ids=["another word", "another first letter", "too short"],
)
async def test_a_strict_task_that_says_something_else_ends_and_names_the_token(
    before: Path, tmp_path: Path, body: tuple[object, ...], token: int
) -> None:
    async with world(SPEAKING, tasks=before, snapshots=_pinned) as made:
        await made.submit(task_id="t", determinism=Determinism.STRICT)
        await pass_time(0.1)
        after = killed(tmp_path)
    async with world(Script(body=body), tasks=after, snapshots=_pinned) as made:  # type: ignore[arg-type] # drawn
        said = check(await ended(found(made, "t")))
        assert said.error is not None
        assert said.error.code is ErrorCode.WORKER_RESET
        assert f"token {token}" in said.error.message
        assert [each.t for each in said.tokens] == ["one", " two"]


async def test_a_deadline_goes_on_while_nobody_is_there(before: Path, tmp_path: Path) -> None:
    async with world(SILENT, tasks=before) as made:
        await made.submit(task_id="running")
        await made.submit(task_id="soon", deadline_ms=20_000)
        await made.submit(task_id="later", deadline_ms=60_000)
        await pass_time(5)
        after = killed(tmp_path)
    await pass_time(30)
    async with world(SILENT, tasks=after, ready=False) as made:
        soon, later = found(made, "soon"), found(made, "later")
        assert codes(soon, later) == [ErrorCode.ADMISSION_REJECT, None]
        await pass_time(24)
        assert not later.finished
        await pass_time(2)
        assert codes(later) == [ErrorCode.ADMISSION_REJECT]


async def test_the_same_task_sent_again_is_the_same_task(before: Path, tmp_path: Path) -> None:
    async with world(SILENT, tasks=before) as made:
        await made.submit(task_id="running")
        accepted = (await made.submit(task_id="waits")).accepted
        after = killed(tmp_path)
    async with world(tasks=after, ready=False) as made:
        assert (await made.submit(task_id="waits")).accepted == accepted
        assert len(made.orchestrator.backlog) == 2


async def test_the_turns_of_a_conversation_run_one_after_the_other(before: Path, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(config(pool(slots=2)), sessions=Sessions(max_turns=2))
    async with world(SILENT, settings=settings, tasks=before, slots=2) as made:
        await made.submit(task_id="first", session_id="s")
        await made.submit(task_id="second", session_id="s")
        after = killed(tmp_path)
    slow = Script(body=("a", Pause(0.5), STOPPED_WELL))
    engine = ScriptedAdapter(otherwise=slow)
    async with world(settings=settings, engines={"p": engine}, tasks=after, slots=2) as made:
        assert codes(await _over(found(made, "first")), await _over(found(made, "second"))) == [None, None]
        assert engine.most_open == 1
        assert made.orchestrator.turns.info("s").turns == 2


# --- who has read it ---


@pytest.mark.req("HP-19")
@pytest.mark.parametrize(
    ("changes", "followed", "lives"),
    [
        ({}, True, False),
        ({}, False, True),
        ({"priority": Priority.BATCH}, True, True),
        ({"on_disconnect": OnDisconnect.CONTINUE}, True, True),
    ],
    ids=["its readers do not come back", "it never had any", "batch", "asked to go on"],
)
async def test_readers_have_a_minute_to_come_back(
    before: Path,
    tmp_path: Path,
    changes: dict[str, object],
    followed: bool,
    lives: bool,
) -> None:
    async with world(SILENT, tasks=before) as made:
        await made.submit(task_id="running")
        task = await made.submit(task_id="t", **changes)
        if followed:
            with made.orchestrator.reading(task, lambda: None):
                after = killed(tmp_path)
        else:
            after = killed(tmp_path)
    async with world(tasks=after, ready=False) as made:
        task = found(made, "t")
        await pass_time(59)
        assert not task.finished
        await pass_time(2)
        assert task.finished is not lives


async def test_a_reader_who_comes_back_in_time_keeps_it_alive(before: Path, tmp_path: Path) -> None:
    async with world(SILENT, tasks=before) as made:
        await made.submit(task_id="running")
        with made.orchestrator.reading(await made.submit(task_id="t"), lambda: None):
            after = killed(tmp_path)
    async with world(tasks=after, ready=False) as made:
        task = found(made, "t")
        await pass_time(50)
        with made.orchestrator.reading(task, lambda: None):
            await pass_time(50)
            assert not task.finished
        await pass_time(6)
        assert task.finished


async def test_what_is_taken_up_did_not_all_come_at_once(before: Path, tmp_path: Path) -> None:
    patient = pool(queue=Queue(capacity=64), timeouts=Timeouts(wall_ms=3_600_000, idle_ms=3_600_000))

    async def foretold(here: World) -> float:
        low = request(priority=Priority.BATCH)
        return (await here.orchestrator.foretell(low, CALLER)).predicted_start_ms

    async with world(SILENT, settings=config(patient), tasks=before) as made:
        for number in range(12):
            await made.submit(task_id=f"t{number}")
            await pass_time(20)
        expected = await foretold(made)
        after = killed(tmp_path)
    async with world(SILENT, settings=config(patient), tasks=after) as made:
        assert await foretold(made) == pytest.approx(expected, rel=0.1)


# --- a stop ---


async def test_a_stop_leaves_what_waits_and_ends_what_has_spoken(before: Path) -> None:
    async with world(SPEAKING, tasks=before) as made:
        spoken = await made.submit(task_id="spoken")
        waits = await made.submit(task_id="waits")
        await pass_time(0.1)
    assert codes(spoken) == [ErrorCode.POOL_UNAVAILABLE]
    assert not waits.finished
    async with world(tasks=before) as made:
        assert isinstance((await _over(found(made, "waits"))).outcome, End)
        again = found(made, "spoken")
        assert (again.outcome, again.status) == (spoken.outcome, spoken.status)


async def test_without_a_file_a_stop_ends_everybody() -> None:
    async with world(SILENT) as made:
        tasks = [await made.submit(), await made.submit()]
    assert codes(*tasks) == [ErrorCode.POOL_UNAVAILABLE] * 2


def _pinned(pool_id: str) -> PoolSnapshot:
    return snapshot(pool_id, engine_digest="sha256:e")


def _of(q: PoolSnapshot) -> Callable[[str], PoolSnapshot]:
    return lambda pool_id: q if pool_id == "q" else snapshot(pool_id)


async def _over(task: Task) -> Task:
    await ended(task)
    return task


async def test_what_an_engine_took_to_let_go_of_a_task_is_known_after_a_restart(before: Path, tmp_path: Path) -> None:
    engine = ScriptedAdapter(SPEAKING)
    engine.lingers = 0.2
    async with world(engines={"p": engine}, tasks=before) as made:
        task = await made.submit(task_id="t")
        await pass_time(0.1)
        made.orchestrator.cancel(task, "client")
        await pass_time(1)
        took_ms = task.status.slot_free_ms
        assert took_ms is not None
        after = killed(tmp_path)
    async with world(tasks=after) as made:
        assert found(made, "t").status.slot_free_ms == took_ms

"""orchestratord is killed at every single write of a day's work, and goes on from what is on the disk then.

Whatever a client had been told by that moment stays true, every task that was let in ends once and leaves one receipt,
and the receipts form one chain.
"""

import random
import shutil
from pathlib import Path

import msgspec
import pytest

from contracts.config import Config, Queue
from contracts.errors import ErrorCode
from contracts.events import End, StreamError
from contracts.pools import PoolSnapshot
from contracts.tasks import Determinism, Priority, TaskState
from daemon_core.chain import Copy, verify
from orchestratord.task import Task
from tests.simulation.house import PLAYED
from tests.support.stream_grammar import check
from tests.support.virtual_loop import pass_time
from tests.unit.orchestratord.world import (
    STOPPED_WELL,
    Pause,
    Script,
    ScriptedAdapter,
    World,
    config,
    pool,
    snapshot,
    world,
)

SPEECH = Script(body=("one", Pause(0.2), " two", " three", Pause(0.3), " four", STOPPED_WELL))
WORDS = ["one", " two", " three", " four"]
TASKS = 9


class Told(msgspec.Struct, frozen=True):
    """What was told of one task: that it was let in, and what could be read of it."""

    stream: bytes
    ended: bool
    strict: bool
    artifact_id: str | None


class Witness:
    """At every write: the files as a kill would leave them, and all that had been told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tasks = folder / "now" / "tasks.sqlite3"
        self.let_in: list[Task] = []
        self.moments: list[tuple[str, Path, dict[str, Told]]] = []

    def point(self, name: str) -> None:
        copy = self.folder / f"{len(self.moments)}"
        shutil.copytree(self.tasks.parent, copy)
        told = {task.id: _told(task) for task in self.let_in}
        self.moments.append((name, copy / "tasks.sqlite3", told))


def _told(task: Task) -> Told:
    strict = task.request.determinism is Determinism.STRICT
    return Told(task.log.read(0), task.log.closed, strict, task.artifact_id if task.log.closed else None)


def _settings() -> Config:
    return config(pool(queue=Queue(capacity=TASKS)))


def _pinned(pool_id: str) -> PoolSnapshot:
    return snapshot(pool_id, engine_digest="sha256:e")


async def _day(made: World, witness: Witness, draw: random.Random) -> None:
    """Tasks of all kinds come, wait, run, are cancelled and end."""
    for number in range(TASKS):
        strict = draw.random() < 0.5
        task = await made.submit(
            task_id=f"t{number}",
            prompt=f"t{number}",
            determinism=Determinism.STRICT if strict else Determinism.BEST_EFFORT,
            priority=draw.choice(list(Priority)),
            session_id="s" if draw.random() < 0.3 else None,
        )
        witness.let_in.append(task)
        await pass_time(draw.choice([0.0, 0.1, 0.6]))
        if draw.random() < 0.3:
            made.orchestrator.cancel(draw.choice(witness.let_in), "client")
    await pass_time(60)
    assert all(task.finished for task in witness.let_in)


def _check_task(made: World, task_id: str, told: Told) -> None:
    task = made.orchestrator.get(task_id)
    assert task.finished
    stream, said = task.log.read(0), check(task.log.read(0))
    assert task.artifact_id is not None
    if told.ended:
        assert (stream, task.artifact_id) == (told.stream, told.artifact_id)
        return
    seen = check(told.stream, whole=False).tokens
    asked_again = task_id in [asked.prompt for asked in made.engines["p"].asked]
    assert told.strict or not seen or not asked_again  # nobody is told of two runs
    texts = [token.t for token in said.tokens]
    match task.outcome:
        case End():
            assert texts == WORDS or task.state is TaskState.CANCELED
            assert texts[: len(seen)] == [token.t for token in seen]
        case StreamError(code=code):
            assert code is ErrorCode.WORKER_RESET
            assert not told.strict
        case None:
            pytest.fail("it has no end")


def _check_receipts(made: World, let_in: set[str]) -> None:
    sealed = made.keeper.read(0, 1000)
    left = [msgspec.json.decode(each.content, type=dict[str, object]) for each in sealed]
    names = [str(each["task_id"]) for each in left]
    assert len(names) == len(set(names))
    assert let_in <= set(names)
    copies = [Copy(id=each.id, receipt=msgspec.Raw(each.content)) for each in sealed]
    verdict = verify(copies, made.keeper.first)
    assert not verdict.breaks
    assert [each["number"] for each in left] == list(range(1, len(left) + 1))


@pytest.mark.req("HP-17", "HP-19", "HP-21")
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_was_told_stays_true_wherever_it_is_killed(tmp_path: Path, seed: int) -> None:
    witness = Witness(tmp_path)
    engines = {"p": ScriptedAdapter(otherwise=SPEECH)}
    async with world(
        settings=_settings(), engines=engines, tasks=witness.tasks, snapshots=_pinned, point=witness.point
    ) as made:
        await _day(made, witness, random.Random(seed))
    for name, tasks, told in witness.moments:
        engines = {"p": ScriptedAdapter(otherwise=SPEECH)}
        async with world(settings=_settings(), engines=engines, tasks=tasks, snapshots=_pinned) as made:
            await pass_time(60)
            try:
                for task_id, each in told.items():
                    _check_task(made, task_id, each)
                _check_receipts(made, set(told))
            except BaseException as error:
                error.add_note(f"killed {name}")
                raise
        shutil.rmtree(tasks.parent)
    PLAYED["kills of orchestratord"] += len(witness.moments)

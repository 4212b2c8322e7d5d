"""What is kept of tasks, and what is done where it cannot be kept."""

import asyncio
import errno
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.artifacts import Artifact
from contracts.config import Durability, Profile
from contracts.errors import ErrorCode
from contracts.events import End, FinishReason, Started
from contracts.pools import Endpoint
from contracts.receipts import Link, Receipt
from contracts.tasks import Determinism, TaskState
from daemon_core.chain import Copy, Fault, verify
from daemon_core.heartbeat import Heartbeats
from daemon_core.liveness import Ailing
from daemon_core.redaction import Redactor
from daemon_core.steps import finished
from orchestratord import keeper as keeper_module
from orchestratord import kept
from orchestratord.database import Database, Row
from orchestratord.database_file import DatabaseError
from orchestratord.errors import ApiError
from orchestratord.keeper import Keeper
from orchestratord.kept import Moment
from orchestratord.recorder import Recorder
from orchestratord.retention import Bounds
from orchestratord.shelf import artifact_of
from orchestratord.task import Admission, Caller, Run, Task
from tests.unit.orchestratord.world import STOPPED_WELL, request, snapshot

SECRET = "s3cr3t-of-the-operator-4711"
BOUNDS = Bounds(tasks=1000, max_bytes=1 << 30, max_age_ms=1 << 40)
LANE = frozenset({"p"})
NOW_MS = 1_764_492_245_000


class Time:
    """Both clocks, which stand until they are moved."""

    def __init__(self, unix_ms: int = NOW_MS, monotonic_ms: float = 1_000.0) -> None:
        self.unix, self.monotonic = unix_ms, monotonic_ms

    def unix_ms(self) -> int:
        return self.unix

    def monotonic_ms(self) -> float:
        return self.monotonic

    def passes(self, ms: int) -> None:
        self.unix += ms
        self.monotonic += ms


class Disk:
    """A disk that takes nothing, or a file that is damaged, when it is told so."""

    def __init__(self) -> None:
        self.full = False
        self.damaged_at = ""

    def point(self, name: str) -> None:
        if name == self.damaged_at:
            self.damaged_at = ""
            message = "the task store is damaged"
            raise DatabaseError(message, "", damaged=True)
        if self.full and name.startswith("before"):
            message = "the task store cannot be written: no space left"
            raise DatabaseError(message, "make room")


class Place:
    """A folder, and the keepers that follow each other in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tasks.sqlite3"
        self.clock = Time()
        self.disk = Disk()
        self.redactor = Redactor((SECRET,))
        self.keeper: Keeper
        self.open()

    def open(self, bounds: Bounds = BOUNDS, **given: Any) -> Keeper:  # noqa: ANN401 - any argument of the keeper
        recorder = Recorder(Profile.TRIAL, self.redactor, self.clock.unix_ms)
        fields: dict[str, Any] = {"durability": Durability.PROCESS, "seal": recorder.seal}
        database = Database.opened(self.path, self.disk.point)
        self.keeper = Keeper(database, clock=self.clock, bounds=bounds, redactor=self.redactor, **(fields | given))
        return self.keeper

    def again(self, **given: Any) -> Keeper:  # noqa: ANN401 - any argument of the keeper
        """The keeper of the next process."""
        self.keeper.close()
        self.clock = Time(self.clock.unix, 5.0)  # another process, another monotonic clock
        return self.open(**given)

    def task(self, task_id: str = "t1", **changes: Any) -> Task:  # noqa: ANN401 - any field of the request
        """A task that was let in."""
        admission = Admission(
            task_id=task_id,
            job_id=f"job-{task_id}",
            request=request(**changes),
            seed=7,
            caller=Caller("corr", "localhost"),
            created_ms=self.clock.unix,
            at_ms=self.clock.monotonic,
            queue_position=0,
            predicted_start_ms=0,
            backoff_ms=0,
        )
        made = Task(admission, self.keeper)
        self.keeper.admits(made, LANE, finished(self.keeper.shown(made.request)))
        return made

    def runs(self, task: Task, *texts: str) -> None:
        served = snapshot(engine_digest="sha256:e", endpoint=Endpoint(url="http://p", api_key="key-of-the-engine"))
        run = Run(
            pool_id="p",
            replica_id="p-0",
            engine="llamacpp",
            engine_version="b1",
            at_ms=self.clock.monotonic,
            served=served,
        )
        task.start(
            run,
            Started(
                task_id=task.id,
                job_id=task.admission.job_id,
                queue_position=0,
                predicted_start_ms=0,
                engine="llamacpp",
                engine_version="b1",
                model_digest="sha256:0",
                pool_id="p",
                replica_id="p-0",
                profile=Profile.TRIAL,
                seed=7,
                kv_warmth=False,
            ),
        )
        for text in texts:
            task.texts([text], self.clock.monotonic)

    def bytes_on_disk(self) -> bytes:
        return b"".join(each.read_bytes() for each in self.path.parent.iterdir())

    def chain(self) -> list[tuple[int, str | None, str]]:
        """Number, previous and id of every receipt."""
        found = []
        for sealed in self.keeper.read(0, 1000):
            receipt = msgspec.json.decode(sealed.content, type=dict[str, Any])
            found.append((receipt["number"], receipt["previous"], sealed.id))
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.keeper.close()


# --- a life ---


@pytest.mark.req("HP-21")
def test_an_ended_task_is_told_of_by_the_next_process_as_it_was(place: Place) -> None:
    task = place.task()
    place.clock.passes(20)
    place.runs(task, "one", " two")
    place.clock.passes(30)
    task.done(STOPPED_WELL, place.clock.monotonic)
    before, stream = task.status, task.log.read(0)
    place.clock.passes(100_000)
    again = place.again().task("t1")
    assert again is not None
    assert again.status == before
    assert again.log.read(0) == stream
    assert again.accepted == task.accepted
    assert again.request == task.request
    [listed] = finished(place.keeper.newest(None, 10))
    assert listed.status == before
    assert finished(place.keeper.newest(TaskState.FAILED, 10)) == []


def test_the_key_of_an_engine_is_not_written(place: Place) -> None:
    task = place.task()
    place.runs(task, "one")
    task.done(STOPPED_WELL, place.clock.monotonic)
    assert b"key-of-the-engine" not in place.bytes_on_disk()


def test_a_task_without_an_end_is_found_with_what_it_had_sent(place: Place) -> None:
    strict = place.task("strict", determinism=Determinism.STRICT)
    place.task("waits")
    best = place.task("best")
    place.clock.passes(20)
    place.runs(strict, "one", " two")
    place.runs(best, "three")
    place.clock.passes(1_000)
    keeper = place.again()
    rows = {row.id: row for row in keeper.unended()}
    assert list(rows) == ["strict", "waits", "best"]
    assert {row.id: row.state for row in rows.values()} == {"strict": "running", "waits": "queued", "best": "running"}
    assert keeper.journal("strict") == strict.log.read(0)
    assert keeper.journal("best") == b""
    now = Moment(place.clock.monotonic, place.clock.unix)
    entered = kept.read_entered(rows["strict"].entered, now)
    assert entered.admission.request == strict.request
    assert entered.pools == ("p",)
    past = rows["strict"].past
    assert past is not None
    task = kept.open_task(entered.admission, kept.read_past(past), keeper.journal("strict"), keeper)
    assert task.status.first_token_ms == 20
    assert task.log.text_sha256 == strict.log.text_sha256
    assert task.log.tokens == 2
    assert keeper.task("best") is None  # who has not ended is not to be told of from here


def test_each_receipt_names_the_one_before_also_in_the_next_process(place: Place) -> None:
    for number in range(3):
        task = place.task(f"a{number}")
        task.cancel(place.clock.monotonic)
        assert task.artifact_id is not None
    keeper = place.again()
    assert keeper.last == 3
    task = place.task("b")
    task.fail(ErrorCode.WORKER_RESET, "lost")
    chain = place.chain()
    assert [number for number, _, _ in chain] == [1, 2, 3, 4]
    assert [previous for _, previous, _ in chain] == [None, *(name for _, _, name in chain[:-1])]
    assert keeper.next == Link(number=5, previous=chain[-1][2])
    assert keeper.first == Link(number=1, previous=None)
    found = keeper.get(chain[1][2])
    assert found is not None
    assert msgspec.json.decode(found.content, type=Receipt).task_id == "a1"
    assert keeper.get("sha256:" + "0" * 64) is None
    assert keeper.get("nonsense") is None


@pytest.mark.req("HP-21")
@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"\x00\xff", id="bytes"),
        pytest.param("hello", id="text"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="object"),
        pytest.param(12, id="integer"),
        pytest.param(b'{"number":NaN}', id="nan"),
        pytest.param(b'{"number":1,"a":"\xff"}', id="no-utf8"),
        pytest.param(b"[" * 9000, id="deep"),
    ],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_receipt_that_is_none_any_more_hides_no_other_one(place: Place, rubbish: object, number: int) -> None:
    for name in ("a", "b", "c"):
        place.task(name).cancel(place.clock.monotonic)
    with closing(sqlite3.connect(place.path)) as file, file:
        file.execute("UPDATE receipts SET content = ?, ended_ms = 'never' WHERE number = ?", (rubbish, number))
    found = place.keeper.read(0, 10)
    seen = verify((Copy(id=each.id, receipt=msgspec.Raw(each.content)) for each in found), place.keeper.first)
    assert [(each.number, each.fault) for each in seen.breaks] == [(number, Fault.UNREADABLE)]
    assert seen.holds == 2
    assert msgspec.json.decode(found[number - 1].content) == {"number": number}
    artifact = msgspec.json.decode(msgspec.json.encode(artifact_of(found[number - 1])), type=Artifact)
    assert artifact.created_ms == 0
    assert place.keeper.get(artifact.id) == found[number - 1]


def test_without_receipts_tasks_are_kept_all_the_same(place: Place) -> None:
    place.again(seal=None)
    task = place.task()
    task.cancel(place.clock.monotonic)
    assert task.artifact_id is None
    assert place.keeper.last == 0
    found = place.again().task("t1")
    assert found is not None
    assert found.state is TaskState.CANCELED


def test_when_a_slot_came_free_after_the_end_is_written_too(place: Place) -> None:
    task = place.task()
    place.runs(task, "one")
    task.cancel(place.clock.monotonic)
    task.slot_free_ms = 12.4
    place.keeper.freed(task)
    found = place.again().task("t1")
    assert found is not None
    assert found.status == task.status
    assert found.status.slot_free_ms == 12


# --- secrets ---


@pytest.mark.req("ORCH-3811")
def test_a_secret_in_a_request_is_not_written_and_the_request_is_known_again(place: Place) -> None:
    secret = request(prompt=f"my key is {SECRET}")
    task = place.task(prompt=secret.prompt, determinism=Determinism.STRICT)
    place.runs(task, "it is s3cr3t-of-", "the-operator", "-4711", " indeed")
    keeper = place.again()
    assert SECRET.encode() not in place.bytes_on_disk()
    [row] = keeper.unended()
    entered = kept.read_entered(row.entered, Moment(0, 0))
    assert entered.veil == kept.veil_of(task.request)
    assert keeper.journal("t1") == b""
    keeper.adopt(task, entered, row)
    task._keeps = keeper  # noqa: SLF001 - as if it had been alive here
    task.done(STOPPED_WELL, place.clock.monotonic)
    place.keeper.close()
    written = place.bytes_on_disk()
    assert SECRET.encode() not in written
    assert b"the-operator" not in written
    found = place.open().task("t1")
    assert found is not None
    assert kept.asks_the_same(found, task.request)
    assert not kept.asks_the_same(found, request(prompt="another"))
    assert found.log.tokens == 4
    assert b"it is *** indeed" in found.log.read(0)


# --- a disk that takes nothing ---


def test_on_a_full_disk_nobody_comes_in_and_everybody_ends(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    first, second = place.task("first"), place.task("second")
    place.runs(first, "one")
    place.disk.full = True
    with pytest.raises(ApiError) as caught:
        place.task("third")
    refusal = caught.value.refusal
    assert refusal.code is ErrorCode.POOL_UNAVAILABLE
    assert "no space left" in refusal.message
    assert refusal.hint == "make room"
    assert place.keeper.trouble == "the task store cannot be written: no space left"
    first.texts([" two"], place.clock.monotonic)
    first.done(STOPPED_WELL, place.clock.monotonic)
    second.cancel(place.clock.monotonic)
    assert first.finished
    assert b"event: end" in first.log.read(0)
    assert first.status.artifact_id is None
    assert caplog.text.count("no space left") == 1
    assert place.keeper.task("first") is first
    assert place.keeper.last == 0
    place.disk.full = False
    third = place.task("third")
    assert not place.keeper.trouble
    third.cancel(place.clock.monotonic)
    assert [number for number, _, _ in place.chain()] == [1, 2, 3]
    assert first.artifact_id == place.chain()[0][2]
    keeper = place.again()
    found = [keeper.task(task_id) for task_id in ("first", "second", "third")]
    assert [each.state if each else None for each in found] == [
        TaskState.DONE,
        TaskState.CANCELED,
        TaskState.CANCELED,
    ]
    assert keeper.unended() == []


def test_what_is_written_ahead_has_no_gap_where_the_disk_took_nothing_for_a_while(place: Place) -> None:
    task = place.task(determinism=Determinism.STRICT)
    place.runs(task, "one")
    place.disk.full = True
    task.texts([" two"], place.clock.monotonic)
    task.texts([" three"], place.clock.monotonic)
    place.disk.full = False
    assert b"two" not in place.keeper.journal("t1")
    task.texts([" four"], place.clock.monotonic)
    assert place.keeper.journal("t1") == task.log.read(0)


def test_what_is_owed_is_written_before_the_daemon_ends(place: Place) -> None:
    task = place.task()
    place.disk.full = True
    task.cancel(place.clock.monotonic)
    place.disk.full = False
    found = place.again().task("t1")
    assert found is not None
    assert found.finished


async def test_what_is_owed_is_written_as_soon_as_the_disk_takes_it(place: Place) -> None:
    task = place.task()
    place.disk.full = True
    task.cancel(place.clock.monotonic)
    await place.keeper.look_after()
    assert place.keeper.last == 0
    place.disk.full = False
    await place.keeper.look_after()
    assert place.keeper.last == 1


async def test_a_store_that_lets_much_go_is_alive(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        place.task(f"t{number}").cancel(place.clock.monotonic)
    monkeypatch.setattr(keeper_module, "AT_ONCE", 1)
    monkeypatch.setattr(keeper_module, "UPKEEP_S", 0.0)
    keeper, beats = place.again(bounds=msgspec.structs.replace(BOUNDS, tasks=1)), Heartbeats()
    place.clock.passes(60_000)
    ailing: list[Ailing] = []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(keeper.run(beats))
        while len(finished(keeper.newest(None, 2))) > 1:
            ailing += beats.look(2.0, 30.0)  # as if each step had taken two seconds
            await asyncio.sleep(0)
        running.cancel()
    assert not ailing


@pytest.mark.parametrize("gap", ["one", " two", " three"])
async def test_a_strict_task_is_gone_on_with_from_all_that_it_has_sent(place: Place, gap: str) -> None:
    task = place.task(determinism=Determinism.STRICT)
    place.runs(task)
    for text in ("one", " two", " three"):
        place.disk.full = text == gap
        task.texts([text], place.clock.monotonic)
    place.disk.full = False
    await place.keeper.look_after()
    [row] = place.again().unended()
    assert row.state == "running"
    assert place.keeper.journal("t1") == task.log.read(0)


async def test_a_task_has_spoken_also_where_that_could_not_be_written_at_once(place: Place) -> None:
    task = place.task()
    place.runs(task)
    place.disk.full = True
    task.texts(["one"], place.clock.monotonic)
    place.disk.full = False
    await place.keeper.look_after()
    [row] = place.again().unended()
    assert row.state == "running"
    assert row.past is not None


async def test_what_could_not_be_written_ahead_of_the_first_token_is_no_reason_to_end(place: Place) -> None:
    task = place.task(determinism=Determinism.STRICT)
    place.disk.full = True
    place.runs(task)
    place.disk.full = False
    await place.keeper.look_after()
    [row] = place.again().unended()
    assert (row.state, row.past) == ("queued", None)


def test_a_disk_that_cannot_be_read_at_the_start_passes_over_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Database) -> list[Row]:
        message = "the task store cannot be written: disk I/O error"
        raise DatabaseError(message, "")

    place.task()
    keeper = place.again()
    with monkeypatch.context() as patch:
        patch.setattr(Database, "unended", fails)
        with pytest.raises(DatabaseError):
            keeper.unended()
    assert [row.id for row in keeper.unended()] == ["t1"]


# --- a damaged file ---


@pytest.mark.parametrize("step", ["set_aside", "looked_at"])
def test_a_damaged_file_that_cannot_be_replaced_at_once_is_replaced_later(
    place: Place, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: Path) -> None:
        message = "the task store cannot be written: no space left"
        raise DatabaseError(message, "make room")

    strict, waits = place.task("strict", determinism=Determinism.STRICT), place.task("waits")
    place.runs(strict, "one")
    with monkeypatch.context() as patch:
        patch.setattr(f"orchestratord.database.{step}", full)
        place.disk.damaged_at = "before admit"
        for number in range(3):
            with pytest.raises(ApiError):
                place.task(f"refused{number}")
        waits.cancel(place.clock.monotonic)
    assert finished(place.keeper.newest(None, 9)) == [waits]
    place.task("late")
    assert caplog.text.count("no space left") == 1
    assert len(list(place.path.parent.glob("*.damaged-*Z"))) == 1
    keeper = place.again()
    assert [row.id for row in keeper.unended()] == ["strict", "late"]
    assert keeper.journal("strict") == strict.log.read(0)
    assert [task.id for task in finished(keeper.newest(None, 9))] == ["waits"]


@pytest.mark.parametrize("moment", ["before end", "before admit", "before append"])
def test_a_file_that_is_damaged_while_it_is_used_loses_nobody_who_lives(place: Place, moment: str) -> None:
    gone = place.task("gone")
    gone.cancel(place.clock.monotonic)
    strict, waits = place.task("strict", determinism=Determinism.STRICT), place.task("waits")
    place.runs(strict, "one")
    place.disk.damaged_at = moment
    place.task("late")
    strict.texts([" two"], place.clock.monotonic)
    waits.cancel(place.clock.monotonic)
    assert len(list(place.path.parent.glob("*.damaged-*Z"))) == 1
    assert place.chain() == [(1, None, waits.artifact_id)]
    keeper = place.again()
    assert {row.id for row in keeper.unended()} == {"strict", "late"}
    assert keeper.journal("strict") == strict.log.read(0)
    assert keeper.task("gone") is None
    ended = keeper.task("waits")
    assert ended is not None
    assert ended.state is TaskState.CANCELED


@pytest.mark.req("HP-21")
def test_a_chain_that_no_receipt_can_go_on_begins_anew(place: Place) -> None:
    place.task("ended").cancel(place.clock.monotonic)
    place.task("waits")
    with closing(sqlite3.connect(place.path)) as file, file:
        file.execute("UPDATE receipts SET number = ?", (2**63 - 1,))
    place.again()
    place.task("late").cancel(place.clock.monotonic)
    assert [number for number, _, _ in place.chain()] == [1]
    assert len(list(place.path.parent.glob("*.damaged-*Z"))) == 1


@pytest.mark.req("HP-13")
@pytest.mark.parametrize("by", ["nothing", "empty", "alone", "another"])
async def test_a_file_that_is_taken_away_while_it_is_used_loses_nothing(
    place: Place, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    place.task("ended").cancel(place.clock.monotonic)
    strict = place.task("strict", determinism=Determinism.STRICT)
    place.runs(strict, "one")
    for suffix in ("",) if by == "alone" else ("", "-wal", "-shm"):
        place.path.with_name(place.path.name + suffix).unlink()
    if by == "empty":
        place.path.touch()
    if by == "another":
        place.path.write_bytes(b"another one" * 99)
    await place.keeper.look_after()
    await place.keeper.look_after()
    strict.texts([" two"], place.clock.monotonic)
    place.task("late").cancel(place.clock.monotonic)
    assert caplog.text.count("was taken away while it was used") == 1
    assert place.path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(place.path)) as other:  # as a process finds it that comes after kill -9
        assert other.execute("SELECT count(*) FROM receipts").fetchall() == [(2,)]
    keeper = place.again()
    assert [row.id for row in keeper.unended()] == ["strict"]
    assert keeper.journal("strict") == strict.log.read(0)
    assert keeper.task("ended") is not None
    assert [number for number, _, _ in place.chain()] == [1, 2]
    aside = [each.read_bytes() for each in place.path.parent.glob("*.damaged-*Z")]
    assert aside == {"empty": [b""], "another": [b"another one" * 99]}.get(by, [])


def test_a_file_that_is_damaged_when_it_is_found_makes_place_for_a_new_one(place: Place) -> None:
    for number in range(50):
        place.task(f"t{number}", prompt="x" * 3000).cancel(place.clock.monotonic)
    place.keeper.close()
    data = bytearray(place.path.read_bytes())
    for page in range(1, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    place.path.write_bytes(data)
    keeper = place.open()
    assert keeper.unended() == []
    assert keeper.next == Link(number=1, previous=None)
    place.task("new").cancel(place.clock.monotonic)
    assert keeper.last == 1


# --- what goes ---


async def test_what_is_too_old_or_too_much_goes_and_the_chain_stays_whole(place: Place) -> None:
    keeper = place.again(bounds=Bounds(tasks=40, max_bytes=1 << 30, max_age_ms=1_000_000))
    for number in range(100):
        place.task(f"t{number}").cancel(place.clock.monotonic)
        place.clock.passes(1_000)
    await keeper.look_after()
    assert [task.id for task in finished(keeper.newest(None, 1000))] == [f"t{number}" for number in range(99, 59, -1)]
    assert len(place.chain()) == 100
    place.clock.passes(950_000)
    await keeper.look_after()
    chain = place.chain()
    assert [number for number, _, _ in chain] == list(range(51, 101))
    assert keeper.first == Link(number=51, previous=chain[0][1])
    place.clock.passes(10_000_000)
    await keeper.look_after()
    assert [number for number, _, _ in place.chain()] == [100]
    assert finished(keeper.newest(None, 10)) == []
    keeper = place.again()
    assert keeper.next.number == 101


def test_an_end_without_a_run_is_kept_as_well(place: Place) -> None:
    task = place.task()
    task.cancel(place.clock.monotonic)
    outcome = task.outcome
    assert isinstance(outcome, End)
    assert outcome.finish_reason is FinishReason.CANCELED
    found = place.again().task("t1")
    assert found is not None
    assert found.outcome == outcome


# --- a power cut ---


class Platter:
    """What ``fdatasync`` waits for, held by a test."""

    def __init__(self) -> None:
        self.flushes = 0
        self.go = threading.Event()
        self.fails = False

    def flush(self, _: int) -> None:
        self.go.wait(10)
        self.flushes += 1
        if self.fails:
            raise OSError(errno.EIO, "input/output error")


@pytest.fixture
def platter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Platter]:
    made = Platter()
    monkeypatch.setattr("orchestratord.disk.os.fdatasync", made.flush)
    yield made
    made.go.set()


def on_a_real_loop(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Threads know nothing of virtual time."""
    with asyncio.Runner() as runner:
        runner.run(work())


def test_with_machine_an_end_is_told_when_it_is_on_the_disk_and_not_before(place: Place, platter: Platter) -> None:
    keeper = place.again(durability=Durability.MACHINE)

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(keeper.run())
            tasks = [place.task(f"t{number}") for number in range(5)]
            for task in tasks:
                task.cancel(place.clock.monotonic)
            woken = asyncio.Event()
            tasks[-1].log.subscribe(woken.set)
            await asyncio.sleep(0)
            assert [(task.finished, task.log.closed) for task in tasks] == [(True, False)] * 5
            assert keeper.last == 5
            platter.go.set()
            await woken.wait()
            assert all(task.log.closed for task in tasks)
            assert platter.flushes <= 2  # who waits at one moment waits together
            running.cancel()

    on_a_real_loop(story)


def test_with_machine_the_first_token_waits_for_it_that_the_task_speaks(place: Place, platter: Platter) -> None:
    keeper = place.again(durability=Durability.MACHINE)
    task = place.task()
    place.runs(task)

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            written = task.speaks(place.clock.monotonic)
            assert written is not None
            speaking = group.create_task(written)
            await asyncio.sleep(0)
            assert [row.state for row in keeper.unended()] == ["running"]
            assert not speaking.done()
            platter.go.set()
            await speaking

    on_a_real_loop(story)


def test_with_machine_a_daemon_that_ends_tells_all_of_it(place: Place, platter: Platter) -> None:
    keeper = place.again(durability=Durability.MACHINE)
    platter.go.set()
    task = place.task()

    async def story() -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(keeper.run())
            await asyncio.sleep(0)
            task.cancel(place.clock.monotonic)
            running.cancel()
        assert task.log.closed

    on_a_real_loop(story)


def test_a_disk_that_cannot_flush_lets_nobody_in_and_holds_nobody_up(place: Place, platter: Platter) -> None:
    keeper = place.again(durability=Durability.MACHINE)
    platter.fails = True
    platter.go.set()
    place.task("t1")

    async def story() -> None:
        with pytest.raises(ApiError) as caught:
            await keeper.admitted()
        assert caught.value.refusal.code is ErrorCode.POOL_UNAVAILABLE
        await keeper.settled()

    on_a_real_loop(story)


def test_a_new_file_that_takes_nothing_yet_gets_all_who_live_as_they_end(place: Place) -> None:
    first, second = place.task("first"), place.task("second")
    place.disk.damaged_at, place.disk.full = "before end", True
    first.cancel(place.clock.monotonic)
    place.disk.full = False
    second.cancel(place.clock.monotonic)
    assert [number for number, _, _ in place.chain()] == [1, 2]
    found = finished(place.again().newest(None, 9))
    assert {task.id for task in found} == {"first", "second"}

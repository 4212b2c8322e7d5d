"""The file of the task store: real files, and everything that can be wrong with one."""

import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from contracts.tasks import TaskState
from orchestratord.database import ROW_BYTES, Database, Ending, ReceiptRow
from orchestratord.database_file import APPLICATION_ID, MIGRATIONS, DatabaseError
from orchestratord.retention import Totals


def receipt(number: int, task_id: str = "t", ended_ms: int = 0) -> ReceiptRow:
    return ReceiptRow(number, f"{number:064x}", task_id, ended_ms, b"{}")


def end(database: Database, task_id: str, number: int | None = None, ended_ms: int = 0, stream: bytes = b"s") -> None:
    """One task ends, and leaves a receipt where it has a number."""
    made = None if number is None else receipt(number, task_id, ended_ms)
    row = database.task(task_id)
    assert row is not None
    database.end(
        Ending(
            number=row.number,
            task_id=task_id,
            state="done",
            past=b"past",
            stream=stream,
            ended_ms=ended_ms,
            size=ROW_BYTES + len(row.entered) + 4 + len(stream),
            receipt=made,
        )
    )


def count(database: Database) -> int:
    return len(database.unended()) + database.totals().tasks


def filled(path: Path, rows: int = 200) -> None:
    database = Database.opened(path)
    for number in range(rows):
        database.admit(f"t{number}", b"x" * 1000)
    database.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "tasks.sqlite3"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    made = Database.opened(path)
    yield made
    made.close()


# --- what stands in it ---


def test_a_task_is_found_again_as_it_was_written_step_by_step(path: Path) -> None:
    database = Database.opened(path)
    database.admit("a", b"admission of a")
    database.admit("b", b"admission of b")
    database.speak("a", b"spoken")
    database.append("a", b"one")
    database.append("b", b"other")
    database.append("a", b"two")
    database.close()
    database = Database.opened(path)
    found = database.unended()
    assert [(row.id, row.state, row.past, row.entered, row.stream) for row in found] == [
        ("a", "running", b"spoken", b"admission of a", None),
        ("b", "queued", None, b"admission of b", None),
    ]
    assert database.journal("a") == b"onetwo"
    end(database, "a", 1, 5)
    size = ROW_BYTES + len(b"admission of a" + b"past" + b"s")
    row = database.task("a")
    assert row is not None
    assert (row.state, row.past, row.stream) == ("done", b"past", b"s")
    assert [each.id for each in database.unended()] == ["b"]
    assert database.newest(None, 5) == [(TaskState.DONE, b"past")]
    assert database.newest(TaskState.FAILED, 5) == []
    assert database.receipt(f"{1:064x}") == receipt(1, "a", 5)
    assert database.totals() == Totals(tasks=1, receipts=1, size=size + ROW_BYTES + 2)
    database.close()


def test_an_end_removes_what_was_written_ahead(database: Database) -> None:
    number = database.admit("a", b"")
    database.append("a", b"one")
    database.end(
        Ending(
            number=number,
            task_id="a",
            state="done",
            past=b"",
            stream=b"",
            ended_ms=0,
            size=0,
            receipt=None,
            journaled=True,
        )
    )
    assert database.journal("a") == b""


def test_an_end_that_fails_leaves_nothing_of_itself(database: Database) -> None:
    database.admit("a", b"")
    database.admit("b", b"")
    end(database, "a", 1)
    with pytest.raises(DatabaseError):
        end(database, "b", 1)
    assert [row.id for row in database.unended()] == ["b"]


def test_what_is_forgotten_may_come_again(database: Database) -> None:
    database.admit("a", b"first")
    database.append("a", b"one")
    database.forget("a")
    database.admit("a", b"second")
    assert [row.entered for row in database.unended()] == [b"second"]
    assert database.journal("a") == b""


def test_what_is_let_go_is_gone_and_the_rest_is_not(database: Database) -> None:
    for number in range(1, 5):
        database.admit(f"t{number}", b"")
        if number < 4:
            end(database, f"t{number}", number, number)
    assert [old.name for old in database.oldest_tasks(2)] == ["t1", "t2"]
    assert [old.name for old in database.oldest_receipts(9)] == [1, 2, 3]
    database.let_go(["t1", "t4"], 3)  # one that has not ended never goes
    assert database.task("t1") is None
    assert [row.id for row in database.unended()] == ["t4"]
    assert [each.number for each in database.receipts(0, 9)] == [3]
    last = database.last_receipt()
    assert last is not None
    assert last.number == 3


def test_every_write_is_told_before_and_after(path: Path) -> None:
    seen: list[str] = []
    database = Database.opened(path, seen.append)
    database.admit("a", b"")
    database.speak("a", b"")
    end(database, "a")
    assert seen == [f"{when} {what}" for what in ("admit", "speak", "end") for when in ("before", "after")]
    assert database.writes == 3
    database.close()


# --- the file ---


def test_only_this_user_can_read_it(database: Database, path: Path) -> None:
    database.admit("a", b"")
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600, each
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_without_a_path_it_is_in_memory_alone() -> None:
    database = Database.opened(None)
    database.admit("a", b"")
    assert count(database) == 1
    database.close()


def test_a_second_one_on_the_same_file_is_refused(database: Database, path: Path) -> None:
    del database
    program = f"""
from pathlib import Path
from orchestratord.database import Database
Database.opened(Path({str(path)!r}))
"""
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert "another orchestratord uses" in other.stderr
    with pytest.raises(DatabaseError, match="another orchestratord") as caught:
        Database.opened(path)
    assert "paths.data" in caught.value.hint


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"no database at all, and long enough to be looked at" * 100,
        lambda data: b"\0" * 16 + data[16:],
        lambda data: data[: len(data) // 2],
        lambda data: data[:100] + b"\xff" * 4000 + data[4100:],
        lambda data: data[: 4096 * 3],
    ],
    ids=["another file", "header", "half", "first page", "three pages"],
)
def test_a_damaged_file_is_moved_aside_and_a_new_one_begins(
    path: Path, harm: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    filled(path)
    harmed = harm(path.read_bytes())
    path.write_bytes(harmed)
    database = Database.opened(path)
    if not list(path.parent.glob("*.damaged-*")):  # what is damaged behind the first page is met when it is read
        with pytest.raises(DatabaseError) as caught:
            count(database)
        assert caught.value.damaged
        database.renew()
    assert count(database) == 0
    [aside] = path.parent.glob("tasks.sqlite3.damaged-*Z")
    assert aside.stat().st_size == len(harmed)
    assert str(aside) in caplog.text
    database.admit("a", b"")
    assert count(database) == 1
    database.close()


def test_what_was_moved_aside_before_stays(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    for number in range(3):
        path.write_bytes(b"junk %d" % number * 1000)
        Database.opened(path).close()
    kept = list(path.parent.glob("*.damaged-*"))
    assert sorted(each.read_bytes()[:6] for each in kept) == [b"junk 0", b"junk 1", b"junk 2"]


def test_a_page_that_is_damaged_while_it_is_used_is_told_from_a_full_disk(path: Path) -> None:
    filled(path)
    data = bytearray(path.read_bytes())
    for page in range(12, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    database = Database.opened(path)
    with pytest.raises(DatabaseError) as caught:
        database.unended()
    assert caught.value.damaged
    database.close()


def test_a_mistake_of_ours_is_not_taken_for_a_damaged_file(path: Path) -> None:
    database = Database.opened(path)
    database.admit("a", b"")
    with pytest.raises(DatabaseError) as caught:
        database.admit("a", b"")
    assert not caught.value.damaged
    database.close()
    with pytest.raises(DatabaseError) as caught:
        database.unended()
    assert not caught.value.damaged


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    filled(path, 1)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="newer llama-orch: it has schema 2") as caught:
        Database.opened(path)
    assert "update llama-orch" in caught.value.hint
    assert not caught.value.damaged
    assert path.read_bytes() == before


def test_the_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    connection.close()
    with pytest.raises(DatabaseError, match="another program"):
        Database.opened(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM theirs").fetchone() == (0,)
    connection.close()


def test_ours_can_be_told_from_others(path: Path) -> None:
    filled(path, 1)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_folder_that_cannot_be_used_is_refused_with_its_mend(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DatabaseError) as caught:
        Database.opened(blocked / "tasks.sqlite3")
    assert str(blocked) in caught.value.message
    assert "paths" in caught.value.hint
    assert not caught.value.damaged


LIMITED = """
import resource, sys
from pathlib import Path
from orchestratord.database import Database, Ending
from orchestratord.database_file import DatabaseError
database = Database.opened(Path(sys.argv[1]))
first = database.admit("first", b"")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    for number in range(1000):
        database.admit(f"t{number}", b"x" * 1000)
except DatabaseError as error:
    assert not error.damaged
    print(error.message, error.hint)
ending = Ending(
    number=first, task_id="first", state="done", past=b"x" * 9000, stream=b"", ended_ms=1, size=1, receipt=None
)
try:
    database.end(ending)
except DatabaseError as error:
    print("not yet")
assert len(database.unended()) == number + 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
database.admit(f"t{number}", b"x" * 1000)
database.end(ending)
assert len(database.unended()) == number + 1
assert database.totals().tasks == 1
database.close()
"""


def test_a_full_disk_loses_what_was_not_written_and_nothing_else(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"the task store {path} cannot be written" in done.stdout
    assert "make room" in done.stdout
    assert "not yet" in done.stdout


KILLED = """
import os, signal, sys
from pathlib import Path
from orchestratord.database import Database, Ending, ReceiptRow
def point(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
database = Database.opened(Path(sys.argv[1]), point)
number = database.admit("a", b"entered")
database.speak("a", b"spoken")
receipt = ReceiptRow(1, "0" * 64, "a", 1, b"{}")
database.end(
    Ending(
        number=number, task_id="a", state="done", past=b"over", stream=b"all", ended_ms=1, size=9, receipt=receipt
    )
)
"""


@pytest.mark.req("HP-21")
@pytest.mark.parametrize("step", ["admit", "speak", "end"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_that_is_killed_at_a_write_leaves_all_of_it_or_nothing(path: Path, moment: str, step: str) -> None:
    killed = [sys.executable, "-c", KILLED, str(path), f"{moment} {step}"]
    done = subprocess.run(killed, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    database = Database.opened(path)
    reached = ["admit", "speak", "end"].index(step) + (moment == "after")
    found, receipts = database.task("a"), database.receipts(0, 9)
    past = (None, None, b"spoken", b"over")[reached]
    assert (found is None) is (reached == 0)
    assert found is None or found.past == past
    assert len(receipts) == (reached == 3)
    assert found is None or found.stream == (b"all" if reached == 3 else None)
    database.close()


def test_what_is_let_go_is_given_back_to_the_disk(path: Path) -> None:
    database = Database.opened(path)
    for number in range(1000):
        database.admit(f"t{number}", b"x" * 4000)
        end(database, f"t{number}")
    database.close()
    full = path.stat().st_size
    database = Database.opened(path)
    database.let_go([f"t{number}" for number in range(1000)], None)
    while database.shrink():
        pass
    database.close()
    assert path.stat().st_size < full / 2


def test_what_is_counted_is_about_what_it_takes_on_the_disk(path: Path) -> None:
    database = Database.opened(path)
    for number in range(1, 400):
        database.admit(f"task-{number:024x}", b"x" * (number * 10))
        end(database, f"task-{number:024x}", number, stream=b"y" * (number * 20))
    counted = database.totals().size
    database.close()
    assert 0.6 * path.stat().st_size < counted < 1.4 * path.stat().st_size


def test_the_log_of_a_killed_run_is_brought_into_the_file_by_the_next(path: Path, tmp_path: Path) -> None:
    database = Database.opened(path)
    for number in range(200):
        database.admit(f"t{number}", b"x" * 1000)
    left = tmp_path / "left" / path.name  # as one finds it that was killed: with its log
    left.parent.mkdir(mode=0o700)
    for name in (path.name, f"{path.name}-wal"):
        (left.parent / name).write_bytes((path.parent / name).read_bytes())
    database.close()
    log = left.with_name(f"{left.name}-wal")
    assert log.stat().st_size > 200_000
    database = Database.opened(left)
    assert (log.stat().st_size, count(database)) == (0, 200)
    database.close()


def test_no_descriptor_stays_open(path: Path) -> None:
    def open_now() -> set[tuple[str, str]]:
        """Each with what it leads to: a garbage collection may close what another test has left."""
        found = set()
        for each in list(Path("/proc/self/fd").iterdir()):
            with suppress(FileNotFoundError):  # the one that has listed them
                found.add((each.name, str(each.readlink())))
        return found

    filled(path)
    before = open_now()
    for number in range(4):
        database = Database.opened(path)
        if number % 2:
            database.renew()
        database.close()
    assert open_now() <= before

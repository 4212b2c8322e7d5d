"""Tasks, their streams and their receipts in one SQLite file.

Decides the schema, what belongs into one transaction, and what is done about a file that cannot be read: it is moved
aside and said, never overwritten. What is let go is ``retention``'s to decide, what becomes of found tasks
``recovery``'s. Blocking, though for tens of microseconds only: what waits for a disk is done by ``disk`` in a thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from contracts.tasks import TaskState
from daemon_core.errors import PathsError
from daemon_core.paths import make_private_dir
from orchestratord.retention import Old, Totals

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE tasks (
  number INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of admission
  id TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL,
  admission BLOB NOT NULL,                  -- orchestratord.kept.Entered, JSON
  past BLOB,                                -- orchestratord.kept.Past, JSON, once it has sent a token or has ended
  stream BLOB,                              -- its frames but for the last, once it has ended
  ended_ms INTEGER,                         -- Unix milliseconds
  size INTEGER NOT NULL DEFAULT 0           -- of all this, in bytes, once it has ended
);
CREATE INDEX tasks_of_state ON tasks (state, number);
CREATE INDEX tasks_by_end ON tasks (ended_ms, number) WHERE ended_ms IS NOT NULL;
CREATE TABLE journal (                      -- what a running strict task has sent
  part INTEGER PRIMARY KEY AUTOINCREMENT,
  task_id TEXT NOT NULL,
  frames BLOB NOT NULL
);
CREATE INDEX journal_of_task ON journal (task_id, part);
CREATE TABLE receipts (
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,                  -- sha256 of the content, 64 digits
  task_id TEXT NOT NULL,
  ended_ms INTEGER NOT NULL,
  content BLOB NOT NULL
);
CREATE INDEX receipts_of_task ON receipts (task_id);
"""
OPEN_STATES = (TaskState.QUEUED.value, TaskState.RUNNING.value)

Point = Callable[[str], None]
"""Told before and after each write, by its name; for tests that end the process there."""


class DatabaseError(Exception):
    """The file cannot be used, in words for an operator. ``damaged``: what stands in it cannot be trusted."""

    def __init__(self, message: str, hint: str, *, damaged: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.damaged = damaged


class Row(msgspec.Struct, frozen=True):
    """A task as it stands in the file."""

    number: int
    id: str
    state: str
    admission: bytes
    past: bytes | None
    stream: bytes | None


class ReceiptRow(msgspec.Struct, frozen=True):
    """A receipt as it stands in the file: ``id`` without its prefix, ``ended_ms`` in Unix milliseconds."""

    number: int
    id: str
    task_id: str
    ended_ms: int
    content: bytes


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """All that the end of a task writes."""

    task_id: str
    state: str
    past: bytes
    stream: bytes
    ended_ms: int
    receipt: ReceiptRow | None


DAMAGED = "%s; it stands in %s now, and the tasks and receipts in it are not known any more"
_RECEIPTS = "SELECT number, id, task_id, ended_ms, content FROM receipts"
_NEW_RECEIPT = "INSERT INTO receipts (number, id, task_id, ended_ms, content) VALUES (?, ?, ?, ?, ?)"
_TASKS = "SELECT number, id, state, admission, past, stream FROM tasks"
_HEADS = "SELECT number, id, state, admission, past, NULL FROM tasks"


def _no_point(_: str) -> None: ...


class Database:
    """One open file, or with ``path`` None a database in memory that nobody else sees. Use ``opened``."""

    def __init__(self, path: Path | None, connection: sqlite3.Connection, lock: int | None, point: Point) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._point = point
        self.writes = 0
        """How many transactions were committed."""

    @classmethod
    def opened(cls, path: Path | None, point: Point = _no_point) -> Database:
        """Open the file, or make it; one that cannot be read is moved aside first. Raises DatabaseError."""
        if path is None:
            return cls(None, _ready(sqlite3.connect(":memory:", isolation_level=None)), None, point)
        try:
            make_private_dir(path.parent)
            lock = _locked(path)
        except PathsError as error:
            raise DatabaseError(error.message, error.hint or "") from error
        except OSError as error:
            raise _trouble(path, error.strerror or str(error)) from error
        try:
            return cls(path, _connected(path), lock, point)
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def replaced(self) -> Database:
        """Close this file, set it aside, and begin a new one in its place. Raises DatabaseError."""
        if self.path is None or self._lock is None:  # pragma: no cover - a database in memory has no file
            return self
        self._connection.close()
        aside = set_aside(self.path)
        log.error("the damaged task store stands in %s now, and what had ended is not known any more", aside)
        lock, self._lock = self._lock, None
        fresh = Database(self.path, _looked_at(self.path), lock, self._point)
        fresh.writes = self.writes
        return fresh

    # --- tasks --------------------------------------------------------------------------------------------------------

    def admit(self, task_id: str, admission: bytes) -> None:
        """A task has entered the queue."""
        self._one("admit", "INSERT INTO tasks (id, state, admission) VALUES (?, 'queued', ?)", (task_id, admission))

    def speak(self, task_id: str, past: bytes) -> None:
        """A task is about to send its first token."""
        self._one("speak", "UPDATE tasks SET state = 'running', past = ? WHERE id = ?", (past, task_id))

    def append(self, task_id: str, frames: bytes) -> None:
        """A strict task is about to send these frames."""
        self._one("append", "INSERT INTO journal (task_id, frames) VALUES (?, ?)", (task_id, frames))

    def forget(self, task_id: str) -> None:
        """A task without an end cannot be gone on with."""
        self._one("forget", "DELETE FROM tasks WHERE id = ? AND ended_ms IS NULL", (task_id,))

    def unsay(self, task_id: str) -> None:
        """What a task was about to send when it had sent no token is of no account."""
        self._one("unsay", "DELETE FROM journal WHERE task_id = ?", (task_id,))

    def end(self, ending: Ending) -> None:
        """A task's end, its whole stream and its receipt: all of it, or nothing."""
        with self._transaction("end") as run:
            size = len(ending.past) + len(ending.stream)
            run(
                "UPDATE tasks SET state = ?, past = ?, stream = ?, ended_ms = ?, size = ? + length(admission)"
                " WHERE id = ?",
                (ending.state, ending.past, ending.stream, ending.ended_ms, size, ending.task_id),
            )
            run("DELETE FROM journal WHERE task_id = ?", (ending.task_id,))
            if ending.receipt is not None:
                run(_NEW_RECEIPT, _values(ending.receipt))

    def task(self, task_id: str) -> Row | None:
        """A task by its id."""
        return next((Row(*row) for row in self._select(_TASKS + " WHERE id = ?", (task_id,))), None)

    def unended(self) -> list[Row]:
        """The tasks that have had no end, in the order of their admission."""
        query = _TASKS + " WHERE state IN (?, ?) ORDER BY number"
        return [Row(*row) for row in self._select(query, OPEN_STATES)]

    def newest(self, state: TaskState | None, limit: int) -> list[Row]:
        """The newest tasks, without their streams."""
        if state is None:
            found = self._select(_HEADS + " ORDER BY number DESC LIMIT ?", (limit,))
        else:
            found = self._select(_HEADS + " WHERE state = ? ORDER BY number DESC LIMIT ?", (state.value, limit))
        return [Row(*row) for row in found]

    def journal(self, task_id: str) -> bytes:
        """What a task without an end has sent."""
        found = self._select("SELECT frames FROM journal WHERE task_id = ? ORDER BY part", (task_id,))
        return b"".join(frames for (frames,) in found)

    # --- receipts -----------------------------------------------------------------------------------------------------

    def receipt(self, digest: str) -> ReceiptRow | None:
        """A receipt by the digits of its id."""
        found = self._select(_RECEIPTS + " WHERE id = ?", (digest,))
        return next((ReceiptRow(*row) for row in found), None)

    def receipts(self, after: int, limit: int) -> list[ReceiptRow]:
        """Those with greater numbers, in their order."""
        query = _RECEIPTS + " WHERE number > ? ORDER BY number LIMIT ?"
        return [ReceiptRow(*row) for row in self._select(query, (after, limit))]

    def last_receipt(self) -> ReceiptRow | None:
        """The newest."""
        found = self._select(_RECEIPTS + " ORDER BY number DESC LIMIT 1")
        return next((ReceiptRow(*row) for row in found), None)

    # --- what is let go -----------------------------------------------------------------------------------------------

    def totals(self) -> Totals:
        """What ended tasks and receipts take together."""
        [(tasks, task_bytes)] = self._select("SELECT count(*), total(size) FROM tasks WHERE ended_ms IS NOT NULL")
        [(receipts, receipt_bytes)] = self._select("SELECT count(*), total(length(content)) FROM receipts")
        return Totals(tasks=tasks, receipts=receipts, size=round(task_bytes + receipt_bytes))

    def oldest_tasks(self, limit: int) -> list[Old[str]]:
        """The tasks that ended first."""
        query = "SELECT id, ended_ms, size FROM tasks WHERE ended_ms IS NOT NULL ORDER BY ended_ms, number LIMIT ?"
        return [Old(*row) for row in self._select(query, (limit,))]

    def oldest_receipts(self, limit: int) -> list[Old[int]]:
        """The receipts that were written first, by their numbers."""
        query = "SELECT number, ended_ms, length(content) FROM receipts ORDER BY number LIMIT ?"
        return [Old(*row) for row in self._select(query, (limit,))]

    def let_go(self, task_ids: Sequence[str], receipts_below: int | None) -> None:
        """Forget ended tasks, and the receipts below a number; the file gives back what they took."""
        with self._transaction("let_go") as run:
            for task_id in task_ids:
                run("DELETE FROM tasks WHERE id = ? AND ended_ms IS NOT NULL", (task_id,))
            if receipts_below is not None:
                run("DELETE FROM receipts WHERE number < ?", (receipts_below,))
        self._connection.execute("PRAGMA incremental_vacuum").fetchall()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _one(self, name: str, statement: str, values: tuple[Any, ...]) -> None:
        self._point(f"before {name}")
        try:
            self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise _database_error(self.path, error) from error
        self.writes += 1
        self._point(f"after {name}")

    @contextmanager
    def _transaction(self, name: str) -> Iterator[Callable[..., object]]:
        self._point(f"before {name}")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _database_error(self.path, error) from error
        self.writes += 1
        self._point(f"after {name}")

    def _select(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _database_error(self.path, error) from error


def _values(row: ReceiptRow) -> tuple[Any, ...]:
    return (row.number, row.id, row.task_id, row.ended_ms, row.content)


# --- the file ---------------------------------------------------------------------------------------------------------


def _locked(path: Path) -> int:
    """Hold the file for this process alone. Raises OSError or DatabaseError."""
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        text = f"another orchestratord uses {path}"
        raise DatabaseError(text, "stop it, or give this one another place by paths.data") from None
    return lock


def _connected(path: Path) -> sqlite3.Connection:
    """A connection to a sound file. Raises DatabaseError."""
    try:
        return _looked_at(path)
    except DatabaseError as error:
        if not error.damaged:
            raise
        aside = set_aside(path)
        log.error(DAMAGED, error, aside)  # noqa: TRY400 - the error itself is the message
    return _looked_at(path)


def _looked_at(path: Path) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    except (OSError, sqlite3.Error) as error:
        raise _trouble(path, str(error)) from error
    try:
        return _ready(connection)
    except sqlite3.Error as error:
        connection.close()
        raise _database_error(path, error) from error
    except BaseException:
        connection.close()
        raise


def _ready(connection: sqlite3.Connection) -> sqlite3.Connection:
    run = connection.execute
    version = run("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        text = f"the task store has version {version}, and this llama-orch knows {SCHEMA_VERSION}"
        raise DatabaseError(text, "use the newer llama-orch, or move tasks.sqlite3 away")
    if version == 0:
        run("PRAGMA auto_vacuum = INCREMENTAL")
    run("PRAGMA journal_mode = WAL")
    run("PRAGMA synchronous = NORMAL")
    run("PRAGMA wal_autocheckpoint = 0")
    found = run("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    if version == 0:
        connection.executescript(f"BEGIN;{SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};COMMIT;")
    return connection


def set_aside(path: Path) -> Path:
    """Move a file and what belongs to it out of the way; answers with its new place. Raises DatabaseError."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        for suffix in ("-wal", "-shm", ""):
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                beside.replace(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise _trouble(path, error.strerror or str(error)) from error
    return aside


_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def _database_error(path: Path | None, error: sqlite3.Error) -> DatabaseError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in _DAMAGED:
        return DatabaseError(f"the task store {path} is damaged: {error}", "", damaged=True)
    return _trouble(path, str(error))


def _trouble(path: Path | None, why: str) -> DatabaseError:
    where = "memory" if path is None else str(path.parent)
    hint = f"make room in {where} and let this user write there, or lower store.max_bytes"
    return DatabaseError(f"the task store {path or 'in memory'} cannot be written: {why}", hint)

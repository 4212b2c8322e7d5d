"""Tasks, their streams and their receipts in one SQLite file.

Decides the schema, what belongs into one transaction, and which file can be used: one that another process holds, that
a newer llama-orch wrote or that is another program's is refused; one that cannot be read is moved aside and said, never
overwritten. What is let go is ``retention``'s to decide, what becomes of found tasks ``recovery``'s. Blocking, though
for tens of microseconds only: what waits for a disk is done by ``disk`` in a thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from contracts.tasks import TaskState
from daemon_core.errors import PathsError
from daemon_core.paths import make_private_dir
from orchestratord.retention import Old, Totals

log = logging.getLogger(__name__)

APPLICATION_ID = 0x6C6C6F74
"""Tells our files from others'."""
MIGRATIONS = (
    """
CREATE TABLE tasks (
  number INTEGER PRIMARY KEY,               -- the order of admission
  id TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL,
  followed INTEGER NOT NULL DEFAULT 0,      -- whether somebody has read its stream
  ended_ms INTEGER,                         -- Unix milliseconds
  size INTEGER NOT NULL DEFAULT 0,          -- of all that belongs to it, in bytes, once it has ended
  past BLOB                                 -- orchestratord.kept.Past, JSON, once it has sent a token or has ended
);
CREATE INDEX tasks_by_end ON tasks (ended_ms, number) WHERE ended_ms IS NOT NULL;
CREATE TABLE admissions (                   -- apart, since a long prompt is written once and read seldom
  number INTEGER PRIMARY KEY,
  entered BLOB NOT NULL                     -- orchestratord.kept.Entered, JSON
);
CREATE TABLE streams (
  number INTEGER PRIMARY KEY,
  frames BLOB NOT NULL                      -- all but the last, once the task has ended
);
CREATE TABLE journal (                      -- what a strict task has sent that has not ended
  part INTEGER PRIMARY KEY,
  task_id TEXT NOT NULL,
  frames BLOB NOT NULL
);
CREATE INDEX journal_of_task ON journal (task_id, part);
CREATE TABLE receipts (
  number INTEGER PRIMARY KEY,
  id BLOB NOT NULL UNIQUE,                  -- sha256 of the content
  task_id TEXT NOT NULL,
  ended_ms INTEGER NOT NULL,
  content BLOB NOT NULL
);
""",
)
"""Each brings the schema from its number to the next. What is here is never changed, only added to."""
LOG_BYTES = 8 << 20
"""What SQLite's log keeps on the disk once all of it is in the file."""
LARGEST = 2**63 - 1
"""The last number that SQLite knows."""
SPARE_PAGES = 256
"""So many pages without content stay in the file, for what comes next; a quarter of it, where that is more."""
PAGES_AT_ONCE = 128
ROW_BYTES = 320
"""About what a task or a receipt takes beside its contents: its rows, and their places in the indices."""
BUSY_S = 1.0
"""How long somebody else who writes into our file is waited for: nobody should."""
Point = Callable[[str], None]
"""Told before and after each write, by its name; for tests that end the process there."""


class DatabaseError(Exception):
    """The file cannot be used, in words for an operator. ``damaged``: what stands in it cannot be trusted."""

    def __init__(self, message: str, hint: str, *, damaged: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.damaged = damaged


class Damaged(Enum):
    """Where a file stands that was found to be damaged while it was used."""

    NOT = "not"
    HERE = "here"
    ASIDE = "aside"


class Row(msgspec.Struct, frozen=True):
    """A task as it stands in the file."""

    number: int
    id: str
    state: str
    past: bytes | None
    entered: bytes
    stream: bytes | None
    followed: int


class ReceiptRow(msgspec.Struct, frozen=True):
    """A receipt as it stands in the file: ``id`` without its prefix, ``ended_ms`` in Unix milliseconds."""

    number: int
    id: str
    task_id: str
    ended_ms: int
    content: bytes


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """All that the end of a task writes."""

    number: int
    task_id: str
    state: str
    past: bytes
    stream: bytes
    ended_ms: int
    size: int
    """What the task takes."""
    receipt: ReceiptRow | None
    journaled: bool = False
    """Whether its frames stand in the journal as well."""


DAMAGED = "%s; it stands in %s now, and the tasks and receipts in it are not known any more"
TAKEN = "the task store %s was taken away while it was used; all that was known of it has been written there again%s"
_RECEIPTS = "SELECT number, lower(hex(id)), task_id, ended_ms, content FROM receipts"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NEW_RECEIPT = "INSERT INTO receipts (number, id, task_id, ended_ms, content) VALUES (?, ?, ?, ?, ?)"
_TASKS = (
    "SELECT number, id, state, past, entered, frames, followed FROM tasks JOIN admissions USING (number)"
    " LEFT JOIN streams USING (number)"
)
_ENDED = "SELECT state, past FROM tasks WHERE ended_ms IS NOT NULL"
_FORGET = (
    "DELETE FROM admissions WHERE number = (SELECT number FROM tasks WHERE id = ? AND ended_ms IS NULL)",
    "DELETE FROM journal WHERE task_id = ?",
    "DELETE FROM tasks WHERE id = ? AND ended_ms IS NULL",
)
_LET_GO = (
    "DELETE FROM admissions WHERE number = (SELECT number FROM tasks WHERE id = ? AND ended_ms IS NOT NULL)",
    "DELETE FROM streams WHERE number = (SELECT number FROM tasks WHERE id = ? AND ended_ms IS NOT NULL)",
    "DELETE FROM tasks WHERE id = ? AND ended_ms IS NOT NULL",
)


def _no_point(_: str) -> None: ...


class Database:
    """One open file, or with ``path`` None a database in memory that nobody else sees. Use ``opened``."""

    def __init__(self, path: Path | None, connection: sqlite3.Connection, lock: int | None, point: Point) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._point = point
        self._damaged = Damaged.NOT
        self._file = _identity(path)
        self.writes = 0
        """How many transactions were committed."""

    @classmethod
    def opened(cls, path: Path | None, point: Point = _no_point) -> Database:
        """Open the file, or make it; one that cannot be read is moved aside first. Raises DatabaseError."""
        if path is None:
            return cls(None, _ready(sqlite3.connect(":memory:", isolation_level=None), None), None, point)
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

    def renew(self) -> None:
        """Set this damaged file aside, and begin a new one in its place. Raises DatabaseError: then try again."""
        if self.path is None:  # pragma: no cover - a database in memory has no file
            return
        self._connection.close()
        if self._damaged is not Damaged.ASIDE:
            self._damaged = Damaged.HERE
            log.error(DAMAGED, f"the task store {self.path} is damaged", set_aside(self.path))
            self._damaged = Damaged.ASIDE
        self._connection = _looked_at(self.path)
        self._damaged, self._file = Damaged.NOT, _identity(self.path)

    def hold(self) -> None:
        """Be in the file of this name, also where that one was taken away or replaced. Raises DatabaseError."""
        if self.path is None or self._damaged is not Damaged.NOT or _identity(self.path) == self._file:
            return
        copy = self.path.with_name(f"{self.path.name}.copy")
        try:
            copy.unlink(missing_ok=True)
            os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(copy)) as target:
                self._connection.backup(target)
            aside = set_aside(self.path)
            copy.replace(self.path)
            moved = _looked_at(self.path)
        except sqlite3.Error as error:
            raise _database_error(self.path, error) from error
        except OSError as error:
            raise _trouble(self.path, error.strerror or str(error)) from error
        finally:
            with suppress(OSError):
                copy.unlink(missing_ok=True)
        self._connection.close()  # it sees that its file is another one, and leaves the log of the new one alone
        self._connection, self._file = moved, _identity(self.path)
        log.error(TAKEN, self.path, f"; what stood there is in {aside} now" if aside.exists() else "")

    # --- tasks --------------------------------------------------------------------------------------------------------

    def admit(self, task_id: str, entered: bytes) -> int:
        """A task has entered the queue; answers with its number."""
        with self._transaction("admit") as run:
            number = run("INSERT INTO tasks (id, state) VALUES (?, 'queued')", (task_id,)).lastrowid
            run("INSERT INTO admissions VALUES (?, ?)", (number, entered))
        return number or 0

    def speak(self, task_id: str, past: bytes) -> None:
        """A task is about to send its first token."""
        self._one("speak", "UPDATE tasks SET state = 'running', past = ? WHERE id = ?", (past, task_id))

    def follow(self, task_id: str) -> None:
        """Somebody reads a task's stream."""
        self._one("follow", "UPDATE tasks SET followed = 1 WHERE id = ?", (task_id,))

    def append(self, task_id: str, frames: bytes) -> None:
        """A strict task is about to send these frames."""
        self._one("append", "INSERT INTO journal (task_id, frames) VALUES (?, ?)", (task_id, frames))

    def forget(self, task_id: str) -> None:
        """A task without an end cannot be gone on with."""
        with self._transaction("forget") as run:
            for statement in _FORGET:
                run(statement, (task_id,))

    def unsay(self, task_id: str) -> None:
        """What a task was about to send when it had sent no token is of no account."""
        self._one("unsay", "DELETE FROM journal WHERE task_id = ?", (task_id,))

    def end(self, ending: Ending) -> None:
        """A task's end, its whole stream and its receipt: all of it, or nothing."""
        with self._transaction("end") as run:
            run(
                "UPDATE tasks SET state = ?, past = ?, ended_ms = ?, size = ? WHERE number = ?",
                (ending.state, ending.past, ending.ended_ms, ending.size, ending.number),
            )
            run("INSERT INTO streams VALUES (?, ?)", (ending.number, ending.stream))
            if ending.journaled:
                run("DELETE FROM journal WHERE task_id = ?", (ending.task_id,))
            if ending.receipt is not None:
                run(_NEW_RECEIPT, _values(ending.receipt))

    def tell(self, task_id: str, past: bytes) -> None:
        """Something more is known of a task that has ended."""
        self._one("tell", "UPDATE tasks SET past = ? WHERE id = ? AND ended_ms IS NOT NULL", (past, task_id))

    def task(self, task_id: str) -> Row | None:
        """A task by its id."""
        return next((Row(*row) for row in self._select(_TASKS + " WHERE id = ?", (task_id,))), None)

    def unended(self) -> list[Row]:
        """The tasks that have had no end, in the order of their admission."""
        return [Row(*row) for row in self._select(_TASKS + " WHERE ended_ms IS NULL ORDER BY number")]

    def newest(self, state: TaskState | None, limit: int) -> list[tuple[TaskState, bytes]]:
        """The states and the pasts of the newest tasks that have ended."""
        if state is None:
            found = self._select(_ENDED + " ORDER BY number DESC LIMIT ?", (limit,))
        else:
            found = self._select(_ENDED + " AND state = ? ORDER BY number DESC LIMIT ?", (state.value, limit))
        return [(TaskState(how), past) for how, past in found]

    def journal(self, task_id: str) -> bytes:
        """What a task without an end has sent."""
        found = self._select("SELECT frames FROM journal WHERE task_id = ? ORDER BY part", (task_id,))
        return b"".join(frames for (frames,) in found)

    # --- receipts -----------------------------------------------------------------------------------------------------

    def receipt(self, digest: str) -> ReceiptRow | None:
        """A receipt by the digits of its id."""
        if not _DIGEST.fullmatch(digest):
            return None
        found = self._select(_RECEIPTS + " WHERE id = ?", (bytes.fromhex(digest),))
        return next((ReceiptRow(*row) for row in found), None)

    def receipts(self, after: int, limit: int) -> list[ReceiptRow]:
        """Those with greater numbers, in their order."""
        query = _RECEIPTS + " WHERE number > ? ORDER BY number LIMIT ?"
        return [ReceiptRow(*row) for row in self._select(query, (after, limit))]

    def last_receipt(self) -> ReceiptRow | None:
        """The newest. Raises DatabaseError: where none can come after it, too, which only damage or a hand can do."""
        found = self._select(_RECEIPTS + " ORDER BY number DESC LIMIT 1")
        if found and found[0][0] >= LARGEST:
            message = f"the task store {self.path} is damaged: no receipt can come after number {LARGEST}"
            raise DatabaseError(message, "", damaged=True)
        return next((ReceiptRow(*row) for row in found), None)

    # --- what is let go -----------------------------------------------------------------------------------------------

    def totals(self) -> Totals:
        """What ended tasks and receipts take together."""
        [(tasks, task_bytes)] = self._select("SELECT count(*), total(size) FROM tasks WHERE ended_ms IS NOT NULL")
        [(receipts, content_bytes)] = self._select("SELECT count(*), total(length(content)) FROM receipts")
        size = round(task_bytes + content_bytes) + receipts * ROW_BYTES
        return Totals(tasks=tasks, receipts=receipts, size=size)

    def oldest_tasks(self, limit: int) -> list[Old[str]]:
        """The tasks that ended first."""
        query = "SELECT id, ended_ms, size FROM tasks WHERE ended_ms IS NOT NULL ORDER BY ended_ms, number LIMIT ?"
        return [Old(*row) for row in self._select(query, (limit,))]

    def oldest_receipts(self, limit: int) -> list[Old[int]]:
        """The receipts that were written first, by their numbers."""
        query = "SELECT number, ended_ms, length(content) + ? FROM receipts ORDER BY number LIMIT ?"
        return [Old(*row) for row in self._select(query, (ROW_BYTES, limit))]

    def let_go(self, task_ids: Sequence[str], receipts_below: int | None) -> None:
        """Forget ended tasks, and the receipts below a number."""
        with self._transaction("let_go") as run:
            for task_id in task_ids:
                for statement in _LET_GO:
                    run(statement, (task_id,))
            if receipts_below is not None:
                run("DELETE FROM receipts WHERE number < ?", (receipts_below,))

    def shrink(self) -> bool:
        """Give a little of what nothing stands in back to the disk; whether there is more."""
        [(pages,)] = self._select("PRAGMA page_count")
        [(free,)] = self._select("PRAGMA freelist_count")
        spare = int(free) - max(SPARE_PAGES, int(pages) // 4)
        if spare > 0:
            self._select(f"PRAGMA incremental_vacuum({min(spare, PAGES_AT_ONCE)})")
        return spare > PAGES_AT_ONCE

    # --- inside -------------------------------------------------------------------------------------------------------

    def _one(self, name: str, statement: str, values: tuple[Any, ...]) -> None:
        self._point(f"before {name}")
        try:
            self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise self._wrong(error) from error
        self.writes += 1
        self._point(f"after {name}")

    @contextmanager
    def _transaction(self, name: str) -> Iterator[Callable[..., sqlite3.Cursor]]:
        self._point(f"before {name}")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._wrong(error) from error
        self.writes += 1
        self._point(f"after {name}")

    def _select(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._wrong(error) from error

    def _wrong(self, error: sqlite3.Error) -> DatabaseError:
        """In our words; while there is no sound file, nothing can be asked or written."""
        if self._damaged is not Damaged.NOT:
            return DatabaseError(f"the task store {self.path} is damaged", "", damaged=True)
        return _database_error(self.path, error)


def _values(row: ReceiptRow) -> tuple[Any, ...]:
    return (row.number, bytes.fromhex(row.id), row.task_id, row.ended_ms, row.content)


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
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
    except (OSError, sqlite3.Error) as error:
        raise _trouble(path, str(error)) from error
    try:
        _ready(connection, path)
        _settled(path.parent)
    except sqlite3.Error as error:
        connection.close()
        raise _database_error(path, error) from error
    except OSError as error:
        connection.close()
        raise _trouble(path, error.strerror or str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _ready(connection: sqlite3.Connection, path: Path | None) -> sqlite3.Connection:
    """A connection whose file has the present schema. Raises sqlite3.Error, DatabaseError."""
    run = connection.execute
    version = _number(connection, "PRAGMA user_version")
    foreign = _number(connection, "PRAGMA application_id") != APPLICATION_ID
    if foreign and (version or _number(connection, "SELECT count(*) FROM sqlite_schema")):
        text = f"{path} is a database of another program"
        raise DatabaseError(text, "move it away, or give orchestratord another place by paths.data")
    if version > len(MIGRATIONS):
        text = f"{path} was written by a newer llama-orch: it has schema {version}, and this one knows"
        raise DatabaseError(f"{text} {len(MIGRATIONS)}", "update llama-orch, or move the file away to begin a new one")
    if foreign:
        run("PRAGMA auto_vacuum = INCREMENTAL")
    mode = run("PRAGMA journal_mode = WAL").fetchone()[0]
    if path is not None and mode != "wal":
        text = f"{path} is on a file system that keeps no write-ahead log"
        raise DatabaseError(text, "set paths.data to a directory on a disk of this machine")
    run("PRAGMA synchronous = NORMAL")
    run("PRAGMA wal_autocheckpoint = 0")
    run(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    for number in range(version, len(MIGRATIONS)):
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number + 1}"
        connection.executescript(f"BEGIN IMMEDIATE;{MIGRATIONS[number]}{marks};COMMIT;")
    # Otherwise one that is killed again and again before it looks after its file would have a log without bound.
    with suppress(sqlite3.OperationalError):  # a disk that takes nothing shows itself when it is written to
        run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return connection


def _number(connection: sqlite3.Connection, question: str) -> int:
    return int(connection.execute(question).fetchone()[0])


def _settled(folder: Path) -> None:
    """What is new in a folder keeps its name through a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Which file has this name; None where none has."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def set_aside(path: Path) -> Path:
    """Move a file and what belongs to it out of the way; answers with its new place. Raises DatabaseError."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside, number = path.with_name(f"{path.name}.damaged-{moment}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{moment}-{number}")
    try:
        for suffix in ("-wal", "-shm", ""):
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                beside.replace(aside.with_name(aside.name + suffix))
    except OSError as error:
        raise _trouble(path, error.strerror or str(error)) from error
    return aside


_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})


def _database_error(path: Path | None, error: sqlite3.Error) -> DatabaseError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # none: not the file, but how we asked
    if code in _DAMAGED:
        return DatabaseError(f"the task store {path} is damaged: {error}", "", damaged=True)
    return _trouble(path, str(error))


def _trouble(path: Path | None, why: str) -> DatabaseError:
    where = "memory" if path is None else str(path.parent)
    hint = f"make room in {where} and let this user write there, or lower store.max_bytes"
    return DatabaseError(f"the task store {path or 'in memory'} cannot be written: {why}", hint)

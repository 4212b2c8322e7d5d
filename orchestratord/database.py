"""Tasks, their streams and their receipts in one SQLite file.

Decides what belongs into one transaction. How the file looks, and which one can be used, is ``database_file``'s; what
is let go is ``retention``'s to decide, what becomes of found tasks ``recovery``'s. Blocking, though for tens of
microseconds only: what waits for a disk is done by ``disk`` in a thread.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from contracts.tasks import TaskState
from daemon_core.errors import PathsError
from daemon_core.paths import make_private_dir
from orchestratord.database_file import (
    DAMAGED,
    DatabaseError,
    connected,
    database_error,
    identity,
    locked,
    looked_at,
    ready,
    set_aside,
    trouble,
)
from orchestratord.retention import Old, Totals

log = logging.getLogger(__name__)

LARGEST = 2**63 - 1
"""The last number that SQLite knows."""
SPARE_PAGES = 256
"""So many pages without content stay in the file, for what comes next; a quarter of it, where that is more."""
PAGES_AT_ONCE = 128
ROW_BYTES = 320
"""About what a task or a receipt takes beside its contents: its rows, and their places in the indices."""
Point = Callable[[str], None]
"""Told before and after each write, by its name; for tests that end the process there."""


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
        self._file = identity(path)
        self.writes = 0
        """How many transactions were committed."""

    @classmethod
    def opened(cls, path: Path | None, point: Point = _no_point) -> Database:
        """Open the file, or make it; one that cannot be read is moved aside first. Raises DatabaseError."""
        if path is None:
            return cls(None, ready(sqlite3.connect(":memory:", isolation_level=None), None), None, point)
        try:
            make_private_dir(path.parent)
            lock = locked(path)
        except PathsError as error:
            raise DatabaseError(error.message, error.hint or "") from error
        except OSError as error:
            raise trouble(path, error.strerror or str(error)) from error
        try:
            return cls(path, connected(path), lock, point)
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
        self._connection = looked_at(self.path)
        self._damaged, self._file = Damaged.NOT, identity(self.path)

    def hold(self) -> None:
        """Be in the file of this name, also where that one was taken away or replaced. Raises DatabaseError."""
        if self.path is None or self._damaged is not Damaged.NOT or identity(self.path) == self._file:
            return
        copy = self.path.with_name(f"{self.path.name}.copy")
        try:
            copy.unlink(missing_ok=True)
            os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(copy)) as target:
                self._connection.backup(target)
            aside = set_aside(self.path)
            copy.replace(self.path)
            moved = looked_at(self.path)
        except sqlite3.Error as error:
            raise database_error(self.path, error) from error
        except OSError as error:
            raise trouble(self.path, error.strerror or str(error)) from error
        finally:
            with suppress(OSError):
                copy.unlink(missing_ok=True)
        self._connection.close()  # it sees that its file is another one, and leaves the log of the new one alone
        self._connection, self._file = moved, identity(self.path)
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
        return database_error(self.path, error)


def _values(row: ReceiptRow) -> tuple[Any, ...]:
    return (row.number, bytes.fromhex(row.id), row.task_id, row.ended_ms, row.content)

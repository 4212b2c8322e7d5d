"""The file of the task store: its schema, and how one is found, opened and moved aside.

Decides which file can be used: one that another process holds, that a newer llama-orch wrote or that is another
program's is refused; one that cannot be read is moved aside and said, never overwritten. What is written into it is
``database``'s.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

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
BUSY_S = 1.0
"""How long somebody else who writes into our file is waited for: nobody should."""
DAMAGED = "%s; it stands in %s now, and the tasks and receipts in it are not known any more"


class DatabaseError(Exception):
    """The file cannot be used, in words for an operator. ``damaged``: what stands in it cannot be trusted."""

    def __init__(self, message: str, hint: str, *, damaged: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.damaged = damaged


def locked(path: Path) -> int:
    """Hold the file for this process alone. Raises OSError or DatabaseError."""
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        text = f"another orchestratord uses {path}"
        raise DatabaseError(text, "stop it, or give this one another place by paths.data") from None
    return lock


def connected(path: Path) -> sqlite3.Connection:
    """A connection to a sound file. Raises DatabaseError."""
    try:
        return looked_at(path)
    except DatabaseError as error:
        if not error.damaged:
            raise
        aside = set_aside(path)
        log.error(DAMAGED, error, aside)  # noqa: TRY400 - the error itself is the message
    return looked_at(path)


def looked_at(path: Path) -> sqlite3.Connection:
    """A connection to the file as it stands, or to a new one. Raises DatabaseError, also where it is damaged."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
    except (OSError, sqlite3.Error) as error:
        raise trouble(path, str(error)) from error
    try:
        ready(connection, path)
        _settled(path.parent)
    except sqlite3.Error as error:
        connection.close()
        raise database_error(path, error) from error
    except OSError as error:
        connection.close()
        raise trouble(path, error.strerror or str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def ready(connection: sqlite3.Connection, path: Path | None) -> sqlite3.Connection:
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


def identity(path: Path | None) -> tuple[int, int] | None:
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
        raise trouble(path, error.strerror or str(error)) from error
    return aside


_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})


def database_error(path: Path | None, error: sqlite3.Error) -> DatabaseError:
    """What SQLite says, in our words."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # none: not the file, but how we asked
    if code in _DAMAGED:
        return DatabaseError(f"the task store {path} is damaged: {error}", "", damaged=True)
    return trouble(path, str(error))


def trouble(path: Path | None, why: str) -> DatabaseError:
    """The disk does not take or give what is asked of it."""
    where = "memory" if path is None else str(path.parent)
    hint = f"make room in {where} and let this user write there, or lower store.max_bytes"
    return DatabaseError(f"the task store {path or 'in memory'} cannot be written: {why}", hint)

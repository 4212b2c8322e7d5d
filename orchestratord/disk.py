"""What waits for a disk on behalf of the task store: in threads, never in the event loop.

Decides that those who wait at one moment share one flush, that none of them waits behind a checkpoint, and how long
SQLite's log may become. A checkpoint moves what was written from the log into the file, over a connection of its own,
so that writers go on. It begins the log anew as well, since whoever does that waits for the disk.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from orchestratord.database_file import LOG_BYTES

ROUNDS = 8
"""So often a checkpoint looks whether more was written meanwhile: only a log that is in the file as a whole can begin
anew."""
LOG_PAGES = 4096
"""Of a log that is longer than this, the last round holds writers back: otherwise it would grow while they go on."""
PATIENCE_S = 1.0
"""How long that round waits for them."""


class Disk:
    """One database file on its disk; ``written`` counts what was written to it so far."""

    def __init__(self, path: Path, written: Callable[[], int]) -> None:
        self._path = path
        self._wal = path.with_name(f"{path.name}-wal")
        self._written = written
        self._flushed = -1
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=2, thread_name_prefix="task-store")

    def close(self) -> None:
        """End the threads, when they have done what they were given."""
        self._thread.shutdown()

    async def flushed(self) -> None:
        """Return when all that is written now would outlive a power cut. Raises OSError."""
        mine = self._written()
        async with self._turn:
            if self._flushed < mine:
                upto = self._written()
                await self._do(_flush, self._wal)
                self._flushed = upto

    def flush(self) -> None:
        """The same, while everything waits; what cannot be flushed then is said by nobody."""
        with suppress(OSError):
            _flush(self._wal)

    async def tidied(self) -> None:
        """Move what was written into the file itself, so that its log stays short. Raises sqlite3.Error."""
        await self._do(_checkpoint, self._path)

    async def _do(self, work: Callable[[Path], None], path: Path) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work, path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _checkpoint(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=0.0)
    try:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        pages, whole = 0, False
        for _ in range(ROUNDS):
            before, pages = pages, _moved(connection, "PASSIVE")
            whole = pages == before  # nobody has written since
            if whole:
                break
        if not whole and pages > LOG_PAGES:
            connection.execute(f"PRAGMA busy_timeout = {round(PATIENCE_S * 1000)}")
            whole = _moved(connection, "RESTART") > 0
        if whole:
            _begin_anew(connection)
    finally:
        connection.close()


def _moved(connection: sqlite3.Connection, how: str) -> int:
    """Move what the log has into the file; how many pages that are by now. 0 where somebody holds it up."""
    [(held_up, _, moved)] = connection.execute(f"PRAGMA wal_checkpoint({how})")
    return 0 if held_up else int(moved)


def _begin_anew(connection: sqlite3.Connection) -> None:
    """Write something that changes nothing: the first page of a log that begins anew waits for the disk."""
    [(version,)] = connection.execute("PRAGMA user_version")
    with suppress(sqlite3.OperationalError):  # somebody writes, and so has done it
        connection.execute(f"PRAGMA user_version = {version}")

"""What waits for a disk on behalf of the task store: in threads, never in the event loop.

Decides only that those who wait at one moment share one flush, and that none of them waits behind a checkpoint. That
one, which moves what was written from SQLite's log into its file, has a connection of its own, so that writers go on.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path


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
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    finally:
        connection.close()

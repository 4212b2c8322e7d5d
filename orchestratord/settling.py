"""When what was written is as durable as was configured, and who waits for it.

Decides nothing about a task. With durability ``machine`` an answer waits for the disk, and ends are told in their order
when they are on it; otherwise nobody waits. What the disk does not take is told to ``complain``, and to a task that is
about to be let in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from contracts.errors import ErrorCode
from daemon_core.heartbeat import Heartbeats
from orchestratord.database_file import DatabaseError
from orchestratord.disk import Disk
from orchestratord.errors import api_error

HINT = "look at the disk below paths.data"


class Settling:
    """Waits for a disk; without one, nothing is waited for."""

    def __init__(self, disk: Disk | None, complain: Callable[[DatabaseError], None]) -> None:
        self._disk = disk
        self._complain = complain
        self._untold: list[Callable[[], None]] = []
        """What tells of ends that are not on the disk yet."""
        self._news = asyncio.Event()

    async def run(self, heartbeats: Heartbeats) -> None:
        """Tell of ends when they are on the disk, until this is cancelled."""
        heart = heartbeats.owner("task-store-ends")
        while True:
            with heart.resting():
                await self._news.wait()
                self._news.clear()
                untold = len(self._untold)
                await self.settled()
            self._tell(untold)

    def finish(self) -> None:
        """Tell of all that is left, when it is on the disk; everything waits for that."""
        if self._untold and self._disk is not None:
            self._disk.flush()
        self._tell(len(self._untold))

    def told(self, tell: Callable[[], None]) -> None:
        """Have this called when what was written is as durable as was configured; at once, where it is."""
        if self._disk is None:
            tell()
        else:
            self._untold.append(tell)
            self._news.set()

    async def settled(self) -> None:
        """Return when what was written is as durable as was configured, or cannot be."""
        try:
            await self._flushed()
        except OSError as error:
            self._complain(DatabaseError(f"the disk does not take what was written: {error.strerror}", HINT))

    async def admitted(self) -> None:
        """Return when what was admitted is as durable as was configured. Raises ApiError where the disk fails."""
        try:
            await self._flushed()
        except OSError as error:
            text = f"the task cannot be kept: the disk does not take it: {error.strerror}"
            raise api_error(ErrorCode.POOL_UNAVAILABLE, text, HINT) from error

    async def _flushed(self) -> None:
        if self._disk is not None:
            await self._disk.flushed()

    def _tell(self, count: int) -> None:
        """Tell of the ends that wait for it, the first ones first."""
        telling, self._untold = self._untold[:count], self._untold[count:]
        for tell in telling:
            tell()

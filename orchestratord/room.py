"""Room in the task store: what is too old or too much is let go.

Decides when that is looked for: after something was written, and now and then because time passes. What goes is
``retention``'s to decide. It goes a little at a time, so that no step is long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestratord import retention
from orchestratord.clock import Clock
from orchestratord.database import Database
from orchestratord.database_file import DatabaseError
from orchestratord.retention import Bounds, Totals

LOOK_MS = 60_000.0
AT_ONCE = 32
"""So many go in one step."""


class Room:
    """What ended tasks and receipts take of one database; a disk that does not let them go is complained of."""

    def __init__(
        self, database: Database, bounds: Bounds, clock: Clock, complain: Callable[[DatabaseError], None]
    ) -> None:
        self._database = database
        self._bounds = bounds
        self._clock = clock
        self._complain = complain
        self._totals = Totals()
        self._looked = 0
        """How much was written when what is due was looked for, the last time."""
        self._looked_ms = 0.0

    def measure(self) -> None:
        """See what the file holds. Raises DatabaseError."""
        self._totals = self._database.totals()

    def taken(self, *, receipts: int, size: int) -> None:
        """One more task has ended, and left so many receipts; together they take so many bytes."""
        totals = self._totals
        self._totals = Totals(totals.tasks + 1, totals.receipts + receipts, totals.size + size)

    async def make(self, beat: Callable[[], None]) -> None:
        """Let go what is due.

        ``beat`` is called while it goes on: how long a disk takes to let much go says nothing about us.
        """
        now_ms = self._clock.monotonic_ms()
        if self._looked == self._database.writes and now_ms - self._looked_ms < LOOK_MS:
            return
        try:
            more = True
            while more:
                more = self._let_some_go() or self._database.shrink()
                beat()
                await asyncio.sleep(0)
        except DatabaseError as error:
            self._complain(error)
        self._looked, self._looked_ms = self._database.writes, now_ms

    def _let_some_go(self) -> bool:
        tasks, receipts = self._database.oldest_tasks(AT_ONCE), self._database.oldest_receipts(AT_ONCE)
        due = retention.due(tasks, receipts, self._totals, self._bounds, self._clock.unix_ms())
        if not due.task_ids and due.receipts_below is None:
            return False
        self._database.let_go(due.task_ids, due.receipts_below)
        self._totals = due.left
        return True

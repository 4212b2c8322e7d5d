"""Tells pool-managerd when an engine that is to end has no work left.

Decides which engines wait for their work: one that drains, and one that another has taken over from. pool-managerd
cannot see work; without a word it waits for its deadline. While an engine drains, each report on it is answered: a word
that was lost with the line costs no more than the time to the next one. Never ends anything itself.
"""

from __future__ import annotations

from contracts.pools import PoolState
from orchestratord.manager import Manager
from orchestratord.occupancy import Occupancy
from orchestratord.pools import PoolEntry

ENDING = frozenset({PoolState.DRAINING, PoolState.RELOADING})


class Idle:
    """What is known of engines that are to end."""

    def __init__(self, occupancy: Occupancy, manager: Manager) -> None:
        self._occupancy = occupancy
        self._manager = manager
        self._engines: dict[str, object] = {}
        """The engine that each pool had by its latest report."""
        self._retiring: set[str] = set()
        """The pools with a former engine beside the one that serves."""

    def reported(self, entry: PoolEntry) -> None:
        """pool-managerd has said how a pool is."""
        former, self._engines[entry.id] = self._engines.get(entry.id), entry.adapter
        if former is not None and entry.adapter not in {None, former} and entry.snapshot.ready:
            self._retiring.add(entry.id)
        self.look(entry)

    def look(self, entry: PoolEntry) -> None:
        """A slot of this pool has come free, or it has changed."""
        ending = entry.snapshot.state in ENDING
        if not ending and entry.id not in self._retiring:
            return
        busy = self._occupancy.of(entry.id) if ending else self._occupancy.off(entry.id, entry.adapter)
        if not busy and self._manager.idle(entry.id):
            self._retiring.discard(entry.id)

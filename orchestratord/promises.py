"""Who was told when to come back, so that no two clients are told the same moment.

Decides which of the next places of a queue a refused client is told of: the first that nobody was told of yet. A
promise is over when its moment has passed, whoever came; no more than ``MOST`` are told apart. Nothing is reserved:
whoever comes first has a place. Never foretells when one comes free (``outlook`` does), and never reads a clock.
"""

from __future__ import annotations

from bisect import bisect_right, insort

MOST = 128
"""So many places are told apart: one client that does not wait must not send all others away for hours."""


class Promises:
    """The moments that were told and have not come, in monotonic milliseconds, by the pools that they are about."""

    def __init__(self) -> None:
        self._moments: dict[frozenset[str], list[float]] = {}

    def open(self, pools: frozenset[str], now_ms: float) -> int:
        """How many clients were told of places in any of these pools that are still to come free."""
        self._forget(now_ms)
        return min(MOST, sum(len(told) for of, told in self._moments.items() if not of.isdisjoint(pools)))

    def add(self, pools: frozenset[str], moment_ms: float) -> None:
        """A client was told this moment."""
        told = self._moments.setdefault(pools, [])
        if len(told) < MOST:
            insort(told, moment_ms)

    def _forget(self, now_ms: float) -> None:
        for pools, told in list(self._moments.items()):
            del told[: bisect_right(told, now_ms)]
            if not told:
                del self._moments[pools]

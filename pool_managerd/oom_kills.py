"""Tells the processes apart that the kernel has ended for want of memory.

The kernel counts them for all engines together, and the group of a single one is gone with it. Decides that what
explained one failure explains no other.
"""

from __future__ import annotations

from pool_managerd import proc


class OomKills:
    """What the kernel has ended for want of memory in a control group, numbered from 1 in its order."""

    def __init__(self, group: str | None) -> None:
        self._group = group
        self._explain: set[int] = set()

    def count(self) -> int:
        """How many there were so far; 0 where nobody counts."""
        return 0 if self._group is None else proc.oom_kills(self._group)

    def since(self, count: int) -> frozenset[int]:
        """The numbers of those after the first ``count``, but for those that explain a failure already."""
        return frozenset(range(count + 1, self.count() + 1)) - self._explain

    def explain(self, numbers: frozenset[int]) -> None:
        """These explain a failure."""
        self._explain |= numbers

"""Which replica a task gets when several have a free slot.

Decides by where the task is at home, then its preference, then most free VRAM, then fewest active slots, then replica
id, so that equal inputs always give the same answer. Never decides whether a task runs at all, and never looks at a
replica that is not ready.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from contracts.tasks import Placement


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as placement sees it. ``usable``: ready, and not suspected of being dead."""

    pool_id: str
    replica_id: str
    usable: bool
    free_slots: int
    """So many more generations may be sent to it, by the count of whoever knows which of its slots are free."""
    active: int
    """So many slots are busy."""
    vram_free_bytes: int = 0

    @property
    def has_free_slot(self) -> bool:
        """Whether one more generation may be sent to it."""
        return self.usable and self.free_slots > 0


def choose(
    candidates: Iterable[Replica], wish: Placement, pools: Collection[str], home: str | None = None
) -> Replica | None:
    """The best replica among those of ``pools`` that have a free slot; None when there is none."""
    free = [replica for replica in candidates if replica.has_free_slot and replica.pool_id in pools]
    return min(free, key=lambda replica: _order(replica, wish, home), default=None)


def _order(replica: Replica, wish: Placement, home: str | None) -> tuple[bool, int, int, int, str]:
    preferred = wish.prefer.index(replica.pool_id) if replica.pool_id in wish.prefer else len(wish.prefer)
    return replica.pool_id != home, preferred, -replica.vram_free_bytes, replica.active, replica.replica_id

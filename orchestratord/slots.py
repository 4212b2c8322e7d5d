"""Which slot of which engine holds whose KV cache, for engines that let us choose the slot.

Decides that a session gets the slot that has its cache, and everybody else the one whose cache is worth least: what
belongs to no session goes first, then what was used least recently. A slot that is busy is never given to anybody; one
start of an engine knows nothing of what another start had. Never asks an engine, and counts by uses instead of a clock.
"""

from __future__ import annotations

import msgspec


class Taken(msgspec.Struct, frozen=True):
    """A slot that is taken until it is given back: slot ``index`` of this start of a pool's engine."""

    pool_id: str
    start: int
    index: int


class _Slot:
    """One slot. ``owner``: the number of the session whose cache it has; ``used`` grows with every use of any."""

    def __init__(self) -> None:
        self.busy = False
        self.owner: int | None = None
        self.used = 0


class SlotTable:
    """The slots of every pool's engine."""

    def __init__(self) -> None:
        self._pools: dict[str, tuple[int, list[_Slot]]] = {}
        self._uses = 0

    def take(self, pool_id: str, start: int, count: int, owner: int | None) -> Taken | None:
        """A free slot of the ``count`` that this start of the engine has, now that of ``owner``; None: all are busy.

        ``owner`` is a session's number; None for a task of no session, whose cache nobody will ask for.
        """
        slots = self._slots(pool_id, start, count)
        free = [index for index, slot in enumerate(slots[:count]) if not slot.busy]
        if not free:
            return None
        own = [index for index in free if owner is not None and slots[index].owner == owner]
        index = own[0] if own else min(free, key=lambda each: _worth(slots[each]))
        if owner is not None:
            for slot in slots:
                if slot.owner == owner:
                    slot.owner = None  # it goes on elsewhere, and what it leaves is of no use
        self._uses += 1
        chosen = slots[index]
        chosen.busy, chosen.owner, chosen.used = True, owner, self._uses
        return Taken(pool_id, start, index)

    def take_own(self, pool_id: str, start: int, owner: int) -> Taken | None:
        """The slot that has this session's cache, to free it; None where no free slot has."""
        known, slots = self._pools.get(pool_id, (start, []))
        for index, slot in enumerate(slots if known == start else []):
            if slot.owner == owner and not slot.busy:
                slot.busy = True
                return Taken(pool_id, start, index)
        return None

    def give_back(self, taken: Taken) -> None:
        """Nothing runs in the slot any more; what it has stays."""
        known, slots = self._pools.get(taken.pool_id, (taken.start, []))
        if known == taken.start and taken.index < len(slots):
            slots[taken.index].busy = False

    def holds(self, pool_id: str, start: int, owner: int) -> bool:
        """Whether a slot of this start of the engine has the session's cache."""
        known, slots = self._pools.get(pool_id, (start, []))
        return known == start and any(slot.owner == owner for slot in slots)

    def forget(self, owner: int) -> None:
        """A session has ended: its cache is worth nothing."""
        for _, slots in self._pools.values():
            for slot in slots:
                if slot.owner == owner:
                    slot.owner = None

    def _slots(self, pool_id: str, start: int, count: int) -> list[_Slot]:
        known, slots = self._pools.get(pool_id, (start, []))
        if known != start:
            slots = []
        slots.extend(_Slot() for _ in range(count - len(slots)))
        self._pools[pool_id] = (start, slots)
        return slots


def _worth(slot: _Slot) -> tuple[bool, int]:
    return slot.owner is not None, slot.used

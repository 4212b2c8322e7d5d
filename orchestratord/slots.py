"""Which slot of which engine holds whose KV cache, for engines that let us choose the slot.

Decides that a session gets the slot that has its cache, and everybody else the one whose cache is worth least: what
belongs to no session goes first, then what was used least recently. A slot that is busy is never given to anybody.
What is cached is a start's, of which the next one knows nothing; what is busy is an engine's, also of one that was
taken for started anew and goes on with its runs. Never asks an engine, and counts by uses instead of a clock.
"""

from __future__ import annotations

import msgspec


class Taken(msgspec.Struct, frozen=True):
    """A slot that is taken until it is given back: slot ``index`` of this engine of a pool."""

    pool_id: str
    engine: object
    index: int


class _Slot:
    """One slot. ``owner``: the number of the session whose cache it has; ``used`` grows with every use of any."""

    def __init__(self) -> None:
        self.busy = False
        self.owner: int | None = None
        self.used = 0


class _Slots:
    """Those of a pool's engine. ``start``: the one whose caches they have."""

    def __init__(self, engine: object, start: int) -> None:
        self.engine = engine
        self.start = start
        self.each: list[_Slot] = []


class SlotTable:
    """The slots of every pool's engine."""

    def __init__(self) -> None:
        self._pools: dict[str, _Slots] = {}
        self._uses = 0

    def take(self, pool_id: str, engine: object, start: int, count: int, owner: int | None) -> Taken | None:
        """A free slot of the ``count`` that the engine has, in this start of it, for ``owner``; None: all are busy.

        ``owner`` is a session's number; None for a task of no session, whose cache nobody will ask for.
        """
        slots = self._slots(pool_id, engine, start, count)
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
        return Taken(pool_id, engine, index)

    def take_own(self, pool_id: str, start: int, owner: int) -> Taken | None:
        """The slot that has this session's cache, to free it; None where no free slot has."""
        known = self._of(pool_id, start)
        for index, slot in enumerate([] if known is None else known.each):
            if known is not None and slot.owner == owner and not slot.busy:
                slot.busy = True
                return Taken(pool_id, known.engine, index)
        return None

    def give_back(self, taken: Taken) -> None:
        """Nothing runs in the slot any more; what it has stays."""
        known = self._pools.get(taken.pool_id)
        if known is not None and known.engine is taken.engine:
            known.each[taken.index].busy = False

    def holds(self, pool_id: str, start: int, owner: int) -> bool:
        """Whether a slot of this start of the engine has the session's cache."""
        known = self._of(pool_id, start)
        return known is not None and any(slot.owner == owner for slot in known.each)

    def forget(self, owner: int) -> None:
        """A session has ended: its cache is worth nothing."""
        for known in self._pools.values():
            for slot in known.each:
                if slot.owner == owner:
                    slot.owner = None

    def _of(self, pool_id: str, start: int) -> _Slots | None:
        known = self._pools.get(pool_id)
        return known if known is not None and known.start == start else None

    def _slots(self, pool_id: str, engine: object, start: int, count: int) -> list[_Slot]:
        known = self._pools.get(pool_id)
        if known is None or known.engine is not engine:
            known = self._pools[pool_id] = _Slots(engine, start)
        elif known.start != start:
            known.start = start
            for slot in known.each:
                slot.owner = None
        known.each.extend(_Slot() for _ in range(count - len(known.each)))
        return known.each


def _worth(slot: _Slot) -> tuple[bool, int]:
    return slot.owner is not None, slot.used

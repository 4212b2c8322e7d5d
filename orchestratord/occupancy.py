"""Which slots of which engine are taken.

Decides when a slot counts as free: at once where the engine ended a run itself, and otherwise when the engine's own
count says that it no longer works on it. An engine is counted by its endpoint, so that one which takes over from
another has all its slots from its first moment. Never asks an engine anything and never reads a clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

NOTICED_MS = 50.0
"""So long after it was sent an engine certainly knows of a run, even while it still works on the prompt."""


class Hold:
    """One slot that a run has taken. Moments in monotonic milliseconds."""

    __slots__ = ("adapter", "begun", "freed", "leaving", "pool_id", "sent_ms", "stuck")

    def __init__(self, pool_id: str, adapter: object, sent_ms: float) -> None:
        self.pool_id = pool_id
        self.adapter = adapter
        self.sent_ms = sent_ms
        self.begun = False
        """The engine has sent something of the answer."""
        self.leaving = False
        """Our side is done with it; the engine has not said that it is."""
        self.stuck = False
        """It was waited for long enough."""
        self.freed = False

    def noticed(self, now_ms: float) -> bool:
        """Whether the engine knows of the run for certain, so that its count has it."""
        return self.begun or now_ms - self.sent_ms >= NOTICED_MS


class Occupancy:
    """The slots of every engine that a run of ours has taken."""

    def __init__(self) -> None:
        self._held: dict[object, set[Hold]] = {}

    def take(self, pool_id: str, adapter: object, now_ms: float) -> Hold:
        """One more slot of this engine is taken."""
        hold = Hold(pool_id, adapter, now_ms)
        self._held.setdefault(adapter, set()).add(hold)
        return hold

    def free(self, hold: Hold) -> bool:
        """A slot is free again; False for one that was free already."""
        if hold.freed:
            return False
        hold.freed = True
        held = self._held[hold.adapter]
        held.remove(hold)
        if not held:
            del self._held[hold.adapter]
        return True

    def on(self, adapter: object) -> int:
        """How many slots of this engine are taken."""
        return len(self._held.get(adapter, ()))

    def of(self, pool_id: str) -> int:
        """How many slots are taken of a pool's engines, the one that served before included."""
        return sum(hold.pool_id == pool_id for held in self._held.values() for hold in held)

    def stuck(self, adapter: object) -> int:
        """How many slots of this engine are lost to runs that it does not let go of."""
        return sum(hold.stuck for hold in self._held.get(adapter, ()))

    def off(self, pool_id: str, adapter: object) -> int:
        """Those of them that are taken of another engine of the pool than this one."""
        return sum(len(held) for other, held in self._held.items() if other is not adapter and _is_of(held, pool_id))

    def staying(self, adapter: object, now_ms: float) -> set[Hold]:
        """The runs that this engine certainly counts, and counts rightly."""
        return {hold for hold in self._held.get(adapter, ()) if not hold.leaving and hold.noticed(now_ms)}


def let_go(leaving: Sequence[Hold], busy: int, counted: Collection[Hold]) -> Sequence[Hold]:
    """Those of the runs that are ``leaving``, oldest first, which an engine with ``busy`` generations no longer has.

    ``counted`` are runs that the engine counts for certain. Whatever it counts beyond them may be one that leaves: a
    slot too few for a moment costs less than a generation too many.
    """
    still = max(0, busy - sum(not hold.freed for hold in counted))
    return leaving[: max(0, len(leaving) - still)]


def _is_of(held: Collection[Hold], pool_id: str) -> bool:
    return any(hold.pool_id == pool_id for hold in held)

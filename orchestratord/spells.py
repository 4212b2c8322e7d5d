"""How often the log says the same of the same client.

Decides that a spell of anything is told once: when it begins, and again where it still goes on after a minute. Bounded.
Never reads a clock: ``now`` is an argument, in monotonic seconds.
"""

from __future__ import annotations

from collections import OrderedDict

AGAIN_S = 60.0
MOST = 1_024
"""Of so many spells it is remembered that they were told; the oldest are forgotten first."""


class Spells:
    """What was told, and when."""

    def __init__(self, again_s: float = AGAIN_S, most: int = MOST) -> None:
        self._again_s = again_s
        self._most = most
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._since: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        """How many spells are remembered."""
        return len(self._told)

    def tell(self, kind: str, client: str, now: float) -> int | None:
        """How many were passed over since the last line, where there should be one now; else None."""
        key = (kind, client)
        told = self._told.get(key)
        if told is not None and now - told < self._again_s:
            self._since[key] = self._since.get(key, 0) + 1
            return None
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > self._most:
            oldest, _ = self._told.popitem(last=False)
            self._since.pop(oldest, None)
        return self._since.pop(key, 0)

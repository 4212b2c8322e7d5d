"""Turns moments of the loop's clock into the time that people and other programs go by.

Decides that one moment keeps its time, until somebody sets the clock: then it has the time that it would have had.
"""

from __future__ import annotations

from collections.abc import Callable

SET_MS = 1_000
"""A difference as large as this is no rounding and no slewing of the clock: it was set."""


class WallClock:
    """Knows how far the clocks are apart; ``unix_ms`` and ``loop_ms`` read them."""

    def __init__(self, unix_ms: Callable[[], int], loop_ms: Callable[[], float]) -> None:
        self._unix_ms = unix_ms
        self._loop_ms = loop_ms
        self._offset_ms = self._apart()

    @property
    def offset_ms(self) -> int:
        """What a moment of the loop, in milliseconds, lacks to Unix milliseconds."""
        if abs((apart := self._apart()) - self._offset_ms) >= SET_MS:
            self._offset_ms = apart
        return self._offset_ms

    def _apart(self) -> int:
        return self._unix_ms() - round(self._loop_ms())

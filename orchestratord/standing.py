"""Where a waiting task stands, and when that is worth telling.

Decides what a notable change is: one that somebody who waits would want to know. Never reads a clock.
"""

from __future__ import annotations

import msgspec

NEAR = 10
"""So near to its turn every step counts."""
STEP = 0.1
"""Farther away it takes this share of the tasks ahead."""
SHIFT = 0.2
"""The foretold moment has moved by this share of the time that is left,"""
SHIFT_MS = 500
"""and by so much at least."""
CHANCE = 0.1
"""The probability to be in time has changed by so much."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task stands, and what is foretold of it; spans in milliseconds from ``at_ms`` on."""

    at_ms: float
    position: int
    queue_depth: int
    start_ms: int
    low_ms: int
    high_ms: int
    on_time_probability: float | None = None


def notable(told: Standing | None, now: Standing) -> bool:
    """Whether ``now`` is worth telling to somebody who was told the other."""
    if told is None:
        return True
    moved = abs(now.position - told.position)
    if moved and (now.position < NEAR or moved >= STEP * told.position):
        return True
    shifted = abs((now.at_ms + now.start_ms) - (told.at_ms + told.start_ms))
    if shifted >= max(SHIFT_MS, SHIFT * now.start_ms):
        return True
    chances = now.on_time_probability, told.on_time_probability
    return None not in chances and abs((chances[0] or 0.0) - (chances[1] or 0.0)) >= CHANCE

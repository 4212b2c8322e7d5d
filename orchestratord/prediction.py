"""When a task will start, from what tasks took so far.

Decides predictions and back-off times from an exponentially weighted mean of the measured time that a slot was busy
with one task. Never reads a clock: the caller measures.
"""

from __future__ import annotations

import math

import msgspec

PRIOR_MS = 2_000.0
"""Assumed for a replica that has not finished a task yet."""
WEIGHT = 0.2
"""Of the newest measurement: about the last ten tasks count."""


class ServiceTime(msgspec.Struct, frozen=True):
    """What one task takes on one replica's slot, in milliseconds."""

    mean_ms: float = PRIOR_MS
    samples: int = 0

    def observed(self, busy_ms: float) -> ServiceTime:
        """The estimate after one more task that kept its slot busy for ``busy_ms``."""
        if self.samples == 0:
            return ServiceTime(mean_ms=busy_ms, samples=1)
        return ServiceTime(mean_ms=self.mean_ms + WEIGHT * (busy_ms - self.mean_ms), samples=self.samples + 1)


class Load(msgspec.Struct, frozen=True):
    """One replica's slots, how many are busy, and what a task takes there."""

    slots: int
    active: int
    service: ServiceTime


def start_ms(ahead: int, loads: list[Load]) -> int:
    """In how many milliseconds a task starts that has ``ahead`` tasks before it, over all replicas that may run it."""
    free = sum(max(0, load.slots - load.active) for load in loads)
    waits_for = ahead + 1 - free
    if waits_for <= 0:
        return 0
    return math.ceil(waits_for * place_ms(loads))


def place_ms(loads: list[Load]) -> float:
    """How often these replicas together take a task from the queue when all are busy: milliseconds a task."""
    rate = sum(load.slots / max(load.service.mean_ms, 1.0) for load in loads)
    return 1.0 / rate if rate > 0 else PRIOR_MS

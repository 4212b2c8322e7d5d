"""Decides whether and when a failed engine is started again.

Values in, a decision out: exponential backoff with jitter, and a breaker that opens after ``max_failures`` in a row.
Never reads a clock and never draws a number: both are arguments.
"""

from __future__ import annotations

from contracts.base import Message
from contracts.config import Restart

_MAX_DOUBLINGS = 32
"""Far beyond ``max_ms`` for any ``initial_ms``, and keeps the arithmetic small."""


class Decision(Message, frozen=True, kw_only=True):
    """What to do after a failure. ``delay_ms`` is None where the breaker opens; ``failures`` counts this failure."""

    failures: int
    delay_ms: int | None
    reason: str


def decide(failures: int, healthy_ms: int, rules: Restart, draw: float) -> Decision:
    """Weigh one more failure.

    ``failures`` is how many came before in a row, ``healthy_ms`` how long the engine had been ready when it failed (0
    when it never was), ``draw`` a number in [0, 1). The delay is between half of the exponential step and all of it.
    """
    count = 1 if healthy_ms >= rules.healthy_ms else failures + 1
    if count >= rules.max_failures:
        return Decision(failures=count, delay_ms=None, reason=f"{count} failures in a row: not tried again until reset")
    step = min(rules.max_ms, rules.initial_ms * 2 ** min(count - 1, _MAX_DOUBLINGS))
    delay = max(1, round(step * (1 + draw) / 2))
    return Decision(
        failures=count, delay_ms=delay, reason=f"failure {count} of {rules.max_failures}: again in {delay} ms"
    )

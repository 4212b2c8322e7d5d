"""Decides when a drain or a reload that was asked for has come to its end, and how.

Values in, values out: the commands look at the pool again and again and ask here. What is seen just after the question
may still be the state before it.
"""

from __future__ import annotations

from contracts.base import Message
from contracts.pools import PoolError, PoolHealth, PoolState

EARLY_LOOKS = 3
"""So many times nothing is concluded from a pool that looks as it did before."""
GIVEN_UP = frozenset({PoolState.BACKOFF, PoolState.BROKEN, PoolState.QUARANTINED})


class Ended(Message, frozen=True, kw_only=True):
    """How it ended. ``error`` is what went wrong in the pool, where that is known; without ``good`` it failed."""

    good: bool
    text: str
    error: PoolError | None = None


def drain_ended(now: PoolHealth, *, looks: int) -> Ended | None:
    """Whether a drain has ended; None: not yet. ``looks`` counts from 1."""
    if now.state is PoolState.STOPPED:
        return Ended(good=True, text=f"{now.pool_id} is drained and stopped")
    if now.state is PoolState.DRAINING or looks <= EARLY_LOOKS:
        return None
    return Ended(good=False, text=f"{now.pool_id} is {now.state}: somebody asked for it again")


def reload_ended(before: PoolHealth, now: PoolHealth, *, model_ref: str, looks: int) -> Ended | None:
    """Whether a reload to a model has ended; None: not yet. ``before`` is the pool before the reload was asked for."""
    error = now.last_error if now.last_error != before.last_error else None
    again = before.ready and before.model_ref == model_ref
    if now.ready and now.next_model_ref is None:
        if error is not None and (again or now.model_ref != model_ref):
            return Ended(good=False, text=f"{now.pool_id} still serves {now.model_ref}", error=error)
        if now.model_ref != model_ref or (again and looks <= EARLY_LOOKS):
            return None
        return Ended(good=True, text=f"{now.pool_id} serves {model_ref}")
    if now.state in GIVEN_UP and error is not None:
        return Ended(good=False, text=f"{now.pool_id} is {now.state}", error=error)
    if now.state is PoolState.STOPPED and looks > EARLY_LOOKS:
        return Ended(good=False, text=f"{now.pool_id} is stopped: somebody drained it")
    return None

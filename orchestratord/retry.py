"""Whether a task whose replica failed is given to another one, without its client noticing.

Decides from the failure and from how often it was tried. Only before the first token: what a client has seen cannot be
taken back. Never where the task itself is wrong, where a limit of its pool or its own deadline ended it, or where an
operator has to mend something first: another replica would answer the same. Never decides where it goes (``placement``)
and never queues.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from adapters.base import Failure
from contracts.errors import ErrorCode

RETRIES = 2
"""Further attempts after the first. A task that ends every engine it meets must not end them all."""

WORTH_ANOTHER = frozenset({Failure.REFUSED, Failure.BROKEN, Failure.LOADING, Failure.OVERLOADED, Failure.TIMEOUT})
"""Failures of one engine, which say nothing about the next one.

The others would repeat themselves: ``invalid`` and ``context`` lie in the task, ``unauthorized`` and ``protocol`` in
what is configured. A limit that was reached is no failure of this kind at all: its time is spent.
"""
_DIED = frozenset({Failure.REFUSED, Failure.BROKEN})


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The generation came to no good end."""

    code: ErrorCode
    message: str
    hint: str | None = None
    engine_suspect: bool = False
    """The engine may be dead or hung."""
    failure: Failure | None = None
    """The engine's own; None where a limit of ours ended it, or a mistake."""
    hung: bool = False
    """It answered nothing for so long that it is worth nothing to go on waiting, whatever its health says."""
    may_go_on: bool = True
    """The engine may still be working on it; False where it never began."""
    unknown: bool = False
    """It does not know the model, or the route: it may be another engine than the one that was asked."""


def tries_again(failed: Failed, attempts: int) -> bool:
    """Whether a run that failed before its first token, after so many attempts with it, is followed by another.

    An engine that suddenly does not know the model or the route is asked anew first, and may be another one by now.
    """
    return (failed.failure in WORTH_ANOTHER or failed.unknown) and attempts <= RETRIES


def verdict(failed: Failed, replicas: Sequence[str]) -> Failed:
    """What the client is told when no attempt is left; ``replicas`` are those that were tried, in order."""
    if len(replicas) == 1 or failed.failure not in _DIED:
        return failed
    text = f"{len(replicas)} attempts failed before the first token, on {_listed(replicas)}: {failed.message}"
    hint = "this task may be what ends its engine: look at its prompt and its parameters before sending it again"
    return msgspec.structs.replace(failed, message=text, hint=hint)


def seen_before(tried: Collection[tuple[str, int]], pool_id: str, start: int) -> bool:
    """Whether this very start of an engine has failed the task already. A later start of the same is another one."""
    return (pool_id, start) in tried


def _listed(replicas: Sequence[str]) -> str:
    return f"{', '.join(replicas[:-1])} and {replicas[-1]}"

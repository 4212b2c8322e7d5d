"""What becomes of the tasks that a former run of the daemon has left without an end.

Decides for each: it waits again at its place, runs again behind what it has sent, or ends with an error. It runs again
only where its client cannot be told anything that contradicts what was sent: strict determinism, all that was sent
written down, and an engine of which everything that makes an answer is known. Values in, values out.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from contracts.errors import ErrorCode
from contracts.pools import PoolSnapshot
from contracts.tasks import TaskRequest
from orchestratord.admission import Refusal
from orchestratord.determinism import repeatable
from orchestratord.task import Run


class WaitAgain(msgspec.Struct, frozen=True):
    """Back into the queue, for these pools; with a deadline, so many milliseconds of it are left."""

    pools: frozenset[str]
    deadline_left_ms: int | None


class RunAgain(msgspec.Struct, frozen=True):
    """The same, and what comes is compared with what was sent before it is passed on."""

    pools: frozenset[str]
    deadline_left_ms: int | None


class EndNow(msgspec.Struct, frozen=True):
    """It ends with this error."""

    refusal: Refusal


Fate = WaitAgain | RunAgain | EndNow


def fate(
    request: TaskRequest,
    *,
    pools: Collection[str],
    known_pools: Collection[str],
    age_ms: int,
    ran_on: PoolSnapshot | None,
    sent: bool,
    journaled: bool,
    veiled: bool = False,
) -> Fate:
    """What becomes of a task that was admitted ``age_ms`` ago for ``pools``.

    ``known_pools``: those of the present configuration. ``sent``: it had begun to send tokens, on ``ran_on``;
    ``journaled``: all of them were written down. ``veiled``: its request was not, for the sake of a secret in it.
    """
    left_ms = None if request.deadline_ms is None else request.deadline_ms - age_ms
    open_to = frozenset(pools).intersection(known_pools)
    if sent and (ran_on is None or not (journaled and repeatable(request, ran_on) and ran_on.pool_id in known_pools)):
        text = "orchestratord ended while this task ran, and what it had sent cannot be gone on from"
        return _end(ErrorCode.WORKER_RESET, text, "send the task again")
    if left_ms is not None and left_ms <= 0:
        code = ErrorCode.DECODE_TIMEOUT if sent else ErrorCode.ADMISSION_REJECT
        text = f"the deadline of {request.deadline_ms} ms passed while orchestratord was not running"
        return _end(code, text, "allow a later deadline_ms")
    if veiled:
        text = (
            "orchestratord was restarted, and a secret in the request, which is never written to a disk, is not known"
        )
        return _end(ErrorCode.WORKER_RESET, f"{text} any more", "send the task again")
    if sent and ran_on is not None:
        return RunAgain(frozenset({ran_on.pool_id}), left_ms)
    if not open_to:
        text = f"no pool is left that could run this task: {', '.join(sorted(pools))} left the configuration"
        return _end(ErrorCode.POOL_UNAVAILABLE, text, "GET /v1/pools lists those that are there")
    return WaitAgain(open_to, left_ms)


def outlives_a_stop(request: TaskRequest, first_text_ms: float | None, run: Run | None) -> bool:
    """Whether a task can be left to the next run of the daemon: it has sent nothing, or could be run again."""
    if first_text_ms is None or run is None:
        return True
    return run.served is not None and repeatable(request, run.served)


def _end(code: ErrorCode, message: str, hint: str) -> EndNow:
    retry_after_ms = 0 if code is ErrorCode.WORKER_RESET else None
    return EndNow(Refusal(code=code, message=message, hint=hint, retry_after_ms=retry_after_ms))

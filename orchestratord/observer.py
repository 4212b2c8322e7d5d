"""What is counted, logged and recorded when something happens to a task or a pool.

Decides which events are worth a log line, with which fields. Nothing here runs per token.
"""

from __future__ import annotations

import asyncio
import logging

from contracts.config import Mode
from contracts.errors import STATUS, ErrorCode
from contracts.events import End
from contracts.pools import PoolSnapshot
from contracts.tasks import PlacementMode
from orchestratord.admission import FAILING, Refusal
from orchestratord.jobs import Jobs
from orchestratord.metrics import Metrics, replica_labels, version_of
from orchestratord.pools import PoolEntry
from orchestratord.task import Caller, Task

log = logging.getLogger("orchestratord.tasks")
pool_log = logging.getLogger("orchestratord.pools")

NOWHERE = ("none", "none", "none", "none")
"""The replica labels of a task that was never started."""
TOO_MANY_REQUESTS = 429
TELL_AFTER_S = 0.1
"""After so long it is said that a task runs: by then it has its first token, or is slow. A shorter one only ends."""


class Observer:
    """Turns events into metrics and log lines.

    ``jobs`` hears whose work each pool does.
    """

    def __init__(self, metrics: Metrics, jobs: Jobs | None = None) -> None:
        self._metrics = metrics
        self._jobs = jobs
        self._telling: dict[str, asyncio.TimerHandle] = {}
        self._seen: dict[str, PoolSnapshot] = {}
        self._overrun: set[str] = set()
        """The pools of which that was said."""

    # --- tasks --------------------------------------------------------------------------------------------------------

    def admitted(self, task: Task, entry: PoolEntry) -> None:
        """A task entered the queue; ``entry`` is the pool that is charged for its place."""
        labels = replica_labels(entry)
        self._metrics.child(self._metrics.enqueued, *labels, task.request.priority).inc()
        entered = task.admission
        log.info(
            "task %s admitted at position %d, start predicted in %d ms",
            task.id,
            entered.queue_position,
            entered.predicted_start_ms,
            extra=_context(task, labels)
            | {"queue_position": entered.queue_position, "predicted_start_ms": entered.predicted_start_ms},
        )

    def rejected(self, refusal: Refusal, caller: Caller) -> None:
        """A task was refused."""
        self._metrics.rejected.labels(refusal.engine or "unknown", refusal.code).inc()
        self._refused("task", refusal, caller)

    def held_back(self, refusal: Refusal, caller: Caller) -> None:
        """A stream was refused, of a task or before there was one."""
        self._refused("stream", refusal, caller)

    def _refused(self, what: str, refusal: Refusal, caller: Caller) -> None:
        engine = refusal.engine or "unknown"
        if STATUS[refusal.code] == TOO_MANY_REQUESTS:
            self._metrics.backpressure.labels(engine, refusal.policy_label or "unknown").inc()
        extra = {"code": refusal.code, "engine": engine, "engine_version": "none"}
        extra |= {"pool_id": refusal.pool_id or "none", "replica_id": "none"}
        extra |= {"correlation_id": caller.correlation_id, "identity": caller.identity}
        log.info("%s refused: %s", what, refusal.message, extra=extra)

    def started(self, task: Task) -> None:
        """A task got a slot."""
        run = task.run
        if run is None:  # pragma: no cover - a started task has a run
            return
        labels = (run.engine, run.engine_version, run.pool_id, run.replica_id)
        self._metrics.child(self._metrics.started, *labels, task.request.priority).inc()
        self._placed(task, again=False)
        self._works_for(task)
        telling = asyncio.get_running_loop().call_later(TELL_AFTER_S, self._tell_started, task)
        self._telling[task.id] = telling
        waited_ms = run.at_ms - task.admission.at_ms
        self._metrics.predicted(run.pool_id, abs(waited_ms - task.admission.predicted_start_ms))

    def started_again(self, task: Task) -> None:
        """A task got a slot elsewhere, after its replica had died before its first token."""
        self._placed(task, again=True)
        self._works_for(task)

    def retried(self, task: Task, why: str) -> None:
        """A task goes back to its place in the queue: its replica has failed before its first token."""
        log.warning("task %s is given to another replica: %s", task.id, why, extra=_context(task, _run_labels(task)))

    def slot_freed(self, task: Task, took_ms: float) -> None:
        """The engine itself has said that it no longer works on a run that it did not end."""
        extra = _context(task, _run_labels(task)) | {"slot_free_ms": round(took_ms, 1)}
        log.info("the slot of task %s was free after %.1f ms", task.id, took_ms, extra=extra)

    def done(self, task: Task) -> None:
        """A task ended well."""
        run, end = task.run, task.outcome
        if run is None or not isinstance(end, End):  # pragma: no cover - a finished task has both
            return
        latency = (run.engine, run.engine_version, run.pool_id, task.request.priority)
        self._metrics.child(self._metrics.decode, *latency).observe(end.decode_time_ms)

    def cut(self, task: Task) -> None:
        """The engine went on behind ``max_tokens``. Said once of each pool: one that does so does it each time."""
        run = task.run
        if run is None or run.pool_id in self._overrun:
            return
        self._overrun.add(run.pool_id)
        text = "the engine of pool %s does not stop at max_tokens: what it says beyond is not passed on"
        log.warning(text, run.pool_id, extra=_context(task, _run_labels(task)))

    def canceled(self, task: Task, reason: str) -> None:
        """A task was canceled: by its client, or because nobody listened any more."""
        self._metrics.child(self._metrics.canceled, *_run_labels(task), reason).inc()

    def failed(self, task: Task, code: ErrorCode) -> None:
        """A task came to a bad end."""
        if STATUS[code] == TOO_MANY_REQUESTS:
            self._metrics.rejected.labels(_run_labels(task)[0], code).inc()

    def settled(self, task: Task) -> None:
        """A task has had its terminal event, whichever."""
        outcome = task.outcome
        how = (
            outcome.finish_reason
            if isinstance(outcome, End)
            else f"{outcome.code}: {outcome.message}"
            if outcome
            else "?"
        )
        tokens = outcome.tokens_out if isinstance(outcome, End) else task.log.tokens
        self._worked(task, tokens)
        telling = self._telling.pop(task.id, None)
        if telling is not None:
            telling.cancel()
        extra = _context(task, _run_labels(task)) | {"tokens_out": tokens} | _spans(task)
        log.info("task %s ended: %s", task.id, how, extra=extra)
        if self._jobs is not None:
            self._jobs.ended(task.id)

    def _tell_started(self, task: Task) -> None:
        self._telling.pop(task.id, None)
        extra = _context(task, _run_labels(task)) | _spans(task)
        log.info("task %s runs in pool %s", task.id, extra["pool_id"], extra=extra)

    def _placed(self, task: Task, *, again: bool) -> None:
        """``fallback``: another replica than was preferred, or than the one that was tried first."""
        placement, run = task.request.placement, task.run
        missed = placement.mode is PlacementMode.PREFER and run is not None and run.pool_id not in placement.prefer
        pinned = placement.mode is PlacementMode.PIN
        self._metrics.child(self._metrics.placements, "placed", _flag(value=pinned), _flag(value=again or missed)).inc()

    def _worked(self, task: Task, tokens: int) -> None:
        """Count what was generated, also of what came to no good end."""
        run, outcome, first_ms = task.run, task.outcome, task.first_text_ms
        if run is None:
            return
        labels = (run.engine, run.engine_version, run.pool_id, run.replica_id)
        self._metrics.child(self._metrics.tokens_in, *labels).inc(outcome.tokens_in if isinstance(outcome, End) else 0)
        self._metrics.child(self._metrics.tokens_out, *labels).inc(tokens)
        if first_ms is not None:
            latency = (run.engine, run.engine_version, run.pool_id, task.request.priority)
            self._metrics.child(self._metrics.first_token, *latency).observe(max(0.0, first_ms - task.admission.at_ms))

    def _works_for(self, task: Task) -> None:
        run = task.run
        if self._jobs is None or run is None:
            return
        foreign = run.served is not None and run.served.provisioning_mode is Mode.EXTERNAL
        if not foreign:  # what such an engine prints is not read by pool-managerd
            self._jobs.started(run.pool_id, task.id, task.admission.caller.correlation_id)

    # --- pools --------------------------------------------------------------------------------------------------------

    def pool_changed(self, entry: PoolEntry) -> None:
        """pool-managerd reported on a pool."""
        new, old = entry.snapshot, self._seen.get(entry.id)
        self._seen[entry.id] = new
        if old is not None and new.restarts > old.restarts:
            cause = new.last_error.cause if new.last_error else "unknown"
            self._metrics.restarts.labels(entry.id, cause).inc(new.restarts - old.restarts)
        extra = {"pool_id": entry.id, "engine": new.engine, "engine_version": version_of(entry)}
        if old is None or old.state is not new.state:
            why = f": {new.last_error.message}" if new.last_error and new.state in FAILING else ""
            pool_log.info("pool %s is %s%s", entry.id, new.state, why, extra=extra)
        elif new.ready and old.model_ref != new.model_ref:
            pool_log.info("pool %s serves %s now, no longer %s", entry.id, new.model_ref, old.model_ref, extra=extra)
        elif new.ready and new.last_error is not None and old.last_error != new.last_error:
            pool_log.warning("pool %s: %s", entry.id, new.last_error.message, extra=extra)


def _flag(*, value: bool) -> str:
    return "true" if value else "false"


def _run_labels(task: Task) -> tuple[str, str, str, str]:
    run = task.run
    return NOWHERE if run is None else (run.engine, run.engine_version, run.pool_id, run.replica_id)


def _spans(task: Task) -> dict[str, object]:
    """How long it took so far, where it is known: milliseconds from its admission."""
    run, first_ms, since_ms = task.run, task.first_text_ms, task.admission.at_ms
    moments = {"queue_time_ms": None if run is None else run.at_ms, "first_token_ms": first_ms}
    return {name: round(moment - since_ms) for name, moment in moments.items() if moment is not None}


def _context(task: Task, labels: tuple[str, str, str, str]) -> dict[str, object]:
    engine, engine_version, pool_id, replica_id = labels
    return {
        "task_id": task.id,
        "correlation_id": task.admission.caller.correlation_id,
        "identity": task.admission.caller.identity,
        "priority": task.request.priority,
        "engine": engine,
        "engine_version": engine_version,
        "pool_id": pool_id,
        "replica_id": replica_id,
    }

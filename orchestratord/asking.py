"""What an engine is asked for, and what a client is told when its task starts.

Decides what of a request reaches the engine, and what makes an answer reproducible and so is told before its first
token. Values in, values out.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET

from adapters.base import Generation
from adapters.drawing import Drawing, drawing
from adapters.parameters import asked_by, hints, unheeded
from contracts.config import Profile
from contracts.events import Metrics, Started
from contracts.receipts import SlotUse
from contracts.sampler_profiles import PROFILES
from contracts.tasks import Determinism, KvHint, TaskRequest
from orchestratord.pools import PoolEntry
from orchestratord.runs import Seat
from orchestratord.task import Run, Task

ANYWHERE = Seat()
UNKNOWN = "unknown"


def generation_of(
    request: TaskRequest,
    seed: int,
    seat: Seat = ANYWHERE,
    correlation_id: str | None = None,
    *,
    asked: Callable[[bytes], None] | None = None,
    drawn: Drawing | None = None,
) -> Generation:
    """What an engine is asked for, from what the client asked for; ``drawn`` where tokens are."""
    drawn = drawn or Drawing(request.sampling)
    return Generation(
        workload=request.workload,
        prompt=request.prompt,
        messages=request.messages,
        inputs=request.inputs,
        max_tokens=request.max_tokens if seat.max_tokens is None else seat.max_tokens,
        seed=seed,
        sampling=drawn.sampling,
        further=drawn.further,
        cache_prompt=not _cold(request),
        slot=seat.slot,
        correlation_id=correlation_id,
        asked=asked,
    )


def drawn_on(entry: PoolEntry, request: TaskRequest) -> Drawing:
    """How the engine that a pool has now is told to draw tokens, under the pool's profile."""
    snapshot = entry.snapshot
    profile = PROFILES.get(snapshot.sampler_profile_version)
    return drawing(profile, snapshot.engine, request.workload, request.sampling, entry.features)


def run_on(entry: PoolEntry, request: TaskRequest, seat: Seat, now_ms: float) -> Run:
    """A run on the engine that a pool has now."""
    snapshot = entry.snapshot
    return Run(
        pool_id=entry.id,
        replica_id=snapshot.replica_id,
        engine=snapshot.engine,
        engine_version=entry.engine_version or UNKNOWN,
        at_ms=now_ms,
        served=snapshot,
        use=SlotUse(slot=seat.slot, cache_prompt=not _cold(request), cached_tokens=None),
    )


def started(task: Task, run: Run, entry: PoolEntry, seat: Seat, profile: Profile) -> Started:
    """What the client is told when its task has its first slot."""
    entered = task.admission
    return Started(
        task_id=task.id,
        job_id=entered.job_id,
        queue_position=entered.queue_position,
        predicted_start_ms=entered.predicted_start_ms,
        engine=run.engine,
        engine_version=run.engine_version,
        model_digest=entry.snapshot.model_digest or UNKNOWN,
        pool_id=run.pool_id,
        replica_id=run.replica_id,
        profile=profile,
        seed=entered.seed,
        kv_warmth=seat.warm,
        unheeded=_unheeded(task.request, entry) or UNSET,
    )


def started_again(task: Task, run: Run, entry: PoolEntry, seat: Seat) -> Metrics:
    """What is different now that it has a slot elsewhere."""
    return Metrics(
        pool_id=run.pool_id,
        replica_id=run.replica_id,
        engine=run.engine,
        engine_version=run.engine_version,
        model_digest=entry.snapshot.model_digest or UNKNOWN,
        unheeded=_unheeded(task.request, entry) if hints(asked_by(task.request)) else UNSET,
        kv_warmth=UNSET if task.request.session_id is None else seat.warm,
    )


def _cold(request: TaskRequest) -> bool:
    return request.determinism is Determinism.STRICT or request.kv_hint is KvHint.COLD


def _unheeded(request: TaskRequest, entry: PoolEntry) -> tuple[str, ...]:
    return unheeded(entry.snapshot.engine, request.workload, asked_by(request), entry.features)

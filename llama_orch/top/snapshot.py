"""What the daemon tells at one moment, put together for a person who watches.

Decides how fast a stream is: by what came since the last look, or since its first token. Knows no clock: now is an
argument.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from contracts.base import Message
from contracts.pools import Capabilities, Capability, PoolHealth, PoolList, PoolState
from contracts.tasks import Priority, TaskState, TaskStatus

_SAMPLE = re.compile(r"^(?P<name>[a-z_]+_total)\{(?P<labels>[^}]*)\}\s+(?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Gpu(Message, frozen=True, kw_only=True):
    """A GPU and the pools that have it in their masks."""

    device: str
    pools: tuple[str, ...]
    vram_used_bytes: int
    vram_total_bytes: int
    utilization: float | None = None


class PoolRow(Message, frozen=True, kw_only=True):
    """A pool, and what goes on in it."""

    pool_id: str
    state: PoolState
    engine: str
    model: str
    active: int
    slots: int
    queued: int
    capacity: int | None
    restarts: int
    next_model: str | None = None
    error: str | None = None


class Stream(Message, frozen=True, kw_only=True):
    """A task that runs or waits."""

    task_id: str
    state: TaskState
    priority: Priority
    model: str
    age_ms: int
    pool_id: str | None = None
    position: int | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None


class Counts(Message, frozen=True, kw_only=True):
    """What has happened since the daemon started, by reason; failures among the tasks that it still knows."""

    tokens_out: int
    refused: dict[str, int]
    canceled: dict[str, int]
    engine_restarts: dict[str, int]
    failed: dict[str, int]


class Snapshot(Message, frozen=True, kw_only=True):
    """All of it, at ``at_ms`` (Unix)."""

    at_ms: int
    managed: bool
    profile: str
    gpus: tuple[Gpu, ...]
    pools: tuple[PoolRow, ...]
    running: tuple[Stream, ...]
    queued: tuple[Stream, ...]
    queue_depth: int
    """All that wait, also those that are not in ``queued``."""
    tokens_per_s: float
    counts: Counts
    notices: tuple[str, ...] = ()

    @property
    def ready(self) -> int:
        """How many pools serve."""
        return sum(pool.state is PoolState.READY for pool in self.pools)


class Answers(Message, frozen=True, kw_only=True):
    """What was asked for one snapshot."""

    pools: PoolList
    capabilities: Capabilities
    running: tuple[TaskStatus, ...]
    queued: tuple[TaskStatus, ...]
    failed: tuple[TaskStatus, ...]
    metrics: str


def snapshot(answers: Answers, now_ms: int, before: Snapshot | None = None) -> Snapshot:
    """The figures at this moment; ``before`` is the last look."""
    known = {pool.pool_id: pool for pool in answers.capabilities.pools}
    past = {} if before is None else {stream.task_id: stream for stream in before.running}
    passed_ms = 0 if before is None else now_ms - before.at_ms
    running = tuple(_running(task, now_ms, past.get(task.task_id), passed_ms) for task in answers.running)
    waiting = sorted(answers.queued, key=lambda task: (task.queue_position or 0, task.created_ms))
    return Snapshot(
        at_ms=now_ms,
        managed=answers.pools.managed,
        profile=str(answers.capabilities.profile),
        gpus=tuple(_gpus(answers.pools.pools)),
        pools=tuple(_pool(pool, known.get(pool.pool_id)) for pool in answers.pools.pools),
        running=running,
        queued=tuple(_stream(task, now_ms) for task in waiting),
        queue_depth=max(sum(pool.metrics.queue_depth for pool in answers.pools.pools), len(waiting)),
        tokens_per_s=sum(stream.tokens_per_s or 0.0 for stream in running),
        counts=_counts(answers),
        notices=answers.pools.notices,
    )


def short_model(ref: str) -> str:
    """The part of a reference by which people know a model: ``org/repo/file.gguf`` is ``file``."""
    name = ref.partition("?")[0].rstrip("/").rpartition("/")[2] or ref
    return name.removesuffix(".gguf")


def _gpus(pools: Sequence[PoolHealth]) -> Iterator[Gpu]:
    uses = [(use, pool.pool_id) for pool in pools for use in pool.metrics.devices]
    for device in dict.fromkeys(use.device for use, _ in uses):
        own = [(use, pool_id) for use, pool_id in uses if use.device == device]
        latest = own[-1][0]
        yield Gpu(
            device=device,
            pools=tuple(pool_id for _, pool_id in own),
            vram_used_bytes=latest.vram_used_bytes,
            vram_total_bytes=latest.vram_total_bytes,
            utilization=latest.utilization,
        )


def _pool(pool: PoolHealth, known: Capability | None) -> PoolRow:
    engine = "" if known is None else " ".join(filter(None, (known.engine, known.engine_version)))
    model = pool.model_ref or ("" if known is None else known.model_ref)
    error = None if pool.last_error is None else f"{pool.last_error.cause}: {pool.last_error.message}"
    return PoolRow(
        pool_id=pool.pool_id,
        state=pool.state,
        engine=engine,
        model=short_model(model),
        active=pool.metrics.active,
        slots=pool.metrics.slots,
        queued=pool.metrics.queue_depth,
        capacity=None if known is None else known.queue.capacity,
        restarts=pool.restarts,
        next_model=None if pool.next_model_ref is None else short_model(pool.next_model_ref),
        error=error,
    )


def _stream(task: TaskStatus, now_ms: int) -> Stream:
    return Stream(
        task_id=task.task_id,
        state=task.state,
        priority=task.priority,
        model=short_model(task.model_ref),
        age_ms=max(now_ms - task.created_ms, 0),
        pool_id=task.pool_id,
        position=task.queue_position,
        tokens=task.tokens_out,
    )


def _running(task: TaskStatus, now_ms: int, past: Stream | None, passed_ms: int) -> Stream:
    stream = _stream(task, now_ms)
    fields = {field: getattr(stream, field) for field in Stream.__struct_fields__}
    return Stream(**(fields | {"tokens_per_s": _speed(task, stream, past, passed_ms)}))


def _speed(task: TaskStatus, stream: Stream, past: Stream | None, passed_ms: int) -> float | None:
    if stream.tokens is None or task.first_token_ms is None:
        return None
    if past is not None and past.tokens is not None and passed_ms > 0 and stream.tokens >= past.tokens:
        return 1000 * (stream.tokens - past.tokens) / passed_ms
    spent = stream.age_ms - task.first_token_ms
    return 1000 * stream.tokens / spent if spent > 0 else None


def _counts(answers: Answers) -> Counts:
    samples = list(_samples(answers.metrics))

    def by(name: str, label: str) -> dict[str, int]:
        found: Counter[str] = Counter()
        for each, labels, value in samples:
            if each == name and value:
                found[labels.get(label, "")] += round(value)
        return dict(found.most_common())

    failed = Counter(str(task.error_code or "unknown") for task in answers.failed)
    return Counts(
        tokens_out=sum(by("tokens_out_total", "pool_id").values()),
        refused=by("tasks_rejected_total", "reason"),
        canceled=by("tasks_canceled_total", "reason"),
        engine_restarts=by("engine_restarts_total", "cause"),
        failed=dict(failed.most_common()),
    )


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for found in _SAMPLE.finditer(text):
        try:
            value = float(found["value"])
        except ValueError:
            continue
        yield found["name"], dict(_LABEL.findall(found["labels"])), value

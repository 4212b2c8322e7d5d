"""The Prometheus series of orchestratord: their names, types and labels are a contract.

Decides how they are named and labelled. Counts what the observer tells it; gauges are read from the live state when
somebody scrapes. No task, session, client or path ever becomes a label.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts.catalog import CatalogJob
from contracts.engines import ModelEntry, ModelState
from contracts.tasks import Priority
from orchestratord.backlog import Backlog
from orchestratord.pools import PoolDirectory, PoolEntry

REPLICA = ("engine", "engine_version", "pool_id", "replica_id")
FIRST_TOKEN_BUCKETS = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000)
DECODE_BUCKETS = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)
MAX_MODELS = 1_000
"""So many models have a state in the metrics at most; the catalog itself has no limit."""
RECENT = 200
"""How many of a pool's latest predictions the error quantiles are over."""


class Metrics:
    """All series, on a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: Iterable[str]) -> Counter:
            return Counter(name, text, tuple(labels), registry=self.registry)

        self.enqueued = counter("tasks_enqueued", "Tasks that entered a queue", (*REPLICA, "priority"))
        self.started = counter("tasks_started", "Tasks that got a slot", (*REPLICA, "priority"))
        self.rejected = counter("tasks_rejected", "Tasks that were refused or dropped", ("engine", "reason"))
        self.canceled = counter("tasks_canceled", "Tasks that were canceled", (*REPLICA, "reason"))
        self.tokens_in = counter("tokens_in", "Prompt tokens of finished tasks", REPLICA)
        self.tokens_out = counter("tokens_out", "Generated tokens of finished tasks", REPLICA)
        self.backpressure = counter("admission_backpressure_events", "429 answers", ("engine", "policy"))
        self.placements = counter("placement_decisions", "Slots given to tasks", ("outcome", "pinned", "fallback"))
        self.verifications = counter("catalog_verifications", "Model verifications", ("result", "reason", "engine"))
        self.restarts = counter("engine_restarts", "Engine restarts", ("pool_id", "cause"))
        latency = ("engine", "engine_version", "pool_id", "priority")
        self.first_token = Histogram(
            "latency_first_token_ms",
            "From admission to the first token",
            latency,
            buckets=FIRST_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self.decode = Histogram(
            "latency_decode_ms", "Time spent generating", latency, buckets=DECODE_BUCKETS, registry=self.registry
        )
        self.prediction_errors: dict[str, deque[float]] = {}

    def watch(
        self, pools: PoolDirectory, backlog: Backlog, entries: Callable[[], Iterable[ModelEntry]] = tuple
    ) -> None:
        """Read the gauges from this live state at every scrape. ``entries`` are the models of the catalog."""
        self.registry.register(_Gauges(pools, backlog, self.prediction_errors, entries))

    def verified(self, job: CatalogJob) -> None:
        """A job ended; what a verification came to is counted."""
        if job.result is not None and job.reason is not None:
            self.verifications.labels(job.result, job.reason, job.engine).inc()

    def predicted(self, pool_id: str, error_ms: float) -> None:
        """A prediction missed the true start by so much."""
        self.prediction_errors.setdefault(pool_id, deque(maxlen=RECENT)).append(error_ms)

    def exposition(self) -> bytes:
        """The page that Prometheus scrapes."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    """The present, read when it is asked for."""

    def __init__(
        self,
        pools: PoolDirectory,
        backlog: Backlog,
        errors: dict[str, deque[float]],
        entries: Callable[[], Iterable[ModelEntry]],
    ) -> None:
        self._pools = pools
        self._backlog = backlog
        self._errors = errors
        self._entries = entries

    def collect(self) -> Iterable[Metric]:
        yield self._queue_depth()
        yield self._per_device("gpu_utilization", "GPU utilization, 0 to 1", lambda use: use.utilization)
        yield self._per_device("vram_used_bytes", "VRAM in use", lambda use: use.vram_used_bytes)
        yield self._model_state()
        yield self._prediction_error()

    def _queue_depth(self) -> Metric:
        labels = ("engine", "engine_version", "pool_id", "priority")
        family = GaugeMetricFamily("queue_depth", "Waiting tasks", labels=labels)
        for entry in self._pools:
            for priority in Priority:
                values = (entry.snapshot.engine, version_of(entry), entry.id, priority)
                family.add_metric(values, self._backlog.depth(entry.id, priority))
        return family

    def _per_device(self, name: str, text: str, value: Callable[..., float | None]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=(*REPLICA, "device"))
        for entry in self._pools:
            for use in entry.snapshot.device_use:
                measured = value(use)
                if measured is not None:
                    family.add_metric((*replica_labels(entry), use.device), measured)
        return family

    def _model_state(self) -> Metric:
        family = GaugeMetricFamily("model_state", "1 for a model in this state", labels=("model_id", "state"))
        served = {entry.snapshot.model_id: ModelState.ACTIVE for entry in self._pools if entry.snapshot.model_id}
        known = {entry.id: entry.state for entry in self._entries()}
        states = {model_id: known.get(model_id, state) for model_id, state in served.items()} | known
        for model_id in list(states)[:MAX_MODELS]:  # those that are served come first
            for state in ModelState:
                family.add_metric((model_id, state), states[model_id] is state)
        return family

    def _prediction_error(self) -> Metric:
        text = "How far the predicted start was from the true one, over the latest tasks"
        family = GaugeMetricFamily("prediction_error_ms", text, labels=("pool_id", "quantile"))
        for pool_id, errors in self._errors.items():
            ordered = sorted(errors)
            for quantile in (0.5, 0.9):
                family.add_metric((pool_id, str(quantile)), ordered[int(quantile * (len(ordered) - 1))])
        return family


def version_of(entry: PoolEntry) -> str:
    """The engine version as a label."""
    return entry.engine_version or "unknown"


def replica_labels(entry: PoolEntry) -> tuple[str, str, str, str]:
    """The values of ``REPLICA`` for a pool."""
    return entry.snapshot.engine, version_of(entry), entry.id, entry.snapshot.replica_id

"""Counts what becomes of tasks and pools, for Prometheus. The names, types and labels are ``contracts.metrics``'s.

Decides the buckets. Counts what the observer tells it; gauges are read from the live state when somebody scrapes. No
task, session, client or path ever becomes a label.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contracts import metrics as contract
from contracts.catalog import CatalogJob
from contracts.engines import ModelEntry, ModelState
from contracts.metrics import Series
from contracts.pools import DeviceUse
from contracts.tasks import Priority
from orchestratord.backlog import Backlog
from orchestratord.pools import PoolDirectory, PoolEntry
from orchestratord.usage import CacheUsage

FIRST_TOKEN_BUCKETS = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000)
DECODE_BUCKETS = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)
MAX_MODELS = 1_000
"""So many models have a state in the metrics at most; the catalog itself has no limit."""
Kind = TypeVar("Kind", Counter, Histogram)
RECENT = 200
"""How many of a pool's latest predictions the error quantiles are over."""


class Metrics:
    """All series, on a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()

        def counter(series: Series) -> Counter:
            return Counter(series.name, series.text, series.labels, registry=self.registry)

        def histogram(series: Series, buckets: Sequence[float]) -> Histogram:
            return Histogram(series.name, series.text, series.labels, registry=self.registry, buckets=buckets)

        self.enqueued = counter(contract.ENQUEUED)
        self.started = counter(contract.STARTED)
        self.rejected = counter(contract.REJECTED)
        self.canceled = counter(contract.CANCELED)
        self.tokens_in = counter(contract.TOKENS_IN)
        self.tokens_out = counter(contract.TOKENS_OUT)
        self.backpressure = counter(contract.BACKPRESSURE)
        self.placements = counter(contract.PLACEMENTS)
        self.verifications = counter(contract.VERIFICATIONS)
        self.restarts = counter(contract.RESTARTS)
        self.first_token = histogram(contract.FIRST_TOKEN, FIRST_TOKEN_BUCKETS)
        self.decode = histogram(contract.DECODE, DECODE_BUCKETS)
        self._usage: CacheUsage | None = None
        self.prediction_errors: dict[str, deque[float]] = {}
        self._children: dict[tuple[object, ...], Any] = {}

    def child(self, series: Kind, *labels: str) -> Kind:
        """One line of a series; the library's own way to it takes several times as long."""
        key = (series, *labels)
        found: Kind | None = self._children.get(key)
        if found is None:
            found = self._children[key] = series.labels(*labels)
        return found

    def watch(
        self, pools: PoolDirectory, backlog: Backlog, entries: Callable[[], Iterable[ModelEntry]] = tuple
    ) -> None:
        """Read the gauges from this live state at every scrape. ``entries`` are the models of the catalog."""
        self._usage = CacheUsage(pools)
        self.registry.register(_Gauges(pools, backlog, self.prediction_errors, entries, self._usage))

    async def refresh(self) -> None:
        """Ask the engines what only they know; takes a moment at most."""
        if self._usage is not None:
            await self._usage.refresh()

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
        usage: CacheUsage,
    ) -> None:
        self._usage = usage
        self._pools = pools
        self._backlog = backlog
        self._errors = errors
        self._entries = entries

    def collect(self) -> Iterable[Metric]:
        yield self._queue_depth()
        yield self._per_device(contract.GPU_UTILIZATION, lambda use: use.utilization)
        yield self._per_device(contract.VRAM_USED, lambda use: use.vram_used_bytes)
        yield self._model_state()
        yield self._cache_usage()
        yield self._prediction_error()

    def _queue_depth(self) -> Metric:
        family = _gauge(contract.QUEUE_DEPTH)
        for entry in self._pools:
            for priority in Priority:
                values = (entry.snapshot.engine, version_of(entry), entry.id, priority)
                family.add_metric(values, self._backlog.depth(entry.id, priority))
        return family

    def _per_device(self, series: Series, value: Callable[[DeviceUse], float | None]) -> Metric:
        family = _gauge(series)
        for entry in self._pools:
            for use in entry.snapshot.device_use:
                measured = value(use)
                if measured is not None:
                    family.add_metric((*replica_labels(entry), use.device), measured)
        return family

    def _model_state(self) -> Metric:
        family = _gauge(contract.MODEL_STATE)
        served = {entry.snapshot.model_id: ModelState.ACTIVE for entry in self._pools if entry.snapshot.model_id}
        known = {entry.id: entry.state for entry in self._entries()}
        states = {model_id: known.get(model_id, state) for model_id, state in served.items()} | known
        for model_id in list(states)[:MAX_MODELS]:  # those that are served come first
            for state in ModelState:
                family.add_metric((model_id, state), states[model_id] is state)
        return family

    def _cache_usage(self) -> Metric:
        family = _gauge(contract.KV_CACHE_USAGE)
        for entry in self._pools:
            usage = self._usage.told.get(entry.id)
            if usage is not None and entry.usable:
                family.add_metric(replica_labels(entry), usage)
        return family

    def _prediction_error(self) -> Metric:
        family = _gauge(contract.PREDICTION_ERROR)
        for pool_id, errors in self._errors.items():
            ordered = sorted(errors)
            for quantile in (0.5, 0.9):
                family.add_metric((pool_id, str(quantile)), ordered[int(quantile * (len(ordered) - 1))])
        return family


def _gauge(series: Series) -> GaugeMetricFamily:
    return GaugeMetricFamily(series.name, series.text, labels=series.labels)


def version_of(entry: PoolEntry) -> str:
    """The engine version as a label."""
    return entry.engine_version or "unknown"


def replica_labels(entry: PoolEntry) -> tuple[str, str, str, str]:
    """The values of ``REPLICA`` for a pool."""
    return entry.snapshot.engine, version_of(entry), entry.id, entry.snapshot.replica_id

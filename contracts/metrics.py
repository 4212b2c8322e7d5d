"""The Prometheus series of orchestratord: names, types and labels that dashboards may rely on.

Decides the list. What a label may be is a closed set, or the name of something that the configuration has: a task, a
session, a client or a path never is one, so there is a bound on how many series there can be. Counting is
``orchestratord.metrics``'s.
"""

from __future__ import annotations

from enum import StrEnum

from contracts.base import Message

REPLICA = ("engine", "engine_version", "pool_id", "replica_id")
POOL = ("engine", "engine_version", "pool_id", "priority")


class SeriesKind(StrEnum):
    """What Prometheus calls a type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Series(Message, frozen=True, kw_only=True):
    """One name, and what stands behind it. A counter's name ends in ``_total``."""

    name: str
    kind: SeriesKind
    labels: tuple[str, ...]
    text: str


def _counter(name: str, labels: tuple[str, ...], text: str) -> Series:
    return Series(name=name, kind=SeriesKind.COUNTER, labels=labels, text=text)


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Series:
    return Series(name=name, kind=SeriesKind.GAUGE, labels=labels, text=text)


QUEUE_DEPTH = _gauge("queue_depth", POOL, "Tasks that wait for this pool")
ENQUEUED = _counter("tasks_enqueued_total", (*REPLICA, "priority"), "Tasks that entered a queue")
STARTED = _counter("tasks_started_total", (*REPLICA, "priority"), "Tasks that got a slot")
REJECTED = _counter("tasks_rejected_total", ("engine", "reason"), "Tasks that were refused, or dropped from a queue")
CANCELED = _counter("tasks_canceled_total", (*REPLICA, "reason"), "Tasks that were canceled")
TOKENS_IN = _counter("tokens_in_total", REPLICA, "Prompt tokens of tasks that ended")
TOKENS_OUT = _counter("tokens_out_total", REPLICA, "Tokens that were generated for tasks that ended")
GPU_UTILIZATION = _gauge("gpu_utilization", (*REPLICA, "device"), "Share of the time in which the GPU works, 0 to 1")
VRAM_USED = _gauge("vram_used_bytes", (*REPLICA, "device"), "VRAM in use on the GPU, whoever uses it")
MODEL_STATE = _gauge("model_state", ("model_id", "state"), "1 for the state that the model is in")
KV_CACHE_USAGE = _gauge("kv_cache_usage_ratio", REPLICA, "How full the KV cache is by the engine's own word, 0 to 1")
FIRST_TOKEN = Series(
    name="latency_first_token_ms",
    kind=SeriesKind.HISTOGRAM,
    labels=POOL,
    text="Milliseconds from admission to the first token",
)
DECODE = Series(name="latency_decode_ms", kind=SeriesKind.HISTOGRAM, labels=POOL, text="Milliseconds spent generating")
BACKPRESSURE = _counter("admission_backpressure_events_total", ("engine", "policy"), "Answers with status 429")
PLACEMENTS = _counter("placement_decisions_total", ("outcome", "pinned", "fallback"), "Slots that were given to tasks")
VERIFICATIONS = _counter("catalog_verifications_total", ("result", "reason", "engine"), "Models that were verified")
RESTARTS = _counter("engine_restarts_total", ("pool_id", "cause"), "Engines that were started anew after a failure")
PREDICTION_ERROR = _gauge(
    "prediction_error_ms", ("pool_id", "quantile"), "Milliseconds between predicted and true start, of the latest tasks"
)

SERIES: tuple[Series, ...] = (
    QUEUE_DEPTH,
    ENQUEUED,
    STARTED,
    REJECTED,
    CANCELED,
    TOKENS_IN,
    TOKENS_OUT,
    GPU_UTILIZATION,
    VRAM_USED,
    MODEL_STATE,
    KV_CACHE_USAGE,
    FIRST_TOKEN,
    DECODE,
    BACKPRESSURE,
    PLACEMENTS,
    VERIFICATIONS,
    RESTARTS,
    PREDICTION_ERROR,
)

"""The rows of the table: which figure of which samples each one shows. Decides nothing else; measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.figures import Figures

STREAMS = (1, 8, 64, 256)
KEPT = ("memory", "process", "machine")
DIRECT = {"LiteLLM": "direct, OpenAI"}
"""What stands before an engine of another wire than the usual one is compared with that engine."""
Values = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One line: values by system."""

    key: str
    label: str
    values: Callable[[Figures], Values]
    digits: int = 0


def added(values: Values) -> Values:
    """What each adds to the engine alone."""
    bare = {"direct", *DIRECT.values()}
    return {
        name: value - values[DIRECT.get(name, "direct")]
        for name, value in values.items()
        if name not in bare and DIRECT.get(name, "direct") in values
    }


def _median(key: str) -> Callable[[Figures], Values]:
    return lambda figures: figures.medians(key)


def _at(key: str, share: float) -> Callable[[Figures], Values]:
    return lambda figures: figures.percentiles(key, share)


def _added_at(key: str, share: float) -> Callable[[Figures], Values]:
    return lambda figures: added(figures.percentiles(key, share))


def _added(key: str) -> Callable[[Figures], Values]:
    return lambda figures: added(figures.medians(key))


def _worst(key: str) -> Callable[[Figures], Values]:
    return lambda figures: figures.percentiles(key, 100)


def _last(key: str) -> Callable[[Figures], Values]:
    return lambda figures: {name: values[-1] for name, values in figures.samples.get(key, {}).items()}


def _beyond_own(key: str, share: float) -> Callable[[Figures], Values]:
    """Without the time that the engine takes by itself."""

    def values(figures: Figures) -> Values:
        own = figures.percentiles(f"{key}_own", share).get("direct", 0.0)
        return {name: value - own for name, value in figures.percentiles(f"{key}_ms", share).items()}

    return values


def _streams(count: int) -> str:
    return f"{count} stream" if count == 1 else f"{count} streams"


ROWS = (
    Row("first_token_50", "first token p50, us", _at("first_token_us", 50)),
    Row("first_token_99", "first token p99, us", _at("first_token_us", 99)),
    Row("added_first_token_50", "added to first token p50, us", _added_at("first_token_us", 50)),
    Row("added_first_token_99", "added to first token p99, us", _added_at("first_token_us", 99)),
    *(Row(f"rate_{n}", f"k tokens/s, {_streams(n)}", _median(f"rate_{n}"), 1) for n in STREAMS),
    *(Row(f"cpu_{n}", f"CPU s per M tokens, {_streams(n)}", _median(f"cpu_{n}"), 2) for n in STREAMS),
    Row("paced_cpu", "200 paced streams (LiteLLM: 20): CPU s per M tokens", _median("paced_cpu"), 1),
    Row("paced_50", "200 paced: age of a token p50, us", _median("paced_50")),
    Row("paced_added_50", "200 paced: added to its age p50, us", _added("paced_50")),
    Row("paced_99", "200 paced: age of a token p99, ms", _median("paced_99"), 1),
    Row("paced_rate", "200 paced: k tokens/s (10 were sent)", _median("paced_rate"), 1),
    Row("crowd_rate", "600 paced: k tokens/s (30 were sent)", _median("crowd_rate"), 1),
    Row("crowd_lost", "600 paced: tokens lost", _worst("crowd_lost")),
    Row("crowd_cpu", "600 paced: CPU s per M tokens", _median("crowd_cpu"), 1),
    Row("crowd_99", "600 paced: age of a token p99, ms", _median("crowd_99"), 1),
    Row("burst_99", "burst of 200: first token p99, ms", _median("burst_99"), 1),
    Row("burst_cpu", "burst of 200: CPU of a request, us", _median("burst_cpu")),
    Row("gap_50", "one slot: gap between tasks p50, ms", _median("gap_50"), 2),
    Row("occupancy", "one slot: busy with tasks of 200 ms, %", _median("occupancy"), 2),
    Row("free_own", "cancel: the stand-in frees its slot by itself p50, ms", _median("free_own"), 2),
    Row("free_50", "cancel to slot free p50, ms (engine's own off)", _beyond_own("free", 50), 2),
    Row("free_99", "cancel to slot free p99, ms (engine's own off)", _beyond_own("free", 99), 2),
    Row("free_real_own", "cancel: llama.cpp frees its slot by itself p50, ms", _median("free_real_own"), 2),
    Row("free_real_50", "cancel to llama.cpp's slot free p50, ms (own off)", _beyond_own("free_real", 50), 2),
    Row("free_real_99", "cancel to llama.cpp's slot free p99, ms (own off)", _beyond_own("free_real", 99), 2),
    *(
        Row(f"depth_{name}_{depth}", f"queue: {name} with {depth:,} waiting, us", _median(f"depth_{name}_{depth}"), 2)
        for name in ("enqueue", "dequeue", "cancel")
        for depth in (10, 1_000, 100_000)
    ),
    Row("depth", "queue: slowest depth beside the fastest, worst of three", _median("depth"), 2),
    Row("wait_error", "predicted wait: median error over six loads, %", _median("wait_error"), 1),
    Row("wait_error_worst", "predicted wait: median error of the worst load, %", _median("wait_error_worst"), 1),
    Row("wait_inside", "predicted wait: in the band of four fifths, %", _median("wait_inside"), 1),
    Row("start", "start to the first 200, ms", _median("start")),
    Row("queued_kb", "a queued task with an open stream, KB", _median("queued_kb"), 1),
    *(Row(f"durable_cpu_{n}", f"durability {n}: CPU of a short task, us", _median(f"durable_cpu_{n}")) for n in KEPT),
    *(Row(f"durable_{n}", f"durability {n}: that CPU beside memory's", _median(f"durable_{n}"), 2) for n in KEPT[1:]),
    *(Row(f"durable_first_{n}", f"durability {n}: first token p50, us", _median(f"durable_first_{n}")) for n in KEPT),
    Row("rss_before", "RSS before load, MB", _median("rss_before")),
    Row("rss_after", "RSS after load, MB", _last("rss_after")),
)


def shown(figures: Figures) -> dict[str, Values]:
    """Every row's values by its key; of rows that were not measured there are none."""
    return {row.key: values for row in ROWS if (values := row.values(figures))}

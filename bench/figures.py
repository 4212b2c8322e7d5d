"""What was measured, and how it is laid out. Decides which figures stand beside which; measures nothing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from rich.table import Table

STREAMS = (1, 8, 64, 256)


@dataclass(frozen=True)
class Burst:
    """So many streams at once, as fast as they go: CPU time of the process measured and of those around it."""

    tokens: int
    took_s: float
    cpu_s: float
    engine_cpu_s: float
    client_cpu_s: float


@dataclass
class Figures:
    """All of one system."""

    first_token_us: list[float] = field(default_factory=list)
    bursts: dict[int, list[Burst]] = field(default_factory=dict)
    """By the number of streams."""
    rss_before_mb: float = 0.0
    rss_after_mb: float = 0.0

    def rate(self, streams: int) -> float:
        """Tokens per second."""
        return statistics.median(burst.tokens / burst.took_s for burst in self.bursts[streams])

    def cpu_s_per_million(self, streams: int) -> float:
        """CPU seconds for a million tokens."""
        return statistics.median(burst.cpu_s / burst.tokens * 1e6 for burst in self.bursts[streams])

    def cores_busy(self, streams: int) -> float:
        """CPU seconds for a second of the clock. Well below 1, the process was not what limited the rate."""
        return statistics.median(burst.cpu_s / burst.took_s for burst in self.bursts[streams])


def table(figures: dict[str, Figures]) -> Table:
    """A column a system, and ours against the engine alone."""
    answer = Table(title="medians of one interleaved run; read the ratios", title_justify="left")
    answer.add_column("what", no_wrap=True)
    for name in figures:
        answer.add_column(name, justify="right")
    answer.add_column("llama-orch / direct", justify="right")
    for label, share in (("p50", 50), ("p99", 99)):
        _first_token(answer, figures, label, share)
    for streams in STREAMS:
        rates = {name: each.rate(streams) for name, each in figures.items()}
        row = [f"{rate / 1000:.0f}" for rate in rates.values()]
        ratio = rates["llama-orch"] / rates["direct"]
        answer.add_row(f"k tokens/s, {_streams(streams)}", *row, f"{ratio:.2f}")
    for streams in STREAMS:
        row = [f"{each.cpu_s_per_million(streams):.2f}" for each in figures.values()]
        answer.add_row(f"CPU s per M tokens, {_streams(streams)}", *row, "")
    answer.add_row("RSS before load, MB", *(f"{each.rss_before_mb:.0f}" for each in figures.values()), "")
    answer.add_row("RSS after load, MB", *(f"{each.rss_after_mb:.0f}" for each in figures.values()), "")
    return answer


def _first_token(answer: Table, figures: dict[str, Figures], label: str, share: int) -> None:
    values = {name: percentile(each.first_token_us, share) for name, each in figures.items()}
    row = [f"{value:.0f}" for value in values.values()]
    answer.add_row(f"first token {label}, us", *row, f"{values['llama-orch'] / values['direct']:.2f}")
    added = [f"{value - values['direct']:+.0f}" for name, value in values.items() if name != "direct"]
    answer.add_row(f"added to first token {label}, us", "", *added, "")


def notes(figures: dict[str, Figures]) -> list[str]:
    """What a reader must know to trust the table: whether anything but the process measured was the limit."""
    said = []
    for name, each in figures.items():
        bursts = [burst for some in each.bursts.values() for burst in some]
        tokens = sum(burst.tokens for burst in bursts)
        client = sum(burst.client_cpu_s for burst in bursts) / tokens * 1e6
        engine = sum(burst.engine_cpu_s for burst in bursts) / tokens * 1e6
        busy = ", ".join(f"{each.cores_busy(streams):.2f}" for streams in STREAMS)
        said.append(
            f"{name}: had {busy} cores at {', '.join(map(str, STREAMS))} streams; "
            f"around it, per M tokens, the engine spent {engine:.2f} CPU s and the client {client:.2f}"
        )
    if "nginx" in figures:
        said.append(
            "nginx can be ahead of direct by a little: it keeps connections to the engine, the client opens new ones"
        )
    else:
        said.append("nginx is not installed here, so its column is missing (Debian: apt install nginx)")
    return said


def percentile(values: list[float], share: int) -> float:
    """The value that ``share`` of a hundred do not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


def _streams(count: int) -> str:
    return f"{count} stream" if count == 1 else f"{count} streams"

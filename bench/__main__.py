"""``make bench``: first-token latency, relayed tokens per second, CPU and memory, beside the engine itself and nginx.

Every round measures every system in turn, so that a machine whose speed drifts touches all alike; figures are medians
over the rounds. Read the ratios, not the absolute numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import procfs
from bench.load import Sample, ask, ask_many
from bench.systems import System, running

STREAMS = (1, 8, 64, 256)
TOKENS_A_ROUND = 64_000
"""Shared by the streams of one measurement, so that each takes about as long."""


@dataclass
class Figures:
    """What was measured of one system, a value a round."""

    first_token_us: list[float] = field(default_factory=list)
    rate: dict[int, list[float]] = field(default_factory=dict)
    cpu_s_per_million: dict[int, list[float]] = field(default_factory=dict)
    rss_mb: float = 0.0


async def measure(systems: list[System], rounds: int, requests: int) -> dict[str, Figures]:
    """All figures of all systems."""
    figures = {system.target.name: Figures() for system in systems}
    for system in systems:
        await ask_many(system.target, 8, 100)  # warm: imports, connections, allocators
    for number in range(rounds):
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
        for _ in range(requests):
            for system in systems:
                sample = _checked(system, await ask(system.target, 1), 1)
                figures[system.target.name].first_token_us.append((sample.first_token - sample.began) * 1e6)
        for streams in STREAMS:
            for system in systems:
                await _saturate(system, streams, figures[system.target.name])
    for system in systems:
        figures[system.target.name].rss_mb = procfs.rss_mb(list(system.pids))
    return figures


async def _saturate(system: System, streams: int, figures: Figures) -> None:
    tokens = TOKENS_A_ROUND // streams
    before = procfs.cpu_s(list(system.pids))
    samples = await ask_many(system.target, streams, tokens)
    spent = procfs.cpu_s(list(system.pids)) - before
    for sample in samples:
        _checked(system, sample, tokens)
    took = max(sample.ended for sample in samples) - min(sample.began for sample in samples)
    total = tokens * streams
    figures.rate.setdefault(streams, []).append(total / took)
    figures.cpu_s_per_million.setdefault(streams, []).append(spent / total * 1e6)


def _checked(system: System, sample: Sample, tokens: int) -> Sample:
    """A sample that holds what was asked for; a figure over anything else would mean nothing."""
    if b" 200" not in sample.status or sample.tokens < tokens:
        text = f"{system.target.name}: asked for {tokens} tokens, got {sample.tokens} with {sample.status!r}"
        raise RuntimeError(text)
    return sample


def report(figures: dict[str, Figures], console: Console) -> None:
    """Print the table: a column a system, and what llama-orch adds."""
    direct, ours = figures["direct"], figures["llama-orch"]
    table = Table(title="medians of one interleaved run; read the ratios", title_justify="left")
    table.add_column("what")
    for name in figures:
        table.add_column(name, justify="right")
    table.add_column("llama-orch / direct", justify="right")
    for label, share in (("p50", 50), ("p99", 99)):
        values = {name: percentile(each.first_token_us, share) for name, each in figures.items()}
        row = [f"{value:.0f}" for value in values.values()]
        table.add_row(f"first token {label}, us", *row, f"{values['llama-orch'] / values['direct']:.2f}")
        added = {name: value - values["direct"] for name, value in values.items()}
        table.add_row(f"added first token {label}, us", *(f"{value:+.0f}" for value in added.values()), "")
    for streams in STREAMS:
        rates = [statistics.median(each.rate[streams]) for each in figures.values()]
        ratio = statistics.median(ours.rate[streams]) / statistics.median(direct.rate[streams])
        table.add_row(f"k tokens/s, {streams} streams", *(f"{rate / 1000:.0f}" for rate in rates), f"{ratio:.2f}")
    for streams in STREAMS:
        spent = [statistics.median(each.cpu_s_per_million[streams]) for each in figures.values()]
        table.add_row(f"CPU s per M tokens, {streams} streams", *(f"{value:.2f}" for value in spent), "")
    table.add_row("RSS after load, MB", *(f"{each.rss_mb:.0f}" for each in figures.values()), "")
    console.print(table)
    if "nginx" not in figures:
        console.print("nginx is not installed here, so its column is missing (Debian: apt install nginx)")


def percentile(values: list[float], share: int) -> float:
    """The value that ``share`` of a hundred do not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60, help="one-token requests per system and round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llama-orch-bench-") as folder:
        figures = asyncio.run(_run(Path(folder), options.rounds, options.requests))
    console = Console()
    console.print(f"{platform.platform()}, Python {platform.python_version()}")
    report(figures, console)
    return 0


async def _run(folder: Path, rounds: int, requests: int) -> dict[str, Figures]:
    async with running(folder) as systems:
        return await measure(systems, rounds, requests)


if __name__ == "__main__":
    raise SystemExit(main())

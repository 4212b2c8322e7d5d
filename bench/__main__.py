"""``make bench``: first-token latency, relayed tokens per second, CPU and memory, beside the engine itself and nginx.

Every round measures every system in turn, so that a machine whose speed drifts touches all alike; figures are medians
over the rounds. Read the ratios, not the absolute numbers. No process is bound to a core: engine, relay and client
share them as they would on a workstation, and the notes under the table say how much of a core each one had.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rich.console import Console

from bench import procfs
from bench.figures import STREAMS, Burst, Figures, notes, table
from bench.load import Sample, ask, ask_many
from bench.systems import System, running

RESULTS = Path(__file__).parent / "results"
WIDTH = 110
"""Of the table where nobody looks at a terminal."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int = 5
    requests: int = 60
    """Of one token, per system and round."""
    tokens: int = 64_000
    """Of one burst, shared by its streams, so that bursts take about as long."""
    shortest: int = 1_000
    """Tokens of a stream; below that a burst would measure how requests start, not how tokens flow."""
    tokens_per_write: int = 16
    """How many the engine hands to the kernel at once."""


QUICK = Size(rounds=1, requests=20, tokens=16_000, shortest=250)


async def measure(systems: list[System], size: Size) -> dict[str, Figures]:
    """All figures of all systems."""
    figures = {system.target.name: Figures() for system in systems}
    await ask(systems[0].target, size.tokens)  # the engine encodes each token once: not in the first measurement
    for system in systems:
        await ask_many(system.target, max(STREAMS), 100)  # warm: imports, allocators, connections that are kept
        figures[system.target.name].rss_before_mb = procfs.rss_mb(list(system.pids))
    for number in range(size.rounds):
        sys.stderr.write(f"round {number + 1} of {size.rounds}\n")
        for _ in range(size.requests):
            for system in systems:
                sample = _checked(system, await ask(system.target, 1), 1)
                figures[system.target.name].first_token_us.append((sample.first_token - sample.began) * 1e6)
        for streams in STREAMS:
            tokens = max(size.tokens // streams, size.shortest)
            for system in systems:
                burst = await _saturate(system, systems[0], streams, tokens)
                figures[system.target.name].bursts.setdefault(streams, []).append(burst)
    for system in systems:
        figures[system.target.name].rss_after_mb = procfs.rss_mb(list(system.pids))
    return figures


async def _saturate(system: System, engine: System, streams: int, tokens: int) -> Burst:
    watched = (system.pids, engine.pids, (os.getpid(),))
    before = [procfs.cpu_s(list(pids)) for pids in watched]
    samples = await ask_many(system.target, streams, tokens)
    after = [procfs.cpu_s(list(pids)) for pids in watched]
    for sample in samples:
        _checked(system, sample, tokens)
    cpu_s, engine_cpu_s, client_cpu_s = (end - begin for begin, end in zip(before, after, strict=True))
    return Burst(
        tokens=tokens * streams,
        took_s=max(sample.ended for sample in samples) - min(sample.began for sample in samples),
        cpu_s=cpu_s,
        engine_cpu_s=engine_cpu_s,
        client_cpu_s=client_cpu_s,
    )


def _checked(system: System, sample: Sample, tokens: int) -> Sample:
    if not system.target.answered(sample, tokens):
        text = f"{system.target.name}: {sample.tokens} tokens of {tokens} came, after {sample.head[:200]!r}"
        raise RuntimeError(text)
    return sample


def main() -> int:
    """Measure, print, and keep what was printed."""
    size, quick = _options()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="llama-orch-bench-") as folder:
        figures = asyncio.run(_run(Path(folder), size))
    console = Console(record=True)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    console.print(f"{size.tokens_per_write} tokens per write of the engine; load average before the run {load:.1f}")
    console.print(table(figures))
    for note in notes(figures):
        console.print(note, soft_wrap=True)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        console.save_text(str(RESULTS / "latest.txt"))
    return 0


def _options() -> tuple[Size, bool]:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look whether all works; the figures are rough")
    for each in fields(Size):
        option = f"--{each.name.replace('_', '-')}"
        parser.add_argument(option, type=int, help=f"default {each.default}, {getattr(QUICK, each.name)} with --quick")
    options = vars(parser.parse_args())
    quick = options.pop("quick")
    given = {name: value for name, value in options.items() if value is not None}
    return replace(QUICK if quick else Size(), **given), quick


async def _run(folder: Path, size: Size) -> dict[str, Figures]:
    async with running(folder, size.tokens_per_write) as systems:
        return await measure(systems, size)


if __name__ == "__main__":
    raise SystemExit(main())

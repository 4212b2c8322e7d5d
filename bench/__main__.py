"""``make bench``: what the relay costs, beside the engine alone, nginx, LiteLLM and the least that Python allows.

Every round measures every system in turn, so that a machine whose speed drifts touches all alike; figures are medians
over the rounds. Read the ratios, not the absolute numbers. No process is bound to a core: engine, relay and client
share them as they would on a workstation, and the notes under the table say how much of a core each one had.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

import msgspec
from rich.console import Console

from bench import procfs
from bench.figures import Figures
from bench.load import ask_many
from bench.report import as_json, figures_table, notes, targets_table
from bench.rows import STREAMS, shown
from bench.scenarios import (
    burst,
    cancel,
    durability,
    first_token,
    gap,
    memory,
    paced,
    queue_depth,
    queued,
    saturated,
    start,
    waits,
)
from bench.setup import QUICK, Bench, Size, running
from tests.standin.loops import uvloop_factory

WITH_SLOW = frozenset({"first_token", "saturated", "paced", "memory"})
"""The scenarios that measure LiteLLM too."""
RESULTS = Path(__file__).parent / "results"
QUIET = 0.1
"""Cores that others may have before figures that depend on the clock are worth little."""
WIDTH = 150
"""Of the tables where nobody looks at a terminal."""
SCENARIOS = {
    "first_token": first_token.measure,
    "saturated": saturated.measure,
    "paced": paced.measure,
    "crowd": paced.measure_crowd,
    "burst": burst.measure,
    "gap": gap.measure,
    "cancel": cancel.measure,
    "start": start.measure,
    "queued": queued.measure,
    "depth": queue_depth.measure,
    "waits": waits.measure,
    "durability": durability.measure,
    "memory": memory.measure,
}


async def run(folder: Path, size: Size, only: list[str]) -> tuple[Figures, list[str]]:
    """All rounds, and the names of the systems."""
    me = asyncio.current_task()
    if me is not None:  # so that all that was started is ended
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
    async with running(folder, size, slow=not WITH_SLOW.isdisjoint(only)) as bench:
        await _warm(bench)
        for bench.round in range(size.rounds):
            for name in only:
                sys.stderr.write(f"round {bench.round + 1} of {size.rounds}: {name}\n")
                try:
                    await SCENARIOS[name](bench)
                except (RuntimeError, OSError, TimeoutError) as error:
                    failed = f"round {bench.round + 1} of {name} failed: {error!r}"
                    bench.figures.failures.append(failed)
                    sys.stderr.write(f"{failed}\n")
        return bench.figures, [system.name for system in bench.systems]


async def _warm(bench: Bench) -> None:
    """Imports, allocators, connections that are kept; and the engine encodes each token once."""
    await memory.measure(bench, "rss_before")
    for system in bench.hot:
        await ask_many(system.target, max(STREAMS), 100)
    await ask_many(bench.direct.target, 1, bench.size.tokens)
    for system in bench.slow:
        await ask_many(system.target, 4, 20)


def main() -> int:
    """Measure, print, and keep what was printed."""
    size, only, results = _options()
    began, others = time.perf_counter(), procfs.machine_cpu_s() - procfs.own_cpu_s()
    with (
        tempfile.TemporaryDirectory(prefix="llama-orch-bench-", ignore_cleanup_errors=True) as folder,
        asyncio.Runner(loop_factory=uvloop_factory()) as runner,
    ):
        figures, systems = runner.run(run(Path(folder), size, only))
    others = (procfs.machine_cpu_s() - procfs.own_cpu_s() - others) / (time.perf_counter() - began)
    console = Console(record=True)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    console.print(f"{size.tokens_per_write} tokens per write of the engine where it is as fast as it can be")
    console.print(
        f"other processes had {others:.2f} cores meanwhile"
        + ("" if others < QUIET else ": believe the CPU figures alone, latencies and rates are theirs as much as ours"),
        style="" if others < QUIET else "bold red",
    )
    console.print(targets_table(shown(figures)))
    console.print(figures_table(figures, systems))
    for failure in figures.failures:
        console.print(failure, style="bold red", soft_wrap=True)
    for note in notes(figures, systems):
        console.print(note, soft_wrap=True)
    if results is not None:
        results.mkdir(exist_ok=True)
        console.save_text(str(results / "latest.txt"))
        (results / "latest.json").write_bytes(msgspec.json.encode({"systems": systems, **as_json(figures)}))
    return 1 if figures.failures else 0


def _options() -> tuple[Size, list[str], Path | None]:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look whether all works; the figures are rough")
    parser.add_argument("--results", type=Path, help="the folder for latest.txt and latest.json; --quick has none")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="may be given more than once")
    for each in fields(Size):
        option = f"--{each.name.replace('_', '-')}"
        parser.add_argument(option, type=int, help=f"default {each.default}, {getattr(QUICK, each.name)} with --quick")
    options = vars(parser.parse_args())
    quick, only, results = (options.pop(name) for name in ("quick", "only", "results"))
    given = {name: value for name, value in options.items() if value is not None}
    return (
        replace(QUICK if quick else Size(), **given),
        only or list(SCENARIOS),
        results or (None if quick else RESULTS),
    )


if __name__ == "__main__":
    raise SystemExit(main())

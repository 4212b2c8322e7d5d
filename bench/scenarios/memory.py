"""What the processes hold after all that was done to them."""

from __future__ import annotations

from bench import procfs
from bench.setup import Bench


async def measure(bench: Bench, key: str = "rss_after") -> None:
    """Now."""
    for system in bench.systems:
        bench.figures.add(key, system.name, procfs.rss_mb(list(system.pids)))

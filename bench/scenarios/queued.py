"""What a task that waits costs in memory, with a client that listens: in daemons that have done nothing before."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import procfs
from bench.load import connected
from bench.processes import READY_S
from bench.setup import OURS, Bench
from bench.systems.ours import Daemons, daemons

FOR_EVER_MS = 600_000


async def measure(bench: Bench) -> None:
    """One slot that is taken, and a queue behind it."""
    tasks = bench.size.queued
    for suffix, uvloop in bench.loops:
        with TemporaryDirectory(dir=bench.folder) as folder:
            async with daemons(Path(folder) / "fresh", [bench.single_pool], uvloop=uvloop) as running:
                await running.ready(bench.single_pool.name)
                await bench.single_engine.set(first_token_delay_ms=FOR_EVER_MS)
                target = running.target(bench.single_pool.name)
                async with connected(target, 1 + tasks) as readers:
                    readers[0].send(1)
                    await bench.single_engine.until_taken()
                    before = procfs.rss_mb([running.orchestratord])
                    for reader in readers[1:]:
                        reader.send(1)
                    await _depth(running, tasks)
                    grown = procfs.rss_mb([running.orchestratord]) - before
                    bench.figures.add("queued_kb", OURS + suffix, grown / tasks * 1000)
                    os.kill(running.orchestratord, signal.SIGKILL)  # nothing of it is needed any more
        await bench.single_engine.set()


async def _depth(running: Daemons, tasks: int) -> None:
    async with asyncio.timeout(READY_S), running.session() as session:
        while True:
            async with session.get("/v1/capabilities") as response:
                pools = (await response.json())["pools"]
            if sum(pool["queue"]["depth"] for pool in pools) == tasks:
                return
            await asyncio.sleep(0.05)

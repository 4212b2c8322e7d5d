"""From the start of the processes to the first good answer of ``/healthz``."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from bench.processes import READY_S, free_port, process
from bench.setup import FLOOR, OURS, Bench
from bench.systems.ours import daemons

POLL_S = 0.002


async def measure(bench: Bench) -> None:
    """The floor and ours, each begun anew."""
    for suffix, uvloop in bench.loops:
        port, options = free_port(), ("--uvloop",) if uvloop else ()
        began = time.perf_counter()
        command = (sys.executable, "-m", "bench.floor", "--engine", bench.direct.engine.url, "--port", str(port))
        async with process(*command, *options, log=bench.folder / "floor.log"):
            await _healthy(port)
            bench.figures.add("start", FLOOR + suffix, (time.perf_counter() - began) * 1e3)
        with TemporaryDirectory(dir=bench.folder) as folder:
            began = time.perf_counter()
            async with daemons(Path(folder) / "fresh", [bench.single_pool], uvloop=uvloop) as running:
                await _healthy(running.port)
                bench.figures.add("start", OURS + suffix, (time.perf_counter() - began) * 1e3)


async def _healthy(port: int) -> None:
    """Asks once somebody listens: a client that asks in vain all the time takes the core on which they start."""
    async with asyncio.timeout(READY_S), aiohttp.ClientSession() as session:
        while True:
            if not _listens(port):
                await asyncio.sleep(POLL_S)
                continue
            try:
                async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(POLL_S)


def _listens(port: int) -> bool:
    """Whether loopback takes a connection, which it says at once."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

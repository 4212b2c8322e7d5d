"""Many streams as fast as they go: tokens per second, and what a token costs."""

from __future__ import annotations

import os

from bench import procfs
from bench.load import ask_many
from bench.rows import STREAMS
from bench.scenarios.checked import checked
from bench.setup import Bench
from bench.systems.base import System

SLOW_STREAMS, SLOW_TOKENS = 64, 40
"""What LiteLLM relays of two thousand tokens a second, in a bearable time."""


async def measure(bench: Bench) -> None:
    """Bursts of every width."""
    for streams in STREAMS:
        tokens = max(bench.size.tokens // streams, bench.size.shortest)
        for system in bench.hot:
            await _burst(bench, system, streams, tokens)
    for system in bench.slow:
        await _burst(bench, system, SLOW_STREAMS, SLOW_TOKENS)


async def _burst(bench: Bench, system: System, streams: int, tokens: int) -> None:
    watched = (system.pids, (system.engine.pid,), (os.getpid(),))
    before = [procfs.cpu_s(list(pids)) for pids in watched]
    samples = await ask_many(system.target, streams, tokens)
    after = [procfs.cpu_s(list(pids)) for pids in watched]
    for sample in samples:
        checked(system, sample, tokens)
    took_s = max(sample.ended for sample in samples) - min(sample.began for sample in samples)
    used, engine, client = (end - begin for begin, end in zip(before, after, strict=True))
    total = streams * tokens
    add = bench.figures.add
    add(f"rate_{streams}", system.name, total / took_s / 1000)
    add(f"cpu_{streams}", system.name, used / total * 1e6)
    for key, spent in (("busy", used), ("engine_busy", engine), ("client_busy", client)):
        add(f"{key}_{streams}", system.name, spent / took_s)

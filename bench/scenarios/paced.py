"""Many streams at the pace of an engine: what a token costs, and how long it is on its way.

Looked at in the middle, when all streams run and none ends: how requests begin and end is measured elsewhere. Every
text is the engine's clock, and a tenth of the streams look at it.
"""

from __future__ import annotations

import asyncio
import os
import statistics

from bench import procfs
from bench.figures import percentile
from bench.load import Reader, connected
from bench.setup import Bench
from bench.systems.base import System
from bench.systems.engine import Engine

TOKEN_MS = 20
STREAMS, SLOW_STREAMS = 200, 20
CROWD = 600
BEGIN_S = 0.5
"""Over which the requests are spread, so that the streams are not in step."""
SETTLE_S = 0.3
END_S = 0.4
"""That the streams go on behind the window, so that none ends in it."""


async def measure(bench: Bench) -> None:
    """The usual number of streams, and for LiteLLM what it can bear."""
    for engine in {system.engine.port: system.engine for system in bench.systems}.values():
        await keep_pace(engine)
    for system in bench.systems:
        streams = STREAMS if system in bench.hot else SLOW_STREAMS
        await _paced(bench, system, streams, "paced")
    await _at_full_speed(bench)


async def measure_crowd(bench: Bench) -> None:
    """As many streams as one process may have to bear."""
    await keep_pace(bench.direct.engine)
    for system in bench.hot:
        if system.name != "nginx":
            await _paced(bench, system, CROWD, "crowd")
    await _at_full_speed(bench)


async def keep_pace(engine: Engine) -> None:
    """A token every 20 ms, each in a write of its own."""
    await engine.set(token_delay_ms=TOKEN_MS, tokens_per_write=1, steady=True, stamped=True)


async def _at_full_speed(bench: Bench) -> None:
    for system in bench.systems:
        await system.engine.set()


async def _paced(bench: Bench, system: System, streams: int, key: str) -> None:
    tokens = int((BEGIN_S + SETTLE_S + bench.size.window_ms / 1000 + END_S) * 1000 / TOKEN_MS)
    watched = (system.pids, (system.engine.pid,), (os.getpid(),))
    async with connected(system.target, streams, stamped=max(1, streams // 10)) as readers:
        await _send_spread(readers, tokens)
        await asyncio.sleep(SETTLE_S)
        clock = asyncio.get_running_loop().time
        began, seen = clock(), [len(reader.sample.ages_us) for reader in readers]
        count, cpu = _tokens(readers), [procfs.cpu_s(list(pids)) for pids in watched]
        await asyncio.sleep(bench.size.window_ms / 1000)
        # The machine may have had no time for us: then the window is a longer one.
        while _tokens(readers) == count and not all(reader.done.done() for reader in readers):  # noqa: ASYNC110 - counts
            await asyncio.sleep(TOKEN_MS / 1000)
        took_s, count = clock() - began, _tokens(readers) - count
        cpu = [procfs.cpu_s(list(pids)) - before for pids, before in zip(watched, cpu, strict=True)]
        ages = [age for reader, skip in zip(readers, seen, strict=True) for age in reader.sample.ages_us[skip:]]
        for reader in readers:
            await reader.done
        lost = streams * tokens - _tokens(readers)
        refused = [reader.sample.head for reader in readers if not reader.sample.head.startswith(b"HTTP/1.1 200")]
    if refused or not count:
        raise RuntimeError(f"{system.name}: {len(refused)} of {streams} refused, {count} tokens: {refused[:1]!r}")
    add = bench.figures.add
    add(f"{key}_rate", system.name, count / took_s / 1000)
    add(f"{key}_cpu", system.name, cpu[0] / count * 1e6)
    add(f"{key}_50", system.name, statistics.median(ages))
    add(f"{key}_99", system.name, percentile(ages, 99) / 1000)
    add(f"{key}_lost", system.name, lost)
    for name, spent in zip(("busy", "engine_busy", "client_busy"), cpu, strict=True):
        add(f"{name}_{key}", system.name, spent / took_s)


async def _send_spread(readers: list[Reader], tokens: int) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    for number, reader in enumerate(readers):
        due = began + BEGIN_S * number / len(readers)
        if (wait := due - clock()) > 0:
            await asyncio.sleep(wait)
        reader.send(tokens)


def _tokens(readers: list[Reader]) -> int:
    return sum(reader.sample.tokens for reader in readers)

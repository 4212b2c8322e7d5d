"""From a cancel to the next task in the same slot, with the time taken off that the engine takes for itself.

The engine's own time is what a client without anything between sees: from closing its connection until ``/slots`` says
that the slot is free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import msgspec

from bench.figures import Figures
from bench.load import Reader, Target, connected
from bench.setup import Bench

ENDLESS = 900
"""Tokens of a task that is cancelled: more than come before."""
QUEUED_S = 0.02
STARTED = b"event: started"


class Slot(msgspec.Struct):
    """What is looked at of ``GET /slots``."""

    is_processing: bool


async def measure(bench: Bench) -> None:
    """On the stand-in, and on the real llama.cpp where it is installed."""
    await bench.single_engine.set(token_delay_ms=2, tokens_per_write=1)
    await _round(bench, "free", bench.single_engine.port, bench.single)
    await bench.single_engine.set()
    if bench.real_port is not None:
        await _round(bench, "free_real", bench.real_port, bench.real)


async def _round(bench: Bench, key: str, engine_port: int, targets: dict[str, Target]) -> None:
    direct = replace(bench.direct.target, port=engine_port)
    bench.figures.add(f"{key}_own", "direct", *[await _direct(direct) for _ in range(bench.size.cancels)])
    for name, target in targets.items():
        await _chain(bench.figures, f"{key}_ms", name, target, bench.size.cancels)


async def _direct(target: Target) -> float:
    async with connected(target, 1) as (reader,), aiohttp.ClientSession() as session:
        reader.send(ENDLESS)
        await reader.first
        await _busy(session, target.port)  # the connection for the question is there
        began = time.perf_counter()
        reader.leave()
        while await _busy(session, target.port):
            pass
        return (time.perf_counter() - began) * 1e3


async def _busy(session: aiohttp.ClientSession, port: int) -> bool:
    async with session.get(f"http://127.0.0.1:{port}/slots") as response:
        return any(slot.is_processing for slot in msgspec.json.decode(await response.read(), type=list[Slot]))


async def _chain(figures: Figures, key: str, name: str, target: Target, cancels: int) -> None:
    """Each task waits for the one before it, which is cancelled."""
    async with _session(target) as session, connected(replace(target, token=STARTED), cancels + 1) as readers:
        running, *waiting = readers
        running.send(ENDLESS)
        await running.first
        for following in waiting:
            following.send(ENDLESS)
            await asyncio.sleep(QUEUED_S)
            began = time.perf_counter()
            await _cancel(session, running)
            await following.first
            figures.add(key, name, (following.sample.first_token - began) * 1e3)
            await running.done
            running = following
        await _cancel(session, running)
        await running.done


@asynccontextmanager
async def _session(target: Target) -> AsyncIterator[aiohttp.ClientSession]:
    headers = dict(
        line.split(": ", 1) for line in target.head.decode().splitlines() if line.startswith("Authorization")
    )
    async with aiohttp.ClientSession(f"http://127.0.0.1:{target.port}", headers=headers) as session:
        yield session


async def _cancel(session: aiohttp.ClientSession, reader: Reader) -> None:
    lines = reader.sample.head.decode().splitlines()
    place = next(line.split(": ", 1)[1] for line in lines if line.lower().startswith("location"))
    async with session.post(f"{place}/cancel") as response:
        if response.status != 204:
            raise RuntimeError(f"a cancel was answered with {response.status}")

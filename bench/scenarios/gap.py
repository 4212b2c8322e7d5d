"""A full queue before one slot, as the engine sees it: how long the slot stands empty between two tasks."""

from __future__ import annotations

import itertools
import statistics

from bench.load import ask_many, connected
from bench.setup import Bench
from tests.standin.knobs import Times

HELD_MS = 400
"""How long the first task keeps the slot while the queue fills: arrivals are not what is measured."""
SHORT, LONG = 5, 10
"""Tokens of a task: at full speed, and at 20 ms each, where it takes 200 ms."""


async def measure(bench: Bench) -> None:
    """Short tasks for the gap, longer ones for what share of the time the slot is in use."""
    for name in bench.single:
        short = await _run(bench, name, bench.size.gaps, SHORT, 0)
        gaps = [(after.came - before.ended) / 1e6 for before, after in itertools.pairwise(short)]
        bench.figures.add("gap_50", name, statistics.median(gaps))
        long = await _run(bench, name, bench.size.gaps // 8, LONG, 20)
        busy = sum(each.ended - each.began for each in long)
        bench.figures.add("occupancy", name, 100 * busy / (long[-1].ended - long[0].began))


async def _run(bench: Bench, name: str, tasks: int, tokens: int, delay_ms: int) -> list[Times]:
    """The engine's times of so many tasks that all waited when the first of them began."""
    engine, target = bench.single_engine, bench.single[name]
    await engine.set(first_token_delay_ms=HELD_MS)
    async with connected(target, 1) as (holder,):
        holder.send(1)
        await engine.until_taken()
        await engine.set(token_delay_ms=delay_ms, steady=True, tokens_per_write=1 if delay_ms else 64)
        await ask_many(target, tasks, tokens)
    return (await engine.times())[-tasks:]

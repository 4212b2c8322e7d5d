"""``python -m bench.prediction_cost``: the CPU time of one forecast, by how many wait and how many slots are busy.

The real orchestrator on virtual time. *first*: runs went on, began and ended since the last one. *again*: right behind
another one, as in a burst of arrivals. Each is a median, of every other forecast for batch.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from adapters.base import Finished, Generation
from contracts.config import Queue, Timeouts
from contracts.events import FinishReason
from contracts.tasks import Priority
from tests.support.virtual_loop import VirtualTimeLoop, pass_time
from tests.unit.orchestratord.world import (
    Pause,
    Script,
    ScriptedAdapter,
    World,
    config,
    pool,
    request,
    snapshot,
    world,
)

DEPTHS = (5, 20, 100, 1_000)
MACHINES = ((1, 1), (1, 4), (2, 4), (1, 16))
"""Pools, and slots of each."""
RUNS = 300
"""Tasks that have run before, with lengths of all kinds."""
REPEATS = 80
WHEN = ("first", "again")
BETWEEN_S = 0.1


class _Engine(ScriptedAdapter):
    """Answers of random lengths, 100 tokens a second."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self._draw = draw

    def submit(self, generation: Generation) -> Any:  # noqa: ANN401 - as the engine that it is
        tokens = max(1, min(round(self._draw.lognormvariate(4, 0.8)), generation.max_tokens or 1))
        finished = Finished(reason=FinishReason.STOP, tokens_in=20, tokens_out=tokens)
        self.scripts = [Script([Pause(0.05), ["x"], Pause(tokens / 100), ["x"] * (tokens - 1), finished])]
        return super().submit(generation)


def _asked(draw: random.Random, number: int) -> dict[str, Any]:
    return {
        "priority": Priority.BATCH if number % 2 else Priority.INTERACTIVE,
        "max_tokens": draw.choice((64, 256, 512)),
        "prompt": "word " * draw.randrange(1, 200),
    }


def measure(
    pools: int, slots: int, depths: tuple[int, ...] = DEPTHS, repeats: int = REPEATS
) -> dict[tuple[int, str], float]:
    """Microseconds, by depth and moment."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(_measured(pools, slots, depths, repeats))


async def _measured(pools: int, slots: int, depths: tuple[int, ...], repeats: int) -> dict[tuple[int, str], float]:
    draw = random.Random(1)  # noqa: S311 - the same load every time, no secret
    ids = [f"gpu{number}" for number in range(pools)]
    limits = Timeouts(wall_ms=10**9, idle_ms=10**9)
    settings = config(*(pool(each, queue=Queue(capacity=100_000), timeouts=limits) for each in ids))
    engines: dict[str, ScriptedAdapter] = {each: _Engine(draw) for each in ids}
    spent: dict[tuple[int, str], list[float]] = {(depth, name): [] for depth in depths for name in WHEN}
    async with world(settings=settings, engines=engines, snapshots=lambda each: snapshot(each, slots=slots)) as here:
        for number in range(RUNS):
            await here.submit(**_asked(draw, number))
            await pass_time(0.3)
        for depth in depths:
            for number in range(repeats):
                await _fill(here, draw, depth)
                await pass_time(BETWEEN_S)
                for name in WHEN:
                    spent[depth, name].append(_timed(here, _asked(draw, number), frozenset(ids)))
    return {key: statistics.median(each) for key, each in spent.items()}


async def _fill(here: World, draw: random.Random, depth: int) -> None:
    """All slots are busy, and so many wait."""
    number = 0
    while len(here.orchestrator.backlog) < depth:
        await here.submit(**_asked(draw, number))
        number += 1


def _timed(here: World, asked: dict[str, Any], pools: frozenset[str]) -> float:
    outlook = here.orchestrator.outlook
    demand = outlook.demand(request(**asked), pools, None)
    began = time.process_time_ns()
    outlook.of_new(demand, pools)
    return (time.process_time_ns() - began) / 1000


def table() -> Table:
    """The figures, side by side."""
    shown = Table(title="what one forecast takes, us of CPU time")
    for name in ("pools x slots", "", *(f"{depth:,} wait" for depth in DEPTHS)):
        shown.add_column(name, justify="right", no_wrap=True)
    for pools, slots in MACHINES:
        found = measure(pools, slots)
        for name in WHEN:
            shown.add_row(f"{pools} x {slots}", name, *(f"{found[depth, name]:.0f}" for depth in DEPTHS))
    return shown


if __name__ == "__main__":
    Console().print(table())

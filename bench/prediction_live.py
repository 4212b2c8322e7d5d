"""The same question as ``bench.prediction``, asked of both real daemons before the stand-in engine, over HTTP.

Not on virtual time, so it takes as long as the load lasts. The stand-in ends an answer at ``max_tokens`` alone: what is
unknown here are its speed, the arrivals, and what daemons, sockets and a busy machine add.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from rich.console import Console

from bench.prediction import Outcome, table
from bench.systems.engine import stand_in
from bench.systems.ours import PoolOf, daemons
from tests.standin.knobs import Knobs

NAME = "both daemons, stand-in engine"
SLOTS = 2
TOKEN_MS, FIRST_MS = 5.0, 20.0
TASKS, WARM = 160, 30
LOAD = 0.95
NO_WAIT_MS = 1
MEDIAN_TOKENS, SIGMA = 60.0, 0.7


async def measure(tasks: int = TASKS, seed: int = 1) -> Outcome:
    """About half a minute, at the default."""
    draw = random.Random(seed)  # noqa: S311 - a load, not a secret
    sizes = [max(1, round(draw.lognormvariate(0, SIGMA) * MEDIAN_TOKENS)) for _ in range(tasks)]
    each_ms = FIRST_MS + TOKEN_MS * sum(sizes) / tasks
    gaps = [draw.expovariate(LOAD * SLOTS / each_ms) / 1000 for _ in sizes]
    knobs = Knobs(token_delay_ms=TOKEN_MS, first_token_delay_ms=FIRST_MS, slots=SLOTS, tokens_per_write=1, steady=True)
    with TemporaryDirectory(prefix="llama-orch-waits-") as folder:
        async with stand_in(knobs) as engine:
            pool = PoolOf("bench", engine.url, slots=SLOTS, ctx=65_536)
            async with daemons(Path(folder) / "daemons", [pool], uvloop=False) as running:
                await running.ready("bench")
                async with running.session() as client:
                    return await _played(client, sizes, gaps)


async def _played(client: aiohttp.ClientSession, sizes: list[int], gaps: list[float]) -> Outcome:
    told: list[dict[str, Any]] = []
    for size, gap in zip(sizes, gaps, strict=True):
        await asyncio.sleep(gap)
        body = {"model_ref": "bench", "prompt": "hi", "max_tokens": size, "on_disconnect": "continue"}
        async with client.post("/v1/tasks", json=body) as answer:
            answer.raise_for_status()
            told.append(await answer.json())
    outcome = Outcome()
    for number, accepted in enumerate(told):
        async with client.get(f"/v1/tasks/{accepted['task_id']}/stream") as answer:
            await answer.read()
        async with client.get(f"/v1/tasks/{accepted['task_id']}") as answer:
            waited = (await answer.json())["queue_time_ms"]
        low, high = accepted["predicted_start_low_ms"], accepted["predicted_start_high_ms"]
        if number >= WARM and (waited > NO_WAIT_MS or accepted["predicted_start_ms"]):
            outcome.add(accepted["predicted_start_ms"], low, high, waited)
    return outcome


if __name__ == "__main__":
    Console().print(table({NAME: asyncio.run(measure())}))

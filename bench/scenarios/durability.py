"""What it costs that tasks outlive their daemon: short ones before three that keep theirs in different ways."""

from __future__ import annotations

import statistics
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import procfs
from bench.load import Sample, Target, ask
from bench.setup import OURS, Bench
from bench.systems.ours import Daemons, daemons, fast
from contracts.config import Durability

WARM = 20
AT_A_TIME = 10
"""Tasks of one daemon before it is another's turn, so that a machine whose speed drifts touches all alike."""


async def measure(bench: Bench) -> None:
    """All three run at once, and take turns."""
    for suffix, uvloop in bench.loops:
        with TemporaryDirectory(dir=bench.folder) as folder:
            async with AsyncExitStack() as stack:
                pool = fast(bench.direct.engine)
                running = {
                    mode: await stack.enter_async_context(
                        daemons(Path(folder) / mode, [pool], uvloop=uvloop, durability=mode)
                    )
                    for mode in Durability
                }
                for each in running.values():
                    await each.ready(pool.name)
                await _compare(bench, OURS + suffix, running, pool.name)


async def _compare(bench: Bench, name: str, running: dict[Durability, Daemons], model: str) -> None:
    targets = {mode: each.target(model) for mode, each in running.items()}
    for target in targets.values():
        await _run(target, WARM)
    cpu_s = dict.fromkeys(running, 0.0)
    first_us: dict[Durability, list[float]] = {mode: [] for mode in running}
    tasks = max(AT_A_TIME, bench.size.requests // AT_A_TIME * AT_A_TIME)
    for _ in range(tasks // AT_A_TIME):
        for mode, each in running.items():
            before = procfs.cpu_s([each.orchestratord])
            samples = await _run(targets[mode], AT_A_TIME)
            cpu_s[mode] += procfs.cpu_s([each.orchestratord]) - before
            first_us[mode] += [(sample.first_token - sample.began) * 1e6 for sample in samples]
    for mode in running:
        bench.figures.add(f"durable_cpu_{mode}", name, cpu_s[mode] / tasks * 1e6)
        bench.figures.add(f"durable_first_{mode}", name, statistics.median(first_us[mode]))
        bench.figures.add(f"durable_{mode}", name, cpu_s[mode] / cpu_s[Durability.MEMORY])


async def _run(target: Target, tasks: int) -> list[Sample]:
    samples = [await ask(target, 1) for _ in range(tasks)]
    for sample in samples:
        if not target.answered(sample, 1):
            raise RuntimeError(f"{sample.tokens} tokens of 1 came, after {sample.head[:200]!r}")
    return samples

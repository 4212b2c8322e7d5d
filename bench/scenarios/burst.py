"""Many requests in the same moment: how long the last of them waits for its first token."""

from __future__ import annotations

from bench import procfs
from bench.figures import percentile
from bench.load import ask_many
from bench.scenarios.checked import checked
from bench.setup import Bench

ARRIVALS = 200


async def measure(bench: Bench) -> None:
    """Bursts, the systems taking turns."""
    for _ in range(bench.size.bursts):
        for system in bench.hot:
            before = procfs.cpu_s(list(system.pids))
            samples = [checked(system, sample, 1) for sample in await ask_many(system.target, ARRIVALS, 1)]
            bench.figures.add("burst_cpu", system.name, (procfs.cpu_s(list(system.pids)) - before) / ARRIVALS * 1e6)
            waited = [(sample.first_token - sample.began) * 1e3 for sample in samples]
            bench.figures.add("burst_99", system.name, percentile(waited, 99))

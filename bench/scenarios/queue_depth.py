"""What a task costs the queue, by how many others wait: see ``bench.depth``. Once in a run: it needs no system."""

from __future__ import annotations

import json
import sys

from bench.depth import measure as measured
from bench.scenarios.apart import printed
from bench.setup import OURS, Bench

COUNTED = ("enqueue", "dequeue", "cancel")


async def measure(bench: Bench) -> None:
    """Every operation at every depth, and how far the worst of them is from flat."""
    if bench.round == 0:
        for key, value in (await printed("bench.scenarios.queue_depth", str(bench.size.depth_rounds))).items():
            bench.figures.add(key, OURS, value)


def figures(rounds: int) -> dict[str, float]:
    """By their keys; microseconds."""
    rows = [row for row in measured(rounds) if row.operation in COUNTED]
    found = {f"depth_{row.operation}_{depth}": ns / 1000 for row in rows for depth, ns in row.nanoseconds.items()}
    return found | {"depth": max(max(row.nanoseconds.values()) / min(row.nanoseconds.values()) for row in rows)}


if __name__ == "__main__":
    print(json.dumps(figures(int(sys.argv[1]))))

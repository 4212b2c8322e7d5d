"""How good predicted starts are: see ``bench.prediction``. Once in a run: on virtual time it needs no system."""

from __future__ import annotations

import json
import sys

from bench.prediction import SEEDS, TASKS
from bench.prediction import measure as measured
from bench.scenarios.apart import printed
from bench.setup import OURS, Bench

ALL = "all of them"


async def measure(bench: Bench) -> None:
    """The median error over all loads, and over the worst of them."""
    if bench.round == 0:
        for key, value in (await printed("bench.scenarios.waits", str(bench.size.waits))).items():
            bench.figures.add(key, OURS, value)


def figures(tasks: int) -> dict[str, float]:
    """By their keys; percent."""
    found = measured(tasks, SEEDS if tasks >= TASKS else SEEDS[:1])
    mixes = [outcome for name, outcome in found.items() if name != ALL]
    return {
        "wait_error": 100 * found[ALL].median_error,
        "wait_error_worst": 100 * max(outcome.median_error for outcome in mixes),
        "wait_inside": 100 * found[ALL].coverage,
    }


if __name__ == "__main__":
    print(json.dumps(figures(int(sys.argv[1]))))

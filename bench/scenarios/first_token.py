"""One request at a time, on a connection of its own, that streams its answer: how long until the first token."""

from __future__ import annotations

from bench.load import ask
from bench.scenarios.checked import checked
from bench.setup import Bench

KEY = "first_token_us"


async def measure(bench: Bench) -> None:
    """The systems take turns, request by request."""
    for number in range(bench.size.requests):
        for system in bench.systems if number % 10 == 0 else bench.hot:
            sample = checked(system, await ask(system.target, 1), 1)
            bench.figures.add(KEY, system.name, (sample.first_token - sample.began) * 1e6)

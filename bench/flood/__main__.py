"""``python -m bench.flood``: ten thousand tasks over two replicas whose engines are killed, and what became of them.

A part through two real llama.cpp servers that pool-managerd starts again, the larger part against the stand-in at high
speed. The same seed asks for the same; when an engine dies is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec

from bench.flood.clients import Seen, flood
from bench.flood.houses import House, ill_luck, real, stand_in
from bench.flood.verdict import Reader, Verdict
from tests.support.tiny_gguf import write_tiny_gguf

BUSY = 0.99
"""The share of the slots that has to be busy while there is work for them."""


class Outcome(msgspec.Struct, frozen=True):
    """What one flood came to, as clients and as the daemon itself saw it."""

    seen: Seen
    verdict: Verdict
    kills: int
    took_s: float
    prediction: dict[str, float]
    """The quantiles of the prediction's error that /metrics shows, in milliseconds."""

    def complaints(self) -> list[str]:
        """Everything that must not be; empty where all is well."""
        verdict, seen = self.verdict, self.seen
        found = list(seen.wrong)
        if verdict.offered != seen.total or seen.ends.total() != seen.total or verdict.ends.total() != seen.total:
            found.append(f"{seen.total} tasks were let in, {verdict.offered} queued, {verdict.ends.total()} ended")
        found += [f"{task_id} ended more than once" for task_id in verdict.ended_twice]
        found += [f"{task_id} never ended" for task_id in verdict.never_ended]
        found += [f"pool {pool_id} got more than it has slots" for pool_id in verdict.overfull]
        found += [f"{task_id} started before {other}, whose turn it was" for task_id, other in verdict.passed]
        found += [f"pool {pool_id} had a free slot for a task that was left waiting" for pool_id in verdict.left_idle]
        return found


async def play(
    made: AbstractAsyncContextManager[House], *, tasks: int, at_once: int, seed: int, kill_every_s: float, longest: int
) -> Outcome:
    """One flood to its end."""
    chance, kills = random.Random(seed), Counter[str]()  # noqa: S311 - the same flood every time, no secret
    began = time.monotonic()
    async with made as house:
        async with asyncio.TaskGroup() as group:
            luck = ill_luck(house, random.Random(seed + 1), kill_every_s, lambda: kills.update(["kill"]))  # noqa: S311
            killer = group.create_task(luck)
            seen = await flood(house, tasks, at_once, chance, longest)
            killer.cancel()
        prediction = await _prediction(house)
    verdict = Reader().read(house.notes())
    return Outcome(seen, verdict, kills.total(), time.monotonic() - began, prediction)


async def _prediction(house: House) -> dict[str, float]:
    async with house.session() as session, session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("prediction_error_ms{")]
    return {name.removeprefix("prediction_error_ms"): float(value) for name, _, value in found}


def said(name: str, outcome: Outcome) -> list[str]:
    """What is printed of a flood."""
    seen, verdict = outcome.seen, outcome.verdict
    waits = sorted(verdict.interactive_waits) or [0.0]
    lines = [
        f"{name}: {seen.total:,} tasks, {seen.tokens:,} tokens, {outcome.kills} engines killed, {outcome.took_s:.0f} s",
        f"  priorities: {_counts(seen.accepted)}; clients: {_counts(seen.habits)}",
        f"  ends: {_counts(seen.ends)}; refused: {_counts(seen.refused)}",
        f"  given to another replica: {verdict.given_back}",
        f"  turns that waited for an earlier one: {verdict.parked}; for the replica with their cache: {verdict.held}",
        f"  slots busy while there was work: {verdict.occupancy:.3%} of {verdict.wanted_slot_s:.1f} slot-seconds",
        f"  interactive waits while all engines were up: p50 {_span(statistics.median(waits))}, max {_span(waits[-1])}",
        f"  longest run: {_span(verdict.longest_run)}",
    ]
    lines += [f"  prediction error, ms {labels}: {value:.0f}" for labels, value in sorted(outcome.prediction.items())]
    return lines + [f"  WRONG: {complaint}" for complaint in outcome.complaints()]


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counted.most_common()) or "none"


async def _both(folder: Path, real_tasks: int, stand_in_tasks: int, seed: int) -> int:
    good = True
    model = write_tiny_gguf(folder / "model.gguf", layers=4, dim=256)
    floods = (
        ("two llama.cpp servers", real(folder / "real", model, slots=2), real_tasks, 24, 4.0, 40),
        ("two stand-ins", stand_in(folder / "standin", slots=8, token_delay_ms=2.0), stand_in_tasks, 64, 2.0, 60),
    )
    for name, made, tasks, at_once, kill_every_s, longest in floods:
        outcome = await play(made, tasks=tasks, at_once=at_once, seed=seed, kill_every_s=kill_every_s, longest=longest)
        print("\n".join(said(name, outcome)), flush=True)
        good = good and not outcome.complaints() and outcome.verdict.occupancy >= BUSY
    return 0 if good else 1


def main() -> int:
    """Play both, print what came of them; 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.flood", description=__doc__)
    parser.add_argument("--real", type=int, default=2_500, help="tasks for two llama.cpp servers")
    parser.add_argument("--stand-in", type=int, default=7_500, help="tasks for two stand-ins")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llama-orch-flood-") as folder:
        return asyncio.run(_both(Path(folder), asked.real, asked.stand_in, asked.seed))


if __name__ == "__main__":
    sys.exit(main())

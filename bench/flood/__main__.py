"""``python -m bench.flood``: ten thousand tasks over two replicas, what befalls them, and what became of them.

A part through two real llama.cpp servers that pool-managerd starts again, the larger part against the stand-in at high
speed. The same seed asks for the same; what a disturbance meets is up to the machine. What has to hold:

- *Always.* Each task has one end, the same for its client and for the daemon; streams have no gap and the text of their
  hash; no engine gets more than it has slots; within a priority the earlier one goes first; nothing is left waiting
  while a pool that may run it has a free slot.
- *Engines are killed.* ``WORKER_RESET`` ends only runs that were on a pool whose engine was killed, until that pool was
  usable again. The slots of a pool that comes back are not open: they count for no occupancy and no wait.
- *Pools are drained, and brought back.* Nothing starts from the moment at which orchestratord is told until the pool
  serves again, nor are its slots open. What runs is finished: it ends badly only where the drain had no patience (one
  of four). A task is turned away (``POOL_UNAVAILABLE``) only while it waits and none of the pools that may run it is
  in service; at the door, only such a task is refused.
- *Pools are reloaded*, with the same model or away to another one and back. As for a drain; the slots of the engine
  that served before are not open from the moment at which the new one takes over, and while a pool serves the other
  model it is not in service for anybody (``MODEL_UNAVAILABLE``).
- *Tasks are canceled*, while they wait and while they run. The stream that is read after the answer has its end and
  never changes again. Nobody else's task is canceled.
- *Readers leave and return*, within their grace and after it. What they read in pieces is what one reads at once. Only
  an interactive task that was left ends as canceled.
- *Batch has a share.* Of the starts of a pool while both priorities wait for it, batch has its share, rounded down, and
  no more; without one, none.

Two figures are judged here and in no test, because they are times: the share of the open slots that is busy while there
is work for them, and the wait of interactive tasks while all engines are up. A task waits no longer than the longest
run, or so many of them as turns of the slots go to interactive tasks that came earlier and to batch for its share.
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
from bench.flood.houses import House, real, stand_in
from bench.flood.operators import Deeds, ill_luck, operate
from bench.flood.verdict import Reader, Verdict
from tests.support.tiny_gguf import write_tiny_gguf

BUSY = 0.99
"""The share of the slots that has to be busy while there is work for them."""


class Outcome(msgspec.Struct, frozen=True):
    """What one flood came to, as clients and as the daemon itself saw it."""

    seen: Seen
    verdict: Verdict
    deeds: Counter[str]
    """What was done to the pools."""
    share: float
    took_s: float
    prediction: dict[str, float]
    """The quantiles of the prediction's error that /metrics shows, in milliseconds."""

    def complaints(self) -> list[str]:
        """Everything that must not be; empty where all is well."""
        verdict, seen = self.verdict, self.seen
        found = list(seen.wrong)
        if verdict.offered != seen.total or seen.ends != verdict.ends:
            counts = f"{seen.total} tasks were let in, {verdict.offered} queued"
            found.append(f"{counts}; clients saw {_counts(seen.ends)}; the daemon {_counts(verdict.ends)}")
        found += [f"{task_id} ended with {code}, which nothing explains" for task_id, code in verdict.unexplained]
        found += [f"{task_id} ended more than once" for task_id in verdict.ended_twice]
        found += [f"{task_id} never ended" for task_id in verdict.never_ended]
        found += [f"pool {pool_id} got more than it has slots" for pool_id in verdict.overfull]
        found += [f"{task_id} started before {other}, whose turn it was" for task_id, other in verdict.passed]
        found += [f"pool {pool_id} had a free slot for a task that was left waiting" for pool_id in verdict.left_idle]
        found += [f"{task_id} started on pool {pool_id}, which was closed" for task_id, pool_id in verdict.closed]
        unjust = {pool_id: starts for pool_id, starts in verdict.shared.items() if not starts.just(self.share)}
        found += [f"batch did not get its share of {self.share} in pool {each}: {unjust[each]}" for each in unjust]
        return found


async def play(
    made: AbstractAsyncContextManager[House], *, tasks: int, at_once: int, seed: int, every_s: float, longest: int
) -> Outcome:
    """One flood to its end."""
    chance, ill, busy = (random.Random(seed + each) for each in range(3))  # noqa: S311 - the same flood every time
    deeds, began = Deeds(), time.monotonic()
    async with made as house:
        async with asyncio.TaskGroup() as group:
            beside = [ill_luck(house, ill, every_s, deeds), operate(house, busy, every_s, deeds)]
            disturbing = [group.create_task(each) for each in beside]
            seen = await flood(house, tasks, at_once, chance, longest)
            for each in disturbing:
                each.cancel()
        prediction = await _prediction(house)
    notes = sorted([*house.notes(), *deeds.harms], key=lambda note: note.at)
    verdict = Reader(house.model, house.batch_share).read(notes)
    return Outcome(seen, verdict, deeds.counted, house.batch_share, time.monotonic() - began, prediction)


async def _prediction(house: House) -> dict[str, float]:
    async with house.session() as session, session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("prediction_error_ms{")]
    return {name.removeprefix("prediction_error_ms"): float(value) for name, _, value in found}


def said(name: str, outcome: Outcome) -> list[str]:
    """What is printed of a flood."""
    seen, verdict = outcome.seen, outcome.verdict
    waits = sorted(verdict.interactive_waits) or [0.0]
    possible = sum(starts.possible for starts in verdict.shared.values())
    batch = sum(starts.batch_possible for starts in verdict.shared.values())
    lines = [
        f"{name}: {seen.total:,} tasks, {seen.tokens:,} tokens, {outcome.took_s:.0f} s",
        f"  pools: {_counts(outcome.deeds)}; {verdict.opened:.1%} of all slots were open",
        f"  priorities: {_counts(seen.accepted)}; clients: {_counts(seen.habits)}; returned {seen.returns} times",
        f"  ends: {_counts(seen.ends)}; refused: {_counts(seen.refused)}",
        f"  given to another replica: {verdict.given_back}",
        f"  turns that waited for an earlier one: {verdict.parked}; for the replica with their cache: {verdict.held}",
        f"  slots busy while there was work: {verdict.occupancy:.3%} of {verdict.wanted_slot_s:.1f} slot-seconds",
        f"  interactive waits while all engines were up: p50 {_span(statistics.median(waits))}, max {_span(waits[-1])}",
        f"  longest run: {_span(verdict.longest_run)}; longest such wait for a turn: {verdict.promptness:.0%} of it",
        f"  both priorities waited for {possible:,} starts; batch, with a share of {outcome.share}, had {batch:,}",
    ]
    lines += [f"  prediction error, ms {labels}: {value:.0f}" for labels, value in sorted(outcome.prediction.items())]
    return lines + [f"  WRONG: {complaint}" for complaint in outcome.complaints()]


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counted.most_common()) or "none"


async def _both(folder: Path, asked: argparse.Namespace) -> int:
    good, share = True, asked.batch_share
    model = write_tiny_gguf(folder / "model.gguf", layers=4, dim=256)
    llamas, fast = real(folder / "real", model, 2, share), stand_in(folder / "standin", 8, 2.0, share)
    for name, made, tasks, at_once, every_s, longest in (
        ("two llama.cpp servers", llamas, asked.real, 24, 4.0, 40),
        ("two stand-ins", fast, asked.stand_in, 64, 2.0, 60),
    ):
        outcome = await play(made, tasks=tasks, at_once=at_once, seed=asked.seed, every_s=every_s, longest=longest)
        print("\n".join(said(name, outcome)), flush=True)
        verdict = outcome.verdict
        good = good and not outcome.complaints() and verdict.occupancy >= BUSY and verdict.promptness <= 1
    return 0 if good else 1


def main() -> int:
    """Play both, print what came of them; 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.flood", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--real", type=int, default=2_500, help="tasks for two llama.cpp servers")
    parser.add_argument("--stand-in", type=int, default=7_500, help="tasks for two stand-ins")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-share", type=float, default=0.0, help="batch's share of the starts")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llama-orch-flood-") as folder:
        return asyncio.run(_both(Path(folder), asked))


if __name__ == "__main__":
    sys.exit(main())

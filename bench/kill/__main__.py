"""``python -m bench.kill``: thousands of tasks while everything is killed, over and over, and what became of them.

Both daemons, two real llama.cpp servers and the tests' stand-in are killed with SIGKILL at moments that a seed chooses,
alone, together and while they begin, and each is started again at once. Strict and best-effort tasks, interactive and
batch, turns of sessions; clients that read, leave and come back by ``Last-Event-ID``, ask again, cancel, or never read.
What has to hold:

- *Every task that was told of is known*, after any death: a client that got its 202 or a byte of its stream finds its
  task again, and asking again gets the same answer.
- *One end.* Each has one terminal event, the last one, the same for every later reader, and also after a clean stop.
- *No token differs.* What any reader saw is what is there; numbers have no gap and no repetition over reconnects. A
  strict task that ran when orchestratord died goes on, and its text is that of an undisturbed run of the same seed. A
  best-effort one ends with ``WORKER_RESET``, and of it alone tokens may be gone. The stand-in's texts are known too.
- *Order.* What waits for a pool with one slot ends in the order of its admission, in each priority.
- *Receipts.* One for each task, in one unbroken chain, and each says what its stream says.
- *Nothing is left.* No engine that nobody knows of, no file beside the store, no row in it that nobody needs, no more
  file descriptors than at first; SQLite's log is bounded; both daemons end with status 0.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from bench.kill import verdict
from bench.kill.clients import Book, Client, crowd, plan, undisturbed
from bench.kill.house import LLAMAS, POOLS, House, house
from bench.kill.killer import Killer

LARGEST_LOG = 64 * 1024 * 1024
"""SQLite's log may have so many bytes, whatever dies when."""
CALM_S = 20.0
"""When all is over, so long may it take until nothing is left of it."""


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to."""

    tasks: int
    tokens: int
    took_s: float
    deeds: Counter[str]
    killed: Counter[str]
    ends: Counter[str]
    refused: Counter[str]
    returns: int
    resumed: int
    """Strict tasks that ran when orchestratord died, and were brought to a good end by a later one."""
    interrupted: int
    given_up: Counter[str]
    """Strict tasks that ran when orchestratord died, and ended badly: why."""
    receipts: int
    descriptors: tuple[tuple[int, int], tuple[int, int]]
    """Of orchestratord and pool-managerd: at first, and at last."""
    largest_log: int
    on_disk: dict[str, int]
    wrong: tuple[str, ...]


async def play(folder: Path, *, tasks: int, at_once: int, seed: int, every: int) -> Outcome:
    """One run to its end."""
    chance, ill = random.Random(seed), random.Random(seed + 1)  # noqa: S311 - the same run every time
    book, began = Book(), time.monotonic()
    async with house(folder) as made:
        answers = await undisturbed(made, f"before-{seed}")
        plans = [plan(chance, f"task-{seed}-{number}", made.model) for number in range(tasks)]
        killer = Killer(made, book, ill, every)
        async with made.session() as session, asyncio.TaskGroup() as group:
            killing = group.create_task(killer.work())
            clients = await crowd(made, plans, book, at_once, session)
            killing.cancel()
        return await _look(made, book, clients, answers, killer, began)


async def _look(
    made: House,
    book: Book,
    clients: list[Client],
    answers: verdict.Answers,
    killer: Killer,
    began: float,
) -> Outcome:
    """Everything is over: start once more, read all of it again, stop, and look at what is left."""
    wrong = book.wrong
    await _begin_cleanly(made, wrong)
    first = made.descriptors()
    async with made.session() as session:
        found, receipts = await verdict.of_clients(session, clients, answers)
    wrong += found
    last = await _work_on(made, first)
    if any(now > then for now, then in zip(last, first, strict=True)):
        wrong.append(f"file descriptors: {first} at first and {last} at last")
    if len(made.engines()) != len(LLAMAS):
        wrong.append(f"{len(made.engines())} engines live, for {len(LLAMAS)} pools")
    if killer.largest_log > LARGEST_LOG:
        wrong.append(f"SQLite's log had {killer.largest_log} bytes")
    await end_cleanly(made, wrong)
    wrong += verdict.of_order(receipts, verdict.numbers_in(made.store))
    by_id = {each.task_id: each for each in receipts}
    interrupted = [by_id[each.task_id] for each in clients if by_id[each.task_id].interrupted]
    return Outcome(
        tasks=len(clients),
        tokens=sum(len(client.tokens) for client in clients),
        took_s=time.monotonic() - began,
        deeds=killer.deeds,
        killed=killer.killed,
        ends=Counter(verdict.how(client) for client in clients),
        refused=book.refused,
        returns=book.returns,
        resumed=sum(1 for each in interrupted if each.end is not None and each.end.finish_reason in verdict.WELL),
        interrupted=len(interrupted),
        given_up=Counter(each.error.message for each in interrupted if each.error and each.determinism == "strict"),
        receipts=len(receipts),
        descriptors=(first, last),
        largest_log=killer.largest_log,
        on_disk=made.on_disk(),
        wrong=tuple(wrong),
    )


async def _begin_cleanly(made: House, wrong: list[str]) -> None:
    """Stop orchestratord as an operator would, and start it again."""
    since = len(made.orchestrator.lines)
    status = await made.orchestrator.kill(signal.SIGTERM)
    if status:
        wrong.append(f"orchestratord ended with status {status}")
    await made.serve()
    await made.ready(since)


async def end_cleanly(made: House, wrong: list[str]) -> None:
    """Stop both daemons as an operator would, and look at what they leave."""
    for daemon in (made.orchestrator, made.manager):
        status = await daemon.kill(signal.SIGTERM)
        if status:
            wrong.append(f"{daemon.module} ended with status {status}: {daemon.lines[-3:]}")
    if made.engines():
        wrong.append(f"engines outlive a clean end: {made.engines()}")
    beside = set(made.on_disk()) - {made.store.name, f"{made.store.name}.lock"}
    if beside:
        wrong.append(f"beside the store there are {sorted(beside)}")
    wrong += verdict.of_store(made.store)


async def _work_on(made: House, first: tuple[int, int]) -> tuple[int, int]:
    """With an engine that is killed once more; the file descriptors afterwards."""
    since = len(made.orchestrator.lines)
    made.kill_engine(LLAMAS[0])
    await made.orchestrator.logged(f"pool {LLAMAS[0]} is ready", since=since)
    await undisturbed(made, "after")
    return await _calm(made, first)


async def _calm(made: House, wanted: tuple[int, int]) -> tuple[int, int]:
    """The file descriptors, when they are as few as before or will not be."""
    until = time.monotonic() + CALM_S
    while any(now > then for now, then in zip(made.descriptors(), wanted, strict=True)) and time.monotonic() < until:
        await asyncio.sleep(0.1)
    return made.descriptors()


def said(outcome: Outcome) -> list[str]:
    """What is printed of a run."""
    first, last = outcome.descriptors
    lines = [
        f"{outcome.tasks:,} tasks over {len(POOLS)} pools, {outcome.tokens:,} tokens, {outcome.took_s:.0f} s",
        f"  killed: {_counts(outcome.killed)}",
        f"  deeds: {_counts(outcome.deeds)}",
        f"  ends: {_counts(outcome.ends)}; refused for the moment: {_counts(outcome.refused)}",
        f"  clients came back after a death {outcome.returns:,} times",
        f"  ran when orchestratord died: {outcome.interrupted:,}; of them gone on with to a good end: {outcome.resumed:,}",
        *(f"    {count} strict ones were not: {why}" for why, count in outcome.given_up.items()),
        f"  receipts: {outcome.receipts:,}",
        f"  file descriptors of orchestratord and pool-managerd: {first} at first, {last} at last",
        f"  SQLite's log: at most {outcome.largest_log:,} bytes; at last: {outcome.on_disk}",
    ]
    return lines + [f"  WRONG: {complaint}" for complaint in outcome.wrong] + [f"  {len(outcome.wrong)} things are wrong"]


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counted.most_common()) or "none"


def main() -> int:
    """Play it, print what came of it; 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.kill", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tasks", type=int, default=3_000)
    parser.add_argument("--at-once", type=int, default=48, help="clients at a time")
    parser.add_argument("--every", type=int, default=900, help="events between two deeds, about")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llama-orch-kill-") as folder:
        made = play(
            Path(folder) / "house", tasks=asked.tasks, at_once=asked.at_once, seed=asked.seed, every=asked.every
        )
        outcome = asyncio.run(made)
    print("\n".join(said(outcome)), flush=True)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""One run: a house, its clients, its killer, and a look at everything when it is over.

Decides the order, and when a run is over: when every client has read the end of its task.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from pathlib import Path

import msgspec

from bench.kill import verdict
from bench.kill.clients import Book, Client, crowd, plan, undisturbed
from bench.kill.house import LLAMAS, House, house
from bench.kill.killer import Killer
from contracts.receipts import Receipt
from contracts.tasks import Determinism

LARGEST_LOG = 64 * 1024 * 1024
"""SQLite's log may have so many bytes, whatever dies when."""
SMALL_STORE = 2 * 1024 * 1024
"""No more bytes does it take when nothing is kept: empty pages for what comes next."""
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


async def play(
    folder: Path, *, tasks: int, at_once: int, seed: int, every: int, durability: str = "process"
) -> Outcome:
    """One run to its end."""
    chance, ill = random.Random(seed), random.Random(seed + 1)  # noqa: S311 - the same run every time
    book, began = Book(), time.monotonic()
    async with house(folder, durability) as made:
        answers = await undisturbed(made, f"before-{seed}")
        plans = [plan(chance, f"task-{seed}-{number}", made.model) for number in range(tasks)]
        killer = Killer(made, book, ill, every)
        async with made.session() as session, asyncio.TaskGroup() as group:
            group.create_task(killer.work())
            clients = await crowd(made, plans, book, at_once, session)
            book.heard.end()
        return await _look(made, clients, answers, killer, began)


async def _look(made: House, clients: list[Client], answers: verdict.Answers, killer: Killer, began: float) -> Outcome:
    """Everything is over: start once more, read all of it again, stop, and look at what is left."""
    wrong = killer.book.wrong
    await _begin_cleanly(made, wrong)
    first = made.descriptors()
    async with made.session() as session:
        found, receipts = await verdict.of_clients(session, clients, answers)
    wrong += found
    last = await _work_on(made, first)
    if _more(last, first):
        wrong.append(f"file descriptors: {first} at first and {last} at last")
    if len(made.engines()) != len(LLAMAS):
        wrong.append(f"{len(made.engines())} engines live, for {len(LLAMAS)} pools")
    if killer.largest_log > LARGEST_LOG:
        wrong.append(f"SQLite's log had {killer.largest_log} bytes")
    await end_cleanly(made, wrong)
    wrong += verdict.of_order(receipts, verdict.numbers_in(made.store))
    await _shrink(made, wrong)
    return _outcome(made, clients, killer, receipts, descriptors=(first, last), took_s=time.monotonic() - began)


def _outcome(
    made: House,
    clients: list[Client],
    killer: Killer,
    receipts: list[Receipt],
    *,
    descriptors: tuple[tuple[int, int], tuple[int, int]],
    took_s: float,
) -> Outcome:
    """What is counted."""
    theirs = {client.task_id for client in clients}
    interrupted = [each for each in receipts if each.interrupted and each.task_id in theirs]
    strict = [each for each in interrupted if each.determinism is Determinism.STRICT]
    return Outcome(
        tasks=len(clients),
        tokens=sum(len(client.tokens) for client in clients),
        took_s=took_s,
        deeds=killer.deeds,
        killed=killer.killed,
        ends=Counter(verdict.how(client) for client in clients),
        refused=killer.book.refused,
        returns=killer.book.returns,
        resumed=sum(1 for each in strict if each.end is not None and each.end.finish_reason in verdict.WELL),
        interrupted=len(interrupted),
        given_up=Counter(each.error.message for each in strict if each.error is not None),
        receipts=len(receipts),
        descriptors=descriptors,
        largest_log=killer.largest_log,
        on_disk=made.on_disk(),
        wrong=tuple(killer.book.wrong),
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


async def _shrink(made: House, wrong: list[str]) -> None:
    """When all that has ended is too old, the store takes hardly more than at first."""
    before = made.on_disk()[made.store.name]
    await made.serve("orchestratord", "--config", str(made.narrow))
    until = time.monotonic() + CALM_S
    while time.monotonic() < until and sum(made.on_disk().values()) > SMALL_STORE:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.1)
    await made.orchestrator.kill(signal.SIGTERM)
    if sum(made.on_disk().values()) > SMALL_STORE:
        wrong.append(f"of {before} bytes of the store there are still {made.on_disk()}")


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
    while _more(now := made.descriptors(), wanted) and time.monotonic() < until:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.1)
    return now  # to look once more would be to meet what was opened since, for a question to an engine perhaps


def _more(now: tuple[int, int], then: tuple[int, int]) -> bool:
    return any(each > before for each, before in zip(now, then, strict=True))

"""What must hold when everything is over: of the tasks, of their receipts, and of what is left on the machine.

Decides from what the clients saw, from the chain of receipts and from the file of tasks whether anything was lost,
doubled or changed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bench.flood.clients import events_of
from bench.kill.clients import Client
from bench.kill.house import LLAMAS
from contracts.receipts import Receipt, ReceiptPage
from contracts.tasks import PlacementMode
from daemon_core.chain import Copy, Verdict, verify
from tests.standin.knobs import Knobs

WELL = {"stop", "length"}
WORDS = Knobs().words
PAGE = "500"

Answers = Mapping[tuple[str, int, int], str]
"""What strict questions are answered with while nothing dies."""


async def chain(session: aiohttp.ClientSession) -> tuple[list[Receipt], Verdict]:
    """All receipts, and whether they are one unbroken chain."""
    copies: list[Copy] = []
    first, after = None, 0
    while True:
        async with session.get("/v1/receipts", params={"after": str(after), "limit": PAGE}) as answer:
            page = msgspec.json.decode(await answer.read(), type=ReceiptPage)
        first = first or page.first
        if not page.receipts:
            return [msgspec.json.decode(each.receipt, type=Receipt) for each in copies], verify(copies, first)
        copies += [Copy(id=each.id, receipt=each.content) for each in page.receipts]
        after = msgspec.json.decode(page.receipts[-1].content)["number"]


async def of_clients(
    session: aiohttp.ClientSession, clients: Sequence[Client], answers: Answers
) -> tuple[list[str], list[Receipt]]:
    """What is wrong with these clients' tasks and with the chain, and the receipts; their streams are read again."""
    for client in clients:
        await client.check(session)
    receipts, found = await chain(session)
    return [*of_tasks(clients, answers), *of_receipts(clients, receipts, found)], receipts


def how(client: Client) -> str:
    """How a task ended, as its client read it."""
    _, data = events_of(client.whole)
    last: dict[str, Any] = data[-1] if data else {}
    return str(last.get("code") or last.get("finish_reason"))


def of_tasks(clients: Sequence[Client], answers: Answers) -> Iterator[str]:
    """What is wrong with the ends and the texts."""
    for client in clients:
        end = how(client)
        text = "".join(client.tokens)
        asked = "strict" if client.plan.strict else "best effort"
        about = f"{client.task_id} ({asked}, {client.plan.habit})"
        if end not in {*WELL, "canceled", "WORKER_RESET"}:
            yield f"{about} ended with {end}: {client.final!r}"
        if end == "canceled" and "cancels" not in client.plan.habit:
            yield f"{about} was canceled, and nobody had asked for that"
        if client.plan.strict and end == "WORKER_RESET" and b"orchestratord ended" in (client.final or b""):
            yield f"{about} could have been gone on with: {client.final!r}"
        if b"said something else" in (client.final or b""):
            yield f"{about} was run again, and differs: {client.final!r}"
        due = _due(client, answers)
        if due is not None and (text != due if end in WELL else not due.startswith(text)):
            yield f"{about}, which ended with {end}, has {text!r} instead of {due!r}"


def _due(client: Client, answers: Answers) -> str | None:
    """What it is answered with where nothing dies; None where nobody can know."""
    if client.plan.strict:
        return answers[client.plan.question]
    if client.plan.body["model_ref"] == "standin":
        seed, count = client.plan.body["seed"], client.plan.body["max_tokens"]
        return "".join(WORDS[(seed + number) % len(WORDS)] for number in range(count))
    return None


def of_receipts(clients: Sequence[Client], receipts: Sequence[Receipt], verdict: Verdict) -> Iterator[str]:
    """What is wrong with the chain: one receipt for each task, and what it says is what was read."""
    yield from (f"the chain breaks at {each.number}: {each.message}" for each in verdict.breaks)
    counts = Counter(each.task_id for each in receipts)
    yield from (f"{task_id} has {count} receipts" for task_id, count in counts.items() if count != 1)
    known = {each.task_id: each for each in receipts}
    for client in clients:
        receipt = known.get(client.task_id)
        if receipt is None:
            yield f"{client.task_id} has no receipt"
            continue
        names, data = events_of(client.whole)
        text = "".join(each["t"] for name, each in zip(names, data, strict=True) if name == "token")
        if receipt.stream_sha256 != hashlib.sha256(text.encode()).hexdigest():
            yield f"the receipt of {client.task_id} has another text than its stream"
        said = receipt.end or receipt.error
        shown = None if said is None else msgspec.to_builtins(said)
        last = {name: value for name, value in data[-1].items() if name != "artifact_id"} if data else None
        if shown is None or {name: value for name, value in shown.items() if name != "artifact_id"} != last:
            yield f"the receipt of {client.task_id} says {shown}, and its stream {last}"


def of_order(receipts: Sequence[Receipt], numbers: Mapping[str, int]) -> Iterator[str]:
    """Which task passed an earlier one: where there is one slot, those of one priority end in their order."""
    lanes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for receipt in receipts:
        request = msgspec.json.decode(receipt.request)
        pinned = request["placement"]["pool_id"] if request["placement"]["mode"] == PlacementMode.PIN else None
        well = receipt.end is not None and receipt.end.finish_reason in WELL
        if pinned in LLAMAS and well and request.get("session_id") is None:
            lanes[pinned, request["priority"]].append(receipt.task_id)
    for (pool_id, priority), tasks in lanes.items():
        for earlier, later in pairwise(tasks):
            if numbers[later] < numbers[earlier]:
                yield f"{earlier} was before {later} in pool {pool_id} ({priority}), whose turn it was"


def numbers_in(store: Path) -> dict[str, int]:
    """The order of admission, from the file; nobody may be using it."""
    with closing(sqlite3.connect(store)) as connection:
        return dict(connection.execute("SELECT id, number FROM tasks").fetchall())


def of_store(store: Path) -> Iterator[str]:
    """What is wrong with the file that a daemon has left behind."""
    with closing(sqlite3.connect(store)) as connection:
        [(sound,)] = connection.execute("PRAGMA integrity_check").fetchall()
        if sound != "ok":
            yield f"the file of tasks is damaged: {sound}"
        for what, query in (
            ("tasks without an end", "SELECT count(*) FROM tasks WHERE ended_ms IS NULL"),
            ("rows of a journal nobody needs", "SELECT count(*) FROM journal"),
        ):
            [(count,)] = connection.execute(query).fetchall()
            if count:
                yield f"there are {count} {what}"

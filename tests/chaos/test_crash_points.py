"""orchestratord dies before and after each write of its task store; what its clients see then, and its next run.

The real daemons, a real llama.cpp and the clients of ``bench.kill``, which come back until their tasks have ended.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from bench.kill import verdict
from bench.kill.clients import STRICT_PROMPTS, STRICT_TOKENS, Book, Client, Plan, crowd, undisturbed
from bench.kill.house import LLAMAS, House, house
from bench.kill.play import end_cleanly
from orchestratord import database
from orchestratord.crash_loop import CAREFUL_FROM, ENDS
from tests.support.installation import LIMIT_S

pytestmark = [pytest.mark.slow, pytest.mark.req("HP-17", "HP-21", "PM-07")]
in_one_loop = pytest.mark.asyncio(loop_scope="module")

CRASHING = "tests.support.crashing_orchestratord"
WRITES = {"admit": 4, "follow": 1, "append": 5, "speak": 2, "end": 3, "tell": 1}
"""Which of the writes of each name is the last, while the clients are at work."""
AT_THE_START = ("unsay", "forget")
KEPT = 8
"""So many ended tasks are kept where some have to go."""
MOMENTS = ("before", "after")


class Lab(msgspec.Struct, frozen=True):
    """What all of these tests share."""

    house: House
    answers: verdict.Answers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """One house for all moments: the chain of receipts goes through all of them."""
    wrong: list[str] = []
    async with house(tmp_path_factory.mktemp("kill") / "house") as made:
        yield Lab(made, await undisturbed(made, "calm"))
        await end_cleanly(made, wrong)
    assert wrong == []


def work(house: House, name: str) -> list[Plan]:
    """Strict and best-effort, interactive and batch, a turn of a session, and clients that leave, return and cancel."""
    strict: dict[str, Any] = {"determinism": "strict", "seed": 1, "max_tokens": STRICT_TOKENS[0]}
    loose: dict[str, Any] = {"prompt": "a sea", "seed": 7, "max_tokens": 30}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("streams", strict | {"prompt": STRICT_PROMPTS[0]}),
        ("cancels", loose | {"model_ref": "standin", "max_tokens": 20_000}),
        ("returns", strict | {"prompt": STRICT_PROMPTS[1], "priority": "interactive"}),
        ("asks again", strict | {"prompt": STRICT_PROMPTS[2], "max_tokens": STRICT_TOKENS[1]}),
        ("reads later", strict | {"prompt": STRICT_PROMPTS[3]}),
        ("streams", loose | {"model_ref": "standin", "session_id": name, "priority": "interactive"}),
        ("never reads", loose | {"model_ref": "standin", "session_id": name}),
        ("cancels at once", loose),
    ]
    usual = {"model_ref": house.model, "priority": "batch"}
    return [
        Plan(habit, usual | body | {"task_id": f"{name}-{number}"}, patience=3)
        for number, (habit, body) in enumerate(bodies)
    ]


async def crash(made: House, point: str, nth: int, *more: str) -> None:
    """Stop orchestratord, and begin one that dies at a point, as far as it comes."""
    await made.orchestrator.kill(signal.SIGTERM)
    await made.serve(CRASHING, "--crash-at", point, "--nth", str(nth), *more)


async def dies(made: House) -> None:
    """It comes to that point, and the next run begins."""
    assert await made.orchestrator.ended(LIMIT_S) == -signal.SIGKILL
    await made.serve()


async def well(lab: Lab, clients: list[Client], book: Book) -> None:
    """Nothing is lost, doubled or different."""
    async with lab.house.session() as session:
        found, _ = await verdict.of_clients(session, clients, lab.answers)
    assert [*book.wrong, *found] == []


def test_every_write_has_its_moments() -> None:
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(database))) if isinstance(node, ast.Call)]
    writes = [node.args[0] for node in calls if ast.unparse(node.func) in {"self._one", "self._transaction"}]
    told = {ast.literal_eval(name) for name in writes}
    assert told == {*WRITES, *AT_THE_START, "let_go"}


@in_one_loop
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("write", WRITES)
async def test_a_death_while_clients_are_at_work(lab: Lab, write: str, moment: str) -> None:
    made, book = lab.house, Book()
    await crash(made, f"{moment} {write}", WRITES[write])
    plans = work(made, f"{moment}-{write}")
    async with made.session() as session, asyncio.TaskGroup() as group:
        group.create_task(dies(made))
        clients = await crowd(made, plans, book, len(plans), session)
    await well(lab, clients, book)


@in_one_loop
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_death_while_what_was_not_heard_is_unsaid(lab: Lab, moment: str) -> None:
    """A strict task has its slot, which is written ahead, and no token yet: its next run begins at the beginning."""
    made, book = lab.house, Book()
    await crash(made, "before speak", 1)
    plans = [each for each in work(made, f"{moment}-unsay") if each.strict]
    async with made.session() as session, asyncio.TaskGroup() as group:
        working = group.create_task(crowd(made, plans, book, len(plans), session))
        assert await made.orchestrator.ended(LIMIT_S) == -signal.SIGKILL
        await made.orchestrator.start(CRASHING, "--crash-at", f"{moment} unsay")
        await dies(made)
    await well(lab, working.result(), book)


@in_one_loop
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_death_while_a_task_that_cannot_be_read_is_forgotten(lab: Lab, moment: str) -> None:
    made, book = lab.house, Book()
    await crash(made, "before speak", 1)
    plans = [Plan("reads later", each.body) for each in work(made, f"{moment}-forget") if each.strict][:3]
    lost = f"{moment}-forget-lost"
    async with made.session() as session, asyncio.TaskGroup() as group:
        with suppress(aiohttp.ClientError):  # the daemon may die before it has answered
            async with session.post("/v1/tasks", json=plans[0].body | {"task_id": lost}) as answer:
                assert answer.status == 202
        working = group.create_task(crowd(made, plans, book, len(plans), session))
        assert await made.orchestrator.ended(LIMIT_S) == -signal.SIGKILL
        damage(made.store, lost)
        await made.orchestrator.start(CRASHING, "--crash-at", f"{moment} forget")
        await dies(made)
        async with session.get(f"/v1/tasks/{lost}") as answer:
            assert answer.status == 404
    await well(lab, working.result(), book)


@in_one_loop
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_death_while_the_oldest_are_let_go(lab: Lab, moment: str, tmp_path: Path) -> None:
    made, book = lab.house, Book()
    plans = work(made, f"{moment}-let-go")
    async with made.session() as session:
        clients = await crowd(made, plans, book, len(plans), session)
        await well(lab, clients, book)
    known = len(verdict.numbers_in(made.store))
    document = json.loads((made.folder / "config.json").read_text())
    document["server"]["keep_finished"] = KEPT
    narrow = tmp_path / "config.json"
    narrow.write_text(json.dumps(document))
    await crash(made, f"{moment} let_go", 1, "--config", str(narrow))
    await dies(made)
    left = len(verdict.numbers_in(made.store))
    assert (left == known) if moment == "before" else (KEPT <= left < known)
    await well(lab, clients, book)


@in_one_loop
async def test_a_task_that_ends_the_daemon_whenever_it_runs_is_given_up_and_the_others_are_not(lab: Lab) -> None:
    made = lab.house
    one_at_a_time = {"mode": "pin", "pool_id": LLAMAS[0]}
    body = {"model_ref": made.model, "prompt": "a sea", "max_tokens": 30, "placement": one_at_a_time}
    since = len(made.orchestrator.lines)
    await made.orchestrator.kill(signal.SIGTERM)  # a stop in order ends the row of starts
    await made.serve()
    await made.ready(since)
    engine = int((made.folder / "run" / "llama-orch" / f"{LLAMAS[0]}.pid").read_text())
    os.kill(engine, signal.SIGSTOP)  # nothing runs before both are there
    async with made.session() as session:
        for name in ("poison", "innocent"):
            async with session.post("/v1/tasks", json=body | {"task_id": name}) as answer:
                assert answer.status == 202
        await made.orchestrator.kill(signal.SIGKILL)
        os.kill(engine, signal.SIGCONT)
        await made.orchestrator.start(CRASHING, "--crash-at", "before speak")
        for _ in range(CAREFUL_FROM - 2 + ENDS - 1):
            assert await made.orchestrator.ended(LIMIT_S) == -signal.SIGKILL
            await made.orchestrator.start(CRASHING, "--crash-at", "before speak")
        await dies(made)
        ends = {}
        for name in ("poison", "innocent"):
            async with session.get(f"/v1/tasks/{name}/stream") as answer:
                ends[name] = await answer.text()
    assert f"orchestratord has ended {ENDS} times in a row while this task ran" in ends["poison"]
    assert "event: end" in ends["innocent"]


def damage(store: Path, task_id: str) -> None:
    """What was written of a task's admission cannot be read any more."""
    with closing(sqlite3.connect(store)) as connection, connection:
        found = connection.execute(
            "UPDATE admissions SET entered = '{' WHERE number = (SELECT number FROM tasks WHERE id = ?)", (task_id,)
        )
        assert found.rowcount == 1

"""The steps that several stories share, in the words of those who tell them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_bdd import given, parsers, then, when

from tests.bdd.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with asyncio.Runner() as runner:
        made = Machine(runner, tmp_path)
        try:
            yield made
        finally:
            runner.run(made.close())


# --- given ------------------------------------------------------------------------------------------------------------


@given(parsers.parse('an engine "{pool}" with {slots:d} slot that serves "{model}"'))
@given(parsers.parse('an engine "{pool}" with {slots:d} slots that serves "{model}"'))
def an_engine(machine: Machine, pool: str, slots: int, model: str) -> None:
    machine.do(machine.slow(pool, model, slots))


@given("a real llama.cpp server")
def a_real_engine(machine: Machine) -> None:
    machine.real()


@given(parsers.parse("a queue for {capacity:d} task"))
@given(parsers.parse("a queue for {capacity:d} tasks"))
def a_queue(machine: Machine, capacity: int) -> None:
    machine.document["pools"][0].setdefault("queue", {})["capacity"] = capacity


@given(parsers.parse("a full queue drops the task that was used least recently"))
def drops(machine: Machine) -> None:
    machine.document["pools"][0].setdefault("queue", {})["full_policy"] = "drop-lru"


@given("llama-orch is up")
def up(machine: Machine) -> None:
    machine.do(machine.up())


@given(parsers.parse("{who} reads an answer of {tokens:d} tokens"))
@when(parsers.parse("{who} reads an answer of {tokens:d} tokens"))
def reads(machine: Machine, who: str, tokens: int) -> None:
    machine.do(machine.stream(who, 1, max_tokens=tokens))


@given(parsers.parse("{who} waits as {priority} for {tokens:d} tokens"))
@when(parsers.parse("{who} asks as {priority} for {tokens:d} tokens"))
def asks_as(machine: Machine, who: str, priority: str, tokens: int) -> None:
    machine.do(machine.submit(who, priority=priority, max_tokens=tokens))


# --- when -------------------------------------------------------------------------------------------------------------


@when(parsers.parse('{who} asks for {tokens:d} tokens of "{model}"'))
def asks_of(machine: Machine, who: str, tokens: int, model: str) -> None:
    machine.do(machine.submit(who, model_ref=model, max_tokens=tokens))


@when(parsers.parse("{who} asks for {tokens:d} tokens within {deadline:d} ms"))
def asks_within(machine: Machine, who: str, tokens: int, deadline: int) -> None:
    machine.do(machine.submit(who, max_tokens=tokens, deadline_ms=deadline))


@when(parsers.parse("{who} cancels"))
@when(parsers.parse("{who} cancels again"))
def cancels(machine: Machine, who: str) -> None:
    task_id = machine.asked[who].task_id

    async def cancel() -> int:
        async with machine.installation.http.post(f"/v1/tasks/{task_id}/cancel") as answer:
            return answer.status

    assert machine.do(cancel()) == 204


@when(parsers.parse("{who} hangs up"))
def hangs_up(machine: Machine, who: str) -> None:
    machine.hang_up(who)


# --- then -------------------------------------------------------------------------------------------------------------


@then(parsers.parse("the answer is {status:d}"))
def answered(machine: Machine, status: int) -> None:
    assert machine.last.status == status, machine.last.body


@then(parsers.parse("the refusal is {status:d} {code}"))
def refused(machine: Machine, status: int, code: str) -> None:
    assert (machine.last.status, machine.last.body.get("code")) == (status, code), machine.last.body


@then(parsers.parse('it says "{words}"'))
def says(machine: Machine, words: str) -> None:
    assert words in f"{machine.last.body['message']} | {machine.last.body.get('hint')}"


@then(parsers.parse("{who} is answered"))
def is_answered(machine: Machine, who: str) -> None:
    assert machine.do(machine.rest(who)).end is not None


@then(parsers.parse("{who} gets {tokens:d} tokens"))
def gets(machine: Machine, who: str, tokens: int) -> None:
    said = machine.do(machine.rest(who))
    assert (len(said.tokens), said.end is not None) == (tokens, True), said


@then(parsers.parse("{who} waits"))
def waits(machine: Machine, who: str) -> None:
    assert machine.do(machine.task(who))["state"] == "queued"


@then(parsers.parse("{who} was answered before {other}"))
def before(machine: Machine, who: str, other: str) -> None:
    first, second = (machine.do(machine.task_is(each, "done")) for each in (who, other))
    started = [task["created_ms"] + task["queue_time_ms"] for task in (first, second)]
    assert started[0] <= started[1], (first, second)


@then(parsers.parse('the slot of "{pool}" is free again'))
def slot_is_free(machine: Machine, pool: str) -> None:
    machine.do(machine.engine_is(pool, lambda stats: stats.running == 0 and stats.waiting == 0))
    path = f"/v1/pools/{pool}/health"
    machine.do(machine.until(path, lambda found: found["metrics"]["active"] == 0))


@then(parsers.parse("{who}'s task is {state}"))
def task_is(machine: Machine, who: str, state: str) -> None:
    machine.do(machine.task_is(who, state))

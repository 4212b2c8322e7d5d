"""Stories about who is taken, told with both daemons."""

from __future__ import annotations

import pytest
from pytest_bdd import parsers, scenarios, then, when

from tests.bdd.machine import Machine

pytestmark = [pytest.mark.req("OP-04", "HP-01", "HP-03", "HP-05", "HP-08"), pytest.mark.timeout(60), pytest.mark.slow]
scenarios("admission.feature")


@when(parsers.parse('{who} sends the field "{field}"'))
def sends_the_field(machine: Machine, who: str, field: str) -> None:
    machine.do(machine.ask(who, "POST", "/v1/tasks", {"model_ref": "haiku", field: "Snow."}))


@when(parsers.parse('{who} sends the task "{task_id}" twice'))
def sends_twice(machine: Machine, who: str, task_id: str) -> None:
    for time in ("first", "second"):
        machine.do(machine.submit(f"{who}'s {time}", task_id=task_id, max_tokens=4))
        machine.do(machine.rest(f"{who}'s {time}"))


@then(parsers.parse("{who} has place {place:d} and a predicted start"))
def has_place(machine: Machine, who: str, place: int) -> None:
    accepted = machine.asked[who].body
    assert accepted["queue_position"] == place
    assert accepted["predicted_start_ms"] > 0


@then("both answers are the same")
def same_answers(machine: Machine) -> None:
    first, second = (asked.body for asked in machine.asked.values())
    assert first == second


@then(parsers.parse('the engine of "{pool}" ran {count:d} task'))
def ran(machine: Machine, pool: str, count: int) -> None:
    stats = machine.do(machine.engine_is(pool, lambda stats: stats.completed > count))
    assert stats.completed == count + 1, f"beside the one token that proves the engine: {stats}"

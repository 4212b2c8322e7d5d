"""Stories about conversations, told with both daemons and a real llama.cpp server."""

from __future__ import annotations

import os
import signal

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from tests.bdd.machine import Machine

pytestmark = [
    pytest.mark.req("OP-04", "HP-07", "HP-15", "HP-16"),
    pytest.mark.timeout(60),
    pytest.mark.slow,
]
scenarios("sessions.feature")

TURN = {"prompt": "Write a haiku about the snow on the old stone wall.", "determinism": "best_effort"}


@given(parsers.parse("a session has {count:d} {what}"))
def a_session_has(machine: Machine, count: int, what: str) -> None:
    machine.document["sessions"] = {{"turns": "max_turns", "tokens": "token_budget"}[what]: count}


@when(parsers.parse('{who} takes a turn in "{session}"'))
def takes_a_turn(machine: Machine, who: str, session: str) -> None:
    machine.do(machine.stream(who, 1, session_id=session, max_tokens=4, **TURN))
    assert machine.do(machine.rest(who)).end is not None


@when(parsers.parse('{who} asks for a turn in "{session}"'))
def asks_for_a_turn(machine: Machine, who: str, session: str) -> None:
    machine.do(machine.submit(who, session_id=session, max_tokens=4, **TURN))


@when(parsers.parse('{who} asks for {tokens:d} tokens more in "{session}"'))
def asks_for_more(machine: Machine, who: str, tokens: int, session: str) -> None:
    machine.do(machine.submit(who, session_id=session, max_tokens=tokens, **TURN))


@when("somebody kills the engine")
def kills(machine: Machine) -> None:
    os.kill(machine.installation.engine_pid(), signal.SIGKILL)


@when(parsers.parse('{who} ends the session "{session}"'))
def ends(machine: Machine, who: str, session: str) -> None:
    machine.do(machine.ask(who, "DELETE", f"/v1/sessions/{session}"))


@then("the pool comes back")
def comes_back(machine: Machine) -> None:
    machine.do(machine.until("/v1/pools/trial/health", lambda pool: pool["ready"] and pool["restarts"] == 1))


@then(parsers.parse("{who}'s turn began cold"))
def began_cold(machine: Machine, who: str) -> None:
    started = machine.do(machine.rest(who)).started
    assert started is not None
    assert started.kv_warmth is False


@then(parsers.parse('the session "{session}" has had {turns:d} of {most:d} turns and is warm'))
def has_had(machine: Machine, session: str, turns: int, most: int) -> None:
    found = machine.do(machine.installation.get(f"/v1/sessions/{session}"))
    assert (found["turns"], found["turns_max"], found["kv_warmth"]) == (turns, most, True)
    assert 0 < found["ttl_ms_remaining"] <= 600_000


@then(parsers.parse('the session "{session}" holds some of the cache of "{replica}"'))
def holds(machine: Machine, session: str, replica: str) -> None:
    found = machine.do(machine.installation.get(f"/v1/sessions/{session}"))
    assert found["replica_id"] == replica
    assert found["kv_tokens"] > 0
    assert found["kv_bytes"] > 0


@then(parsers.parse('the session "{session}" has less than {tokens:d} tokens left'))
def has_left(machine: Machine, session: str, tokens: int) -> None:
    left = machine.do(machine.installation.get(f"/v1/sessions/{session}"))["budgets"]["tokens_remaining"]
    assert 0 < left < tokens
    said = machine.do(machine.rest("Ann"))
    assert [each.tokens_budget_remaining for each in said.metrics][-1] == left


@then(parsers.parse('it names "{policy}"'))
def names(machine: Machine, policy: str) -> None:
    assert machine.last.body["policy_label"] == policy
    assert int(machine.last.headers["retry-after"]) >= 1


@then(parsers.parse('there is no session "{session}"'))
def is_gone(machine: Machine, session: str) -> None:
    machine.do(machine.ask("Ann", "GET", f"/v1/sessions/{session}"))
    assert (machine.last.status, machine.last.body["code"]) == (404, "NOT_FOUND")

"""Stories about streams, told with both daemons."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from tests.bdd.machine import Machine
from tests.support.stream_grammar import Said, check

pytestmark = [
    pytest.mark.req("OP-04", "HP-10", "HP-12", "HP-17", "HP-18", "HP-19"),
    pytest.mark.timeout(60),
    pytest.mark.slow,
]
scenarios("streaming.feature")


@given("who is gone for less than a minute has not left")
def grace(machine: Machine) -> None:
    machine.document["server"]["disconnect_grace_ms"] = 60_000


@when(parsers.parse("{who} asks with seed {seed:d}"))
def asks_with_seed(machine: Machine, who: str, seed: int) -> None:
    machine.do(machine.submit(who, seed=seed, max_tokens=24, determinism="strict"))
    machine.do(machine.task_is(who, "done"))


@when(parsers.parse("{who} comes back behind the first token"))
def comes_back(machine: Machine, who: str) -> None:
    said = machine.do(machine.rest(who, after=0))
    assert said.end is not None
    machine.asked[f"{who} again"] = machine.asked[who]
    assert [token.i for token in said.tokens] == list(range(1, 30))


@when(parsers.parse("two others read {who}'s stream as well"))
def others_read(machine: Machine, who: str) -> None:
    path = f"/v1/tasks/{machine.asked[who].task_id}/stream"

    async def read() -> bytes:
        async with machine.installation.http.get(path) as answer:
            return await answer.read()

    async def both() -> list[bytes]:
        return list(await asyncio.gather(read(), read()))

    machine.do(machine.rest(who))
    machine.last.got = machine.asked[who].got
    assert machine.do(both()) == [machine.last.got] * 2


@when("somebody kills the engine")
def kills(machine: Machine) -> None:
    machine.asked["seen"] = machine.last
    os.kill(machine.installation.engine_pid(), signal.SIGKILL)


@when(parsers.parse('somebody kills the engine "{pool}"'))
def kills_engine(machine: Machine, pool: str) -> None:
    machine.engines[pool].kill()


@then(parsers.parse("{who}'s stream is started, tokens and one end"))
def in_order(machine: Machine, who: str) -> None:
    said = machine.do(machine.rest(who))
    names = [name for name in said.names if name != "metrics"]
    assert names == ["started", *["token"] * len(said.tokens), "end"]
    assert said.tokens
    assert said.end is not None
    assert said.end.tokens_out >= len(said.tokens)


@then(parsers.parse("{who} and {other} read {how}"))
def read_the_same(machine: Machine, who: str, other: str, how: str) -> None:
    first, second = machine.do(machine.rest(who)), machine.do(machine.rest(other))
    assert first.text
    assert (first.text == second.text) is (how == "the same text")


@then(parsers.parse("{who} has missed nothing of {tokens:d} tokens"))
def missed_nothing(machine: Machine, who: str, tokens: int) -> None:
    async def whole() -> Said:
        path = f"/v1/tasks/{machine.asked[who].task_id}/stream"
        async with machine.installation.http.get(path) as answer:
            return check(await answer.read())

    assert len(machine.do(whole()).tokens) == tokens


@then("all of them read the same bytes")
def same_bytes(machine: Machine) -> None:
    assert check(machine.last.got).end is not None


@then("the pool was shown as not ready")
def not_ready(machine: Machine) -> None:
    machine.do(machine.installation.orchestrator.logged("pool trial is ", "failed"))


@then("the pool comes back")
def comes_back_up(machine: Machine) -> None:
    found = machine.do(machine.until("/v1/pools/trial/health", lambda pool: pool["ready"] and pool["restarts"] == 1))
    assert found["live"]


@then(parsers.parse("{who}'s stream ends in {code}, to be tried again"))
def ends_in(machine: Machine, who: str, code: str) -> None:
    error = machine.do(machine.rest(who)).error
    assert error is not None
    assert (error.code, error.retriable) == (code, True)

"""Stories about full queues, told with both daemons."""

from __future__ import annotations

import math

import pytest
from pytest_bdd import parsers, scenarios, then

from tests.bdd.machine import Machine

pytestmark = [pytest.mark.req("OP-04", "HP-02", "HP-04"), pytest.mark.timeout(60), pytest.mark.slow]
scenarios("backpressure.feature")


@then(parsers.parse('it names the policy "{policy}" and a time to come back'))
def names_the_policy(machine: Machine, policy: str) -> None:
    body, headers = machine.last.body, machine.last.headers
    assert (body["policy_label"], body["retriable"]) == (policy, True)
    assert body["retry_after_ms"] >= 1
    assert headers["x-backoff-ms"] == str(body["retry_after_ms"])
    assert headers["retry-after"] == str(math.ceil(body["retry_after_ms"] / 1000))


@then(parsers.parse("{who} is told {code}"))
def is_told(machine: Machine, who: str, code: str) -> None:
    error = machine.do(machine.rest(who)).error
    assert error is not None
    assert (error.code, error.retriable) == (code, True)


@then(parsers.parse("the capabilities show {depth:d} of {capacity:d} places taken"))
def places_taken(machine: Machine, depth: int, capacity: int) -> None:
    shown = machine.do(machine.installation.get("/v1/capabilities"))["pools"][0]["queue"]
    assert (shown["depth"], shown["capacity"]) == (depth, capacity)

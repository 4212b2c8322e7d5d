"""Stories about a workstation with two different cards, told with both daemons on NVML's stand-in."""

from __future__ import annotations

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from tests.bdd.machine import Machine
from tests.support.nvml import FakeGpus

pytest_plugins = ["tests.support.nvml.fixtures"]
pytestmark = [
    pytest.mark.req("OP-04", "OP-05", "HP-06", "ORCH-3803"),
    pytest.mark.needs("gcc"),
    pytest.mark.timeout(60),
    pytest.mark.slow,
]
scenarios("scheduling.feature")


@given(parsers.parse('a card of 24 GB and one of 12 GB that serve "{model}"'))
def two_cards(machine: Machine, gpus: FakeGpus, model: str) -> None:
    machine.on_gpus(gpus, model)


@when("the card of 24 GB falls off the bus")
def is_lost(machine: Machine, gpus: FakeGpus) -> None:
    gpus.lose(0)


@when("the card of 24 GB is back")
def is_back(machine: Machine, gpus: FakeGpus) -> None:
    gpus.restore(0)


@when(parsers.parse('{who} asks for {tokens:d} tokens on "{pool}" alone'))
def pins(machine: Machine, who: str, tokens: int, pool: str) -> None:
    machine.do(machine.submit(who, max_tokens=tokens, placement={"mode": "pin", "pool_id": pool}))


@then(parsers.parse('{who} is on "{pool}"'))
def is_on(machine: Machine, who: str, pool: str) -> None:
    assert machine.do(machine.task_is(who, "running", "done"))["pool_id"] == pool


@then(parsers.parse('the pool "{pool}" is quarantined because of {cause}'))
def is_quarantined(machine: Machine, pool: str, cause: str) -> None:
    found = machine.do(machine.until(f"/v1/pools/{pool}/health", lambda found: found["state"] == "quarantined"))
    assert (found["live"], found["ready"], found["last_error"]["cause"]) == (False, False, cause)


@then(parsers.parse('the pool "{pool}" is ready'))
def is_ready(machine: Machine, pool: str) -> None:
    machine.do(machine.until(f"/v1/pools/{pool}/health", lambda found: bool(found["ready"])))

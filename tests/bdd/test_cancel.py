"""Stories about what nobody wants any more, told with both daemons."""

from __future__ import annotations

import msgspec
import pytest
from pytest_bdd import given, parsers, scenarios, then

from tests.bdd.machine import SLOW, Machine

pytestmark = [pytest.mark.req("OP-04", "HP-11", "HP-19"), pytest.mark.timeout(60), pytest.mark.slow]
scenarios("cancel.feature")


@given(parsers.parse('the engine "{pool}" thinks for a minute before it speaks'))
def thinks(machine: Machine, pool: str) -> None:
    knobs = msgspec.structs.replace(SLOW, slots=1, first_token_delay_ms=60_000)
    machine.do(machine.engines[pool].set(knobs))


@given(parsers.parse("{who} waits for the first token"))
def waits_for_the_first(machine: Machine, who: str) -> None:
    machine.do(machine.stream(who, 0, max_tokens=4))
    machine.do(machine.engine_is("gpu0", lambda stats: stats.running == 1))


@then(parsers.parse("{who}'s stream ends as canceled"))
def ends_as_canceled(machine: Machine, who: str) -> None:
    end = machine.do(machine.rest(who)).end
    assert end is not None
    assert end.finish_reason == "canceled"


@then(parsers.parse("{who}'s stream never started"))
def never_started(machine: Machine, who: str) -> None:
    said = machine.do(machine.rest(who))
    assert (said.started, said.tokens) == (None, [])

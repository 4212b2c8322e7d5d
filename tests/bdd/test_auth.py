"""Stories about who may talk, told with both daemons."""

from __future__ import annotations

import json

import aiohttp
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemon_core.redaction import fingerprint
from tests.bdd.machine import Asked, Machine
from tests.support.installation import TOKEN

pytestmark = [pytest.mark.req("OP-02", "OP-04", "ORCH-3810", "ORCH-3811"), pytest.mark.timeout(60), pytest.mark.slow]
scenarios("auth.feature")


@given(parsers.parse('it is to listen on "{host}" without a token'))
def lan_without_token(machine: Machine, host: str) -> None:
    machine.document["profile"] = "home"
    machine.document["server"]["bind"] = f"{host}:{machine.installation.port}"
    del machine.installation.environ["LLORCH_API_TOKEN"]
    machine.installation.config.write_text(json.dumps(machine.document))


@when("llama-orch is started")
def is_started(machine: Machine) -> None:
    async def start() -> int:
        return await (await machine.installation.orchestrator.start()).ended()

    machine.last = Asked(machine.do(start()))


@when(parsers.parse("{who} asks without a token"))
def without_token(machine: Machine, who: str) -> None:
    machine.do(_ask_as(machine, {}, "/v1/pools"))


@when(parsers.parse('{who} asks with the token "{token}"'))
def with_token(machine: Machine, who: str, token: str) -> None:
    machine.do(_ask_as(machine, {"Authorization": f"Bearer {token}"}, "/v1/pools"))


@when(parsers.parse("{who} asks whether the daemon is alive"))
def alive(machine: Machine, who: str) -> None:
    machine.do(_ask_as(machine, {}, "/healthz"))


async def _ask_as(machine: Machine, headers: dict[str, str], path: str) -> None:
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{machine.installation.port}") as stranger,
        stranger.get(path, headers=headers) as answer,
    ):
        machine.last = Asked(answer.status, body=await answer.json())


@then(parsers.parse("it ends with status {status:d} and says what to set"))
def ends_with(machine: Machine, status: int) -> None:
    assert machine.last.status == status
    said = "\n".join(machine.installation.orchestrator.lines)
    assert "token" in said
    assert "LLORCH_API_TOKEN" in said


@then("the log names the token by its fingerprint alone")
def fingerprint_alone(machine: Machine) -> None:
    said = "\n".join([*machine.installation.orchestrator.lines, *machine.installation.manager.lines])
    assert f"token:{fingerprint(TOKEN)}" in said
    assert TOKEN not in said

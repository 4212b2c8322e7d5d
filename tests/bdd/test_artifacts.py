"""Stories about what is kept, told with both daemons."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from pytest_bdd import parsers, scenarios, then, when

from tests.bdd.machine import Machine
from tests.support.installation import TOKEN

pytestmark = [pytest.mark.req("OP-04", "HP-21", "ORCH-3811"), pytest.mark.timeout(60), pytest.mark.slow]
scenarios("artifacts.feature")


def record_of(machine: Machine, who: str) -> dict[str, Any]:
    machine.do(machine.rest(who))
    task = machine.do(machine.until(f"/v1/tasks/{machine.asked[who].task_id}", lambda task: bool(task["artifact_id"])))
    kept = machine.do(machine.until_there(f"/v1/artifacts/{task['artifact_id']}"))
    assert kept["kind"] == "trace"
    content: dict[str, Any] = kept["content"]
    return content


@when(parsers.parse('somebody kills the engine "{pool}"'))
def kills_engine(machine: Machine, pool: str) -> None:
    machine.engines[pool].kill()


@when(parsers.parse('{who} keeps the plan "{plan}"'))
def keeps(machine: Machine, who: str, plan: str) -> None:
    machine.do(machine.ask(who, "POST", "/v1/artifacts", {"kind": "plan", "content": {"plan": plan}}))
    assert machine.last.status == 201, machine.last.body


@when(parsers.parse("{who} asks with the token in her prompt"))
def asks_with_token(machine: Machine, who: str) -> None:
    machine.do(machine.submit(who, prompt=f"My token is {TOKEN}.", max_tokens=4))


@then(parsers.parse("{who}'s record says what she asked and who answered"))
def says_who(machine: Machine, who: str) -> None:
    record = record_of(machine, who)
    assert (record["request"]["prompt"], record["seed"], record["state"]) == ("Snow.", 1, "done")
    engine = record["engine"]
    assert (engine["engine"], engine["pool_id"], engine["replica_id"]) == ("llamacpp", "trial", "trial-0")
    assert engine["model_digest"].startswith("sha256:")
    assert engine["engine_version"].startswith("xllamacpp")


@then(parsers.parse("{who}'s record has the text that she read"))
def has_the_text(machine: Machine, who: str) -> None:
    record, said = record_of(machine, who), machine.do(machine.rest(who))
    assert record["transcript"] == said.text
    assert record["stream_sha256"] == hashlib.sha256(said.text.encode()).hexdigest()


@then(parsers.parse("{who}'s record says that it failed with {code}"))
def says_failed(machine: Machine, who: str, code: str) -> None:
    record = record_of(machine, who)
    assert (record["state"], record["error"]["code"], record["end"]) == ("failed", code, None)
    assert record["pieces"] >= 1


@then("both were given the same name")
def same_name(machine: Machine) -> None:
    first, second = (asked.body["id"] for asked in machine.asked.values())
    assert first == second


@then(parsers.parse('what is kept under it is the plan "{plan}"'))
def is_kept(machine: Machine, plan: str) -> None:
    kept = machine.do(machine.installation.get(f"/v1/artifacts/{machine.last.body['id']}"))
    assert (kept["kind"], kept["content"]) == ("plan", {"plan": plan})


@then(parsers.parse("{who}'s record says that something was taken out"))
def taken_out(machine: Machine, who: str) -> None:
    record = record_of(machine, who)
    assert record["redacted"] is True
    assert TOKEN not in str(record)


@then("the token is in no receipt")
def in_no_receipt(machine: Machine) -> None:
    chain = machine.do(machine.installation.get("/v1/receipts"))
    assert chain["last"] == len(chain["receipts"]) > 0
    assert TOKEN not in str(chain)

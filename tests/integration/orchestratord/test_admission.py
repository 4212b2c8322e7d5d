"""Over HTTP: what a dry run answers, and how tasks are refused that would be late, too many or too long."""

from pathlib import Path
from typing import Any

import pytest

from contracts.config import FullPolicy, Limits, Queue, Timeouts
from contracts.pools import PoolState
from tests.integration.orchestratord.house import BODY, House, house, read_until, tokens_in
from tests.plugins.failures import OperatorSees
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.unit.orchestratord.frames import frames_of
from tests.unit.orchestratord.world import pool, snapshot

STUCK = Knobs(fault=Fault.HANG, fault_after=5, tokens=100)
ONE_SLOT = {"slots": 1}
PATIENT = Timeouts(wall_ms=600_000, idle_ms=600_000)


def shown(body: dict[str, Any]) -> str:
    """As an operator reads it."""
    return f"{body['code']}: {body['message']}\nhint: {body['hint']}"


async def occupied(here: House) -> str:
    """One task has the only slot."""
    running = await here.submit(max_tokens=100)
    async with here.client.get(f"/v1/tasks/{running}/stream") as answer:
        await read_until(answer, lambda got: tokens_in(got) == 5)
    return running


async def refused(here: House, path: str = "/v1/tasks", **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    """A 429, with all that belongs to one."""
    async with here.client.post(path, json=BODY | changes) as answer:
        assert answer.status == 429, await answer.text()
        body: dict[str, Any] = await answer.json()
        assert body["retriable"] is True
        assert body["policy_label"]
        assert answer.headers["X-Backoff-Ms"] == str(body["retry_after_ms"])
        assert answer.headers["Retry-After"] == str(max(1, -(-body["retry_after_ms"] // 1000)))
        return body


# --- dry runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-03")
async def test_a_dry_run_foretells_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, report=ONE_SLOT) as here:
        running = await occupied(here)
        wanted = BODY | {"task_id": "mine", "deadline_ms": 600_000}
        async with here.client.post("/v1/tasks?dry_run=true", json=wanted) as answer:
            assert (answer.status, answer.headers.get("Location")) == (200, None)
            told = await answer.json()
        assert told["queue_position"] == 0
        assert 0 < told["predicted_start_low_ms"] <= told["predicted_start_ms"] <= told["predicted_start_high_ms"]
        assert told["predicted_end_ms"] > told["predicted_start_ms"]
        assert (told["pool_id"], told["replica_id"], told["eligible_pools"]) == ("p", "p-0", ["p"])
        assert told["prompt_tokens"] > 0
        assert told["prompt_tokens_counted"] is True
        assert 0 < told["new_tokens"] <= BODY["max_tokens"]
        assert 0 <= told["on_time_probability"] <= 1
        assert told["evicts"] is None
        async with here.client.get("/v1/tasks/mine") as answer:
            assert answer.status == 404
        assert (await here.get("/v1/capabilities"))["pools"][0]["queue"]["depth"] == 0
        async with here.client.post("/v1/tasks?dry_run=false", json=wanted) as answer:
            accepted = await answer.json()
            assert answer.status == 202
        assert accepted["predicted_start_low_ms"] <= accepted["predicted_start_ms"]
        assert accepted["predicted_start_ms"] <= accepted["predicted_start_high_ms"]
        assert 0 <= accepted["on_time_probability"] <= 1
        for task_id in ("mine", running):
            assert await here.cancel(task_id) == 204


async def test_a_dry_run_never_streams(tmp_path: Path) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url) as here:
        headers = {"Accept": "text/event-stream"}
        async with here.client.post("/v1/tasks?dry_run=true", json=BODY, headers=headers) as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")


@pytest.mark.parametrize("value", ["1", "yes", "True", ""])
async def test_a_dry_run_is_asked_for_clearly_or_nothing_happens(tmp_path: Path, value: str) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url) as here:
        async with here.client.post(f"/v1/tasks?dry_run={value}", json=BODY) as answer:
            told = await answer.json()
            assert (answer.status, told["code"], told["field"]) == (400, "INVALID_PARAMS", "dry_run")
        assert (await here.get("/v1/tasks"))["tasks"] == []


@pytest.mark.req("HP-02", "HP-04")
async def test_a_dry_run_is_refused_as_the_task_would_be(tmp_path: Path) -> None:
    small = pool(queue=Queue(capacity=1), timeouts=PATIENT)
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, small, report=ONE_SLOT) as here:
        running = await occupied(here)
        waiting = await here.submit()
        foretold, real = await refused(here, "/v1/tasks?dry_run=true"), await refused(here)
        for body in (foretold, real):
            body.pop("correlation_id")
            body["retry_after_ms"] = 0
        assert foretold == real
        for task_id in (waiting, running):
            assert await here.cancel(task_id) == 204


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-03", "HP-04")
async def test_a_deadline_that_cannot_be_met_is_refused_with_the_prediction(
    tmp_path: Path, operator_sees: OperatorSees
) -> None:
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, report=ONE_SLOT) as here:
        running = await occupied(here)
        body = await refused(here, max_tokens=1, deadline_ms=40)
        assert body["policy_label"] == "deadline"
        operator_sees("admission/deadline", shown(body))
        assert await here.cancel(running) == 204


@pytest.mark.req("HP-04")
async def test_a_deadline_that_the_task_alone_passes_is_refused_for_good(
    tmp_path: Path, operator_sees: OperatorSees
) -> None:
    async with StandIn(Knobs(tokens=8)) as engine, house(tmp_path, engine.url, report=ONE_SLOT) as here:
        async with here.client.post("/v1/tasks", json=BODY | {"deadline_ms": 1}) as answer:
            body = await answer.json()
            assert (answer.status, body["policy_label"], body["retriable"]) == (429, "deadline", False)
            assert int(answer.headers["X-Backoff-Ms"]) > 1
        operator_sees("admission/deadline-too-short", shown(body))
        assert await here.submit(deadline_ms=body["retry_after_ms"])


@pytest.mark.req("HP-02", "HP-04")
@pytest.mark.parametrize(("policy", "name"), [(FullPolicy.REJECT, "queue-full"), (FullPolicy.DROP_LRU, "drop-lru")])
async def test_a_full_queue_names_its_policy(
    tmp_path: Path, operator_sees: OperatorSees, policy: FullPolicy, name: str
) -> None:
    small = pool(queue=Queue(capacity=1, full_policy=policy), timeouts=PATIENT)
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, small, report=ONE_SLOT) as here:
        running, waiting = await occupied(here), await here.submit()
        body = await refused(here, priority="batch")
        assert body["policy_label"] == policy
        operator_sees(f"admission/{name}", shown(body))
        for task_id in (waiting, running):
            assert await here.cancel(task_id) == 204


@pytest.mark.req("HP-02")
async def test_a_task_that_gives_way_is_told_when_to_come_back(tmp_path: Path, operator_sees: OperatorSees) -> None:
    small = pool(queue=Queue(capacity=1, full_policy=FullPolicy.DROP_LRU), timeouts=PATIENT)
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, small, report=ONE_SLOT) as here:
        running, old = await occupied(here), await here.submit(priority="batch")
        newer = await here.submit()
        error = frames_of(await here.stream(old))[-1].data
        assert error["retry_after_ms"] > 0
        operator_sees("admission/gave-way", shown(error))
        for task_id in (newer, running):
            assert await here.cancel(task_id) == 204


@pytest.mark.req("HP-04", "HP-16")
@pytest.mark.parametrize(
    ("limits", "name"),
    [(Limits(requests_per_minute=1), "requests-per-minute"), (Limits(tokens_per_minute=10), "tokens-per-minute")],
)
async def test_a_client_that_asks_for_too_much_is_told_when_it_may_again(
    tmp_path: Path, operator_sees: OperatorSees, limits: Limits, name: str
) -> None:
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, limits=limits) as here:
        running = await here.submit()
        body = await refused(here)
        assert body["policy_label"] == name.replace("-", "_")
        assert 0 < body["retry_after_ms"] <= 120_000
        operator_sees(f"admission/{name}", shown(body))
        assert await here.cancel(running) == 204


@pytest.mark.req("HP-05")
async def test_a_prompt_that_is_too_long_is_counted_and_refused_also_as_a_dry_run(tmp_path: Path) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url, report={"ctx_max": 32}) as here:
        for path in ("/v1/tasks", "/v1/tasks?dry_run=true"):
            async with here.client.post(path, json=BODY | {"prompt": "word " * 100}) as answer:
                told = await answer.json()
                assert (answer.status, told["code"], told["field"]) == (400, "INVALID_PARAMS", "prompt")
        assert (await here.get("/v1/tasks"))["tasks"] == []


# --- pools that do not come -------------------------------------------------------------------------------------------


async def test_nobody_waits_for_ever_for_a_pool(tmp_path: Path, operator_sees: OperatorSees) -> None:
    hasty = pool(timeouts=Timeouts(start_ms=300))
    async with house(tmp_path, None, hasty) as here:
        here.orchestrator.report(snapshot(state=PoolState.STARTING))
        error = frames_of(await here.stream(await here.submit()))[-1].data
        assert (error["code"], error["retriable"]) == ("POOL_UNREADY", True)
        operator_sees("admission/no-pool-came", shown(error))

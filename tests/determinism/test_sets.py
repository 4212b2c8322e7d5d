"""Replica sets through the whole product: two pools of one engine, and a third with another sampler profile."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.determinism.replicas import PROMPT, SEEDS, TOKENS
from tests.determinism.test_product import add_pool, stream_of
from tests.support.installation import Installation, parse_events, text_of
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.req("HP-12", "HP-13"), pytest.mark.slow, pytest.mark.timeout(120)]

SEED = SEEDS[4]
STRICT = {"prompt": PROMPT, "max_tokens": TOKENS, "seed": SEED, "determinism": "strict"}
PREFERRED = {"mode": "prefer", "prefer": ["trial"]}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Installation]:
    async with Installation(tmp_path / "home", write_tiny_gguf(tmp_path / "tiny.gguf")) as installation:
        add_pool(installation, "twin")
        add_pool(installation, "other", sampler_profile_version="greedy")
        await installation.up()
        await installation.introduced("trial", "twin", "other")
        yield installation


def engine_of(house: Installation, pool_id: str) -> int:
    return int((house.root / "run" / "llama-orch" / f"{pool_id}.pid").read_text().split()[0])


@contextmanager
def standing_still(house: Installation, *pool_ids: str) -> Iterator[list[int]]:
    """The engines of these pools take connections and answer nothing."""
    engines = [engine_of(house, pool_id) for pool_id in pool_ids]
    for pid in engines:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield engines
    finally:
        for pid in engines:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def changed(house: Installation, what: str, until: str, **asked: object) -> None:
    """The third pool is drained or reloaded, and pool-managerd has done it."""
    seen = len(house.manager.lines)
    async with house.http.post(f"/v1/pools/other/{what}", json=asked) as response:
        assert response.status == 202, await response.text()
    await house.manager.logged("other", until, since=seen)


async def submitted(house: Installation, **request: Any) -> str:  # noqa: ANN401 - any field of the request
    body = {"model_ref": await house.model_id(), **STRICT, "on_disconnect": "continue", **request}
    async with house.http.post("/v1/tasks", json=body) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["task_id"])


async def test_clients_are_told_which_pools_give_the_same_answers(house: Installation) -> None:
    pools = {each["pool_id"]: each["strict"] for each in (await house.get("/v1/capabilities"))["pools"]}
    assert all(each["available"] and each["why"] is None for each in pools.values())
    assert pools["trial"]["replica_set"] == pools["twin"]["replica_set"] != pools["other"]["replica_set"]
    _, one, _ = await stream_of(house, "trial", SEED)
    _, same, _ = await stream_of(house, "twin", SEED)
    _, other, _ = await stream_of(house, "other", SEED)
    _, greedy, _ = await stream_of(house, "trial", SEED, sampling={"temperature": 0})
    assert one == same
    assert other.data != one.data
    assert other.data == greedy.data  # the profile is nothing but its values, and a request's own go before them
    assert (await house.get("/v1/receipts?after=0&limit=1"))["receipts"][0]["content"]["sent"]["temperature"] == 0.8


async def test_a_silent_retry_gives_the_same_bytes_from_the_same_set(house: Installation) -> None:
    _, expected, _ = await stream_of(house, "twin", SEED)
    received = b""
    with standing_still(house, "trial") as (engine,):
        async with house.streaming({**STRICT, "placement": PREFERRED}) as answer:
            async for chunk in answer.content.iter_any():
                if not received:
                    os.kill(engine, signal.SIGKILL)
                received += chunk
    events = parse_events(received)
    assert [name for name, _ in events if name in {"started", "end", "error"}] == ["started", "end"]
    ran = [data["pool_id"] for _, data in events if "pool_id" in data]
    assert (ran[0], set(ran)) == ("trial", {"trial", "twin"})
    assert text_of(events).encode() == expected.data


async def test_what_waits_over_a_restart_waits_for_its_set(house: Installation) -> None:
    """The third pool comes into service meanwhile, and has nothing to do: whatever may run there would, at once."""
    _, expected, _ = await stream_of(house, "twin", SEED)
    await changed(house, "drain", "draining -> stopped", deadline_ms=0)
    with standing_still(house, "trial", "twin"):
        for pool_id in ("trial", "twin"):
            await submitted(house, placement={"mode": "pin", "pool_id": pool_id})
        waiting = await submitted(house, placement=PREFERRED)
        assert (await house.get(f"/v1/tasks/{waiting}"))["state"] == "queued"
        await house.orchestrator.kill()
        seen = len(house.orchestrator.lines)
        await house.orchestrator.start()
        await house.orchestrator.logged("listening on", since=seen)
        await changed(house, "reload", "probing -> ready", new_model_ref=await house.model_id())
        await house.orchestrator.logged("pool other is ready", since=seen)
        await stream_of(house, "other", SEED)
        assert (await house.get(f"/v1/tasks/{waiting}"))["state"] == "queued"
    async with house.http.get(f"/v1/tasks/{waiting}/stream") as answer:
        events = parse_events(await answer.read())
    assert events[-1][0] == "end", events[-1]
    assert next(data for name, data in events if name == "started")["pool_id"] in {"trial", "twin"}
    assert text_of(events).encode() == expected.data

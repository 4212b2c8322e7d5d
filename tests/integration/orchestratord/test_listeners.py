"""Who listens to a task, over real sockets: what becomes of it when they leave, and when they come back."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.orchestratord.house import BODY, EVENT_STREAM, House, house, read_until, tokens_in, unattended
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.unit.orchestratord.frames import events_of, frames_of

STUCK = Knobs(fault=Fault.HANG, fault_after=5, tokens=100)
"""Five tokens, then silence until the client leaves."""
NO_GRACE, LONG_GRACE = 0, 60_000


@asynccontextmanager
async def stuck(
    folder: Path, grace_ms: int, knobs: Knobs = STUCK, slots: int = 4
) -> AsyncIterator[tuple[StandIn, House]]:
    async with (
        StandIn(knobs) as engine,
        house(folder, engine.url, disconnect_grace_ms=grace_ms, report={"slots": slots}) as here,
    ):
        yield engine, here


async def hang_up(here: House, body: dict[str, Any], *, rudely: bool, seen: bytes) -> None:
    """Send a task for its stream over a socket of our own, and leave once this much was seen."""
    host, port = here.url.removeprefix("http://").split(":")
    payload = msgspec.json.encode(body)
    head = f"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nAccept: {EVENT_STREAM}\r\n"
    head += f"Content-Length: {len(payload)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, (host, int(port)))
        await loop.sock_sendall(client, head.encode() + payload)
        got = b""
        while seen not in got:
            got += await loop.sock_recv(client, 65_536)
        if rudely:  # a reset in place of a farewell
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def state_of(here: House, task_id: str) -> str:
    return str((await here.get(f"/v1/tasks/{task_id}"))["state"])


@pytest.mark.req("HP-19")
@pytest.mark.parametrize("rudely", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    ("asked", "goes_on"),
    [
        ({}, False),
        ({"priority": "batch"}, True),
        ({"on_disconnect": "continue"}, True),
        ({"priority": "batch", "on_disconnect": "cancel"}, False),
    ],
    ids=["interactive", "batch", "continue", "batch that cancels"],
)
async def test_what_becomes_of_a_task_whose_only_listener_goes(
    tmp_path: Path, asked: dict[str, Any], goes_on: bool, rudely: bool
) -> None:
    async with stuck(tmp_path, NO_GRACE) as (engine, here):
        body = BODY | {"max_tokens": 100, "task_id": "t"} | asked
        await hang_up(here, body, rudely=rudely, seen=b'"i":4}')
        if goes_on:
            await here.stream(await here.submit(max_tokens=3))  # time enough for whatever would come
            assert (await state_of(here, "t"), engine.stats.cancelled) == ("running", 0)
            assert await here.cancel("t") == 204
        await engine.until(lambda stats: stats.cancelled >= 1)
        stream = await here.stream("t")
        assert frames_of(stream)[-1].data["finish_reason"] == "canceled"
        assert tokens_in(stream) == 5


@pytest.mark.req("HP-19")
async def test_one_who_returns_within_the_grace_period_misses_nothing_and_loses_nothing(tmp_path: Path) -> None:
    async with stuck(tmp_path, LONG_GRACE) as (engine, here):
        body = BODY | {"max_tokens": 100, "task_id": "t"}
        async with here.client.post("/v1/tasks", json=body, headers={"Accept": EVENT_STREAM}) as answer:
            got = await read_until(answer, lambda got: tokens_in(got) >= 2)
            answer.close()
        whole_events = got[: got.rfind(b"\n\n") + 2]
        seen = [frame.number for frame in frames_of(whole_events) if frame.number is not None][-1]
        async with here.client.get("/v1/tasks/t/stream", headers={"Last-Event-ID": str(seen)}) as again:
            rest = await read_until(again, lambda got: tokens_in(got) == 4 - seen) if seen < 4 else b""
            assert engine.stats.cancelled == 0
            assert await here.cancel("t") == 204
            rest += await again.read()
        assert whole_events + rest == await here.stream("t")


@pytest.mark.req("HP-19")
async def test_the_last_of_several_listeners_counts(tmp_path: Path) -> None:
    async with stuck(tmp_path, NO_GRACE) as (engine, here):
        task_id = await here.submit(max_tokens=100)
        path = f"/v1/tasks/{task_id}/stream"
        async with here.client.get(path) as stays:
            for _ in range(3):
                async with here.client.get(path) as goes:
                    await read_until(goes, lambda got: tokens_in(got) == 5)
                    goes.close()
            await read_until(stays, lambda got: tokens_in(got) == 5)
            assert (await state_of(here, task_id), engine.stats.cancelled) == ("running", 0)
            stays.close()
        await engine.until(lambda stats: stats.cancelled == 1)
        assert await state_of(here, task_id) == "canceled"


@pytest.mark.req("HP-19", "HP-08")
@pytest.mark.parametrize("priority", ["interactive", "batch"])
async def test_a_listener_that_goes_while_its_task_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, priority: str
) -> None:
    unattended(monkeypatch)
    async with stuck(tmp_path, NO_GRACE, slots=1) as (engine, here):
        running = await here.submit(max_tokens=100)
        await engine.until(lambda stats: stats.tokens == 5)
        body = BODY | {"task_id": "t", "priority": priority}
        await hang_up(here, body, rudely=False, seen=b"\r\n\r\n")
        if priority == "interactive":
            async with asyncio.timeout(20):
                while await state_of(here, "t") == "queued":  # to listen would be to come back
                    pass
            stream = await here.stream("t")
            assert events_of(stream) == ["end"]
            assert frames_of(stream)[-1].data["finish_reason"] == "canceled"
            assert engine.stats.requests == 1, "the engine never heard of it"
            await here.cancel(running)
        else:
            assert await state_of(here, "t") == "queued"
            engine.set(Knobs())
            await here.cancel(running)
            assert frames_of(await here.stream("t"))[-1].data["finish_reason"] == "length"


@pytest.mark.req("HP-19")
async def test_a_listener_that_goes_while_the_prompt_is_worked_on(tmp_path: Path) -> None:
    async with stuck(tmp_path, NO_GRACE, Knobs(first_token_delay_ms=60_000)) as (engine, here):
        task_id = await here.submit()
        await engine.until(lambda stats: stats.running == 1)
        async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
            answer.close()
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)
        assert await state_of(here, task_id) == "canceled"


@pytest.mark.req("HP-19")
async def test_a_task_that_nobody_ever_listened_to_runs_to_its_end(tmp_path: Path) -> None:
    """To leave one must have been there: a client that took its 202 may come for the answer whenever it likes."""
    async with stuck(tmp_path, NO_GRACE, Knobs(tokens=30, token_delay_ms=2, tokens_per_write=1)) as (engine, here):
        task_id = await here.submit(max_tokens=30)
        await engine.until(lambda stats: stats.completed == 1)
        stream = await here.stream(task_id)
        assert (events_of(stream)[-1], tokens_in(stream)) == ("end", 30)
        assert await state_of(here, task_id) == "done"


@pytest.mark.req("HP-19")
async def test_a_listener_that_goes_after_the_end_changes_nothing(tmp_path: Path) -> None:
    async with stuck(tmp_path, NO_GRACE, Knobs()) as (_, here):
        task_id = await here.submit()
        whole = await here.stream(task_id)
        async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
            answer.close()
        assert await here.stream(task_id) == whole
        assert await state_of(here, task_id) == "done"

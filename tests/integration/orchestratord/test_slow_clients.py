"""Clients that are too slow, too many, or say too much before they ask: they are cut off, and the others are served."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from contracts.config import Auth
from tests.integration.orchestratord.house import BODY, EVENT_STREAM, House, house, read_until, tokens_in
from tests.integration.orchestratord.wire import BRIEF_MS, HEALTH, LONG_MS, Wire, served_until, wire
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn

pytestmark = pytest.mark.req("OP-02")

BEGUN = b"GET /v1/pools HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
LINGERS = Knobs(fault=Fault.HANG, fault_after=3, tokens=10)


@asynccontextmanager
async def many(here: House, count: int, first: bytes = b"") -> AsyncIterator[list[Wire]]:
    """So many connections. ``first`` is sent as soon as one is open: from then on the time of its head runs."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(await stack.enter_async_context(wire(here)))
            await made[-1].send(first)
        yield made


# --- heads ------------------------------------------------------------------------------------------------------------


async def test_heads_that_never_end_are_cut_off_while_others_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with house(tmp_path, header_timeout_ms=LONG_MS, max_connections_per_client=300) as here:
        async with many(here, 200, BEGUN) as slow:
            for _ in range(11):
                async with here.client.get("/healthz") as answer:
                    assert answer.status == 200
            for each in slow:
                heard = await each.answer()
                assert (heard.status, heard.told["code"], heard.told["retriable"]) == (408, "INVALID_PARAMS", True)
                assert "header_timeout_ms" in heard.told["hint"]
                assert heard.headers["connection"] == "close"
                assert heard.headers["x-correlation-id"] == heard.told["correlation_id"]
                assert await each.rest() == b""
        async with many(here, 200, HEALTH) as others:  # their places are free again
            for each in others:
                assert (await each.answer()).status == 200
    assert [each.getMessage() for each in caplog.records if "cut off" in each.getMessage()] == [
        "127.0.0.1: cut off: slow head"
    ]


async def test_a_byte_now_and_then_gains_no_time(tmp_path: Path) -> None:
    async with house(tmp_path, header_timeout_ms=BRIEF_MS, max_header_bytes=1 << 20) as here, wire(here) as slow:
        await slow.send(BEGUN)
        async with asyncio.TaskGroup() as group:
            hearing = group.create_task(slow.answer())
            while not hearing.done():
                await slow.send(b"x")
                async with here.client.get("/healthz") as answer:  # which takes its time
                    assert answer.status == 200
        assert hearing.result().status == 408


async def test_who_says_nothing_hears_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, header_timeout_ms=300) as here, wire(here) as silent:
        assert await silent.rest() == b""


async def test_an_idle_connection_is_closed_without_a_word(tmp_path: Path) -> None:
    async with house(tmp_path, keep_alive_ms=300) as here, wire(here) as idle:
        await idle.send(HEALTH)
        assert (await idle.answer()).status == 200
        assert await idle.rest() == b""


async def test_a_second_head_has_its_time_too(tmp_path: Path) -> None:
    async with house(tmp_path, header_timeout_ms=BRIEF_MS) as here, wire(here) as slow:
        await slow.send(HEALTH + HEALTH + BEGUN)
        assert [(await slow.answer()).status for _ in range(2)] == [200, 200]
        await slow.send(b"x")
        assert (await slow.answer()).status == 408


@pytest.mark.parametrize(
    "head",
    [
        BEGUN + b"x" * 20_000 + b"\r\n\r\n",
        BEGUN + b"x" * 20_000,
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        BEGUN + b"".join(b"\r\nX-%d: %s" % (number, b"x" * 400) for number in range(60)) + b"\r\n\r\n",
        BEGUN + b"".join(b"\r\nX-%d: x" % number for number in range(150)) + b"\r\n\r\n",
    ],
    ids=["a field", "a field without end", "a path", "together", "many fields"],
)
@pytest.mark.parametrize("pieces", [1 << 20, 1_000], ids=["at once", "in pieces"])
async def test_a_head_that_is_too_large_is_431(tmp_path: Path, head: bytes, pieces: int) -> None:
    async with house(tmp_path) as here, wire(here) as client:
        for start in range(0, len(head), pieces):
            with contextlib.suppress(ConnectionError):
                await client.send(head[start : start + pieces])
            await asyncio.sleep(0)  # let the other end, in this very loop, have it
        heard = await client.answer()
        assert (heard.status, heard.told["code"]) == (431, "INVALID_PARAMS")
        assert "max_header_bytes" in heard.told["hint"]
        assert heard.headers["x-correlation-id"] == heard.told["correlation_id"]
        assert await client.rest() == b""


async def test_bytes_that_are_no_http_are_told_so_like_every_error(tmp_path: Path) -> None:
    async with house(tmp_path) as here, wire(here) as client:
        await client.send(b"what is this\r\n\r\n")
        heard = await client.answer()
        assert (heard.status, heard.told["code"]) == (400, "INVALID_PARAMS")
        assert heard.headers["x-correlation-id"] == heard.told["correlation_id"]


# --- bodies -----------------------------------------------------------------------------------------------------------


def posting(length: int) -> bytes:
    return b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length


async def test_a_body_that_does_not_come_is_cut_off_and_nothing_runs(tmp_path: Path) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url, body_timeout_ms=300) as here, wire(here) as slow:
        await slow.send(posting(1_000) + b'{"model_ref": "m"')
        heard = await slow.answer()
        assert (heard.status, heard.told["retriable"]) == (408, True)
        assert "body_timeout_ms" in heard.told["hint"]
        assert await slow.rest() == b""
        assert (await here.get("/v1/tasks"))["tasks"] == []


async def test_a_body_that_comes_on_has_all_the_time_it_needs(tmp_path: Path) -> None:
    body = b'{"model_ref": "m", "prompt": "hello", "max_tokens": 3}'
    async with StandIn() as engine, house(tmp_path, engine.url, body_timeout_ms=LONG_MS) as here, wire(here) as slow:
        await slow.send(posting(len(body)) + body[:10])
        for start in range(10, 50, 5):  # longer than the limit, and each pause is far shorter
            await served_until(here, asyncio.get_running_loop().time() + 0.6)
            await slow.send(body[start : start + 5])
        await slow.send(body[50:])
        assert (await slow.answer()).status == 202


async def test_a_body_that_nobody_reads_delays_no_answer(tmp_path: Path) -> None:
    async with house(tmp_path, token="t" * 20, body_timeout_ms=300) as here, wire(here) as client:
        await client.send(posting(1_000_000) + b"x" * 1_000)
        assert (await client.answer()).status == 401


async def test_no_limit_of_a_request_touches_a_stream(tmp_path: Path) -> None:
    async with (
        StandIn(LINGERS) as engine,
        house(
            tmp_path, engine.url, header_timeout_ms=BRIEF_MS, body_timeout_ms=BRIEF_MS, keep_alive_ms=BRIEF_MS
        ) as here,
    ):
        accept = {"Accept": EVENT_STREAM}
        async with here.client.post("/v1/tasks", json=BODY | {"task_id": "t"}, headers=accept) as answer:
            got = await read_until(answer, lambda got: tokens_in(got) == 3)
            await served_until(here, asyncio.get_running_loop().time() + 1.5 * BRIEF_MS / 1000)
            assert await here.cancel("t") == 204
            got += await answer.read()
        assert b"event: end" in got


# --- many connections -------------------------------------------------------------------------------------------------


async def test_a_client_has_so_many_connections_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with house(tmp_path, max_connections_per_client=5) as here, many(here, 5) as open_ones:
        for each in open_ones:
            await each.send(HEALTH)
            assert (await each.answer()).status == 200
        for _ in range(20):
            async with wire(here) as one_more:
                heard = await one_more.answer()
                assert (heard.status, heard.told["code"]) == (429, "ADMISSION_REJECT")
                assert heard.told["policy_label"] == "max_connections_per_client"
                assert heard.headers["retry-after"] == "1"
        await open_ones[0].send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await open_ones[0].rest()
        async with wire(here) as next_one:
            await next_one.send(HEALTH)
            assert (await next_one.answer()).status == 200
    assert len([each for each in caplog.records if "turned away" in each.getMessage()]) == 1


async def test_all_clients_together_have_so_many_connections(tmp_path: Path) -> None:
    trusting = Auth(optional=True, trust_proxy=True)
    bounded = house(tmp_path, auth=trusting, max_connections=5, max_connections_per_client=5)
    async with bounded as here, many(here, 5) as taken:
        for each in taken:
            await each.send(HEALTH)
            await each.answer()
        async with wire(here) as one_more:
            assert (await one_more.answer()).told["policy_label"] == "max_connections"


async def test_a_trusted_proxy_may_have_more_connections_than_a_client(tmp_path: Path) -> None:
    trusting = Auth(optional=True, trust_proxy=True)
    async with house(tmp_path, auth=trusting, max_connections_per_client=2) as here, many(here, 8) as proxy:
        for each in proxy:
            await each.send(HEALTH)
            assert (await each.answer()).status == 200


async def test_a_flood_of_connections_that_come_and_go_leaves_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, max_connections_per_client=50) as here:
        for _ in range(20):
            async with many(here, 40) as flood:
                for number, each in enumerate(flood):
                    if number % 2:
                        await each.send(BEGUN)
        async with many(here, 48) as others:
            for each in others:
                await each.send(HEALTH)
                assert (await each.answer()).status == 200


@pytest.mark.slow
async def test_one_machine_with_many_agents_reads_six_hundred_streams(tmp_path: Path) -> None:
    """With the limits that nobody has set."""
    async with StandIn(LINGERS) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit()
        asking = f"GET /v1/tasks/{task_id}/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        async with many(here, 600) as readers:
            for each in readers:
                await each.send(asking)
            for each in readers:
                assert (await each.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await here.cancel(task_id) == 204
            for each in readers:
                assert b"event: end" in await each.rest()

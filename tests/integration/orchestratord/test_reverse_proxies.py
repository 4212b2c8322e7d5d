"""The real nginx and the real Caddy in front, as examples/reverse-proxy has them: streams flow, leaving is noticed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from contracts.config import Auth
from daemon_core.steps import finished
from tests.integration.orchestratord.house import BODY, TOKEN, house, read_until, tokens_in
from tests.integration.orchestratord.proxies import AUTHORIZED, STREAM, proxy
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.support.stream_grammar import check

pytestmark = [
    pytest.mark.needs("curl"),
    pytest.mark.req("HP-11", "HP-19", "OP-02"),
    pytest.mark.slow,
    pytest.mark.parametrize("name", [pytest.param(each, marks=pytest.mark.needs(each)) for each in ("nginx", "caddy")]),
]

STUCK = Knobs(fault=Fault.HANG, fault_after=5, tokens=100)
ASKED = '{"model_ref": "m", "prompt": "hello", "max_tokens": 100}'
WRONG = {"Authorization": "Bearer a-wrong-token"}


async def test_tokens_come_while_the_engine_is_still_at_work(tmp_path: Path, name: str) -> None:
    async with (
        StandIn(STUCK) as engine,
        house(tmp_path, engine.url, token=TOKEN) as here,
        proxy(name, here, tmp_path) as front,
        front.client.post("/v1/tasks", json=BODY | {"max_tokens": 100}, headers=STREAM) as answer,
    ):
        assert answer.status == 200
        task_id = answer.headers["Location"].rpartition("/")[2]
        got = await read_until(answer, lambda got: tokens_in(got) == 5)  # the engine says no more
        here.orchestrator.cancel(here.orchestrator.get(task_id), "client")
        assert len(check(got + await answer.read()).tokens) == 5


@pytest.mark.parametrize("after", [0, 5], ids=["before the first token", "after it"])
async def test_a_client_that_hangs_up_frees_its_slot(tmp_path: Path, name: str, after: int) -> None:
    """Of nginx one that hangs up over TLS and HTTP/1.1 is noticed when it writes: at the next ping."""
    knobs = Knobs(first_token_delay_ms=60_000) if after == 0 else STUCK
    async with (
        StandIn(knobs) as engine,
        house(tmp_path, engine.url, token=TOKEN, disconnect_grace_ms=0, ping_interval_ms=300) as here,
        proxy(name, here, tmp_path) as front,
    ):
        async with front.client.post("/v1/tasks", json=BODY | {"max_tokens": 100}, headers=STREAM) as answer:
            await read_until(answer, lambda got: tokens_in(got) == after and b"event: started" in got)
            await engine.until(lambda stats: stats.running == 1)
            answer.close()
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)
        (task,) = finished(here.orchestrator.select(None, 10))
        assert task.state == "canceled"


async def test_http_2_streams_and_notices_who_leaves(tmp_path: Path, name: str) -> None:
    async with (
        StandIn(STUCK) as engine,
        house(tmp_path, engine.url, token=TOKEN, disconnect_grace_ms=0) as here,
        proxy(name, here, tmp_path) as front,
    ):
        async with front.curl("--data", ASKED, f"{front.url}/v1/tasks") as client:
            assert client.stdout is not None
            got = b""
            while got.count(b"event: token") < 5:
                more = await client.stdout.read(4096)
                assert more, got
                got += more
            assert got.startswith(b"HTTP/2 200")
            assert b"x-correlation-id: " in got
            client.kill()
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


async def test_a_task_that_waits_for_long_keeps_its_stream(tmp_path: Path, name: str) -> None:
    """Longer than nginx waits in silence: pings are what keeps the stream. Caddy waits as long as it takes.

    Nginx has a clock of its own, which goes on while we stand still: what it waits for us is more than that ever lasts.
    """
    shorter = {"proxy_read_timeout 60s": "proxy_read_timeout 5s"} if name == "nginx" else {}
    async with (
        StandIn(Knobs(first_token_delay_ms=6_500 if shorter else 500, tokens=8)) as engine,
        house(tmp_path, engine.url, token=TOKEN, ping_interval_ms=200) as here,
        proxy(name, here, tmp_path, **shorter) as front,
        front.client.post("/v1/tasks", json=BODY, headers=STREAM) as answer,
    ):
        assert len(check(await answer.read()).tokens) == 8


async def test_behind_the_proxy_nobody_is_local_by_accident(tmp_path: Path, name: str) -> None:
    auth = Auth(optional=True)
    async with house(tmp_path, token=TOKEN, auth=auth) as here, proxy(name, here, tmp_path) as front:
        async with here.client.get("/v1/pools") as answer:
            assert answer.status == 200
        async with front.client.get("/v1/pools") as answer:
            assert (answer.status, (await answer.json())["code"]) == (401, "MISSING_TOKEN")
        async with front.client.get("/v1/pools", headers=AUTHORIZED) as answer:
            assert answer.status == 200


async def test_a_client_cannot_take_another_address_to_try_more_tokens(tmp_path: Path, name: str) -> None:
    auth = Auth(trust_proxy=True, failures_per_minute=3)
    async with house(tmp_path, token=TOKEN, auth=auth) as here, proxy(name, here, tmp_path) as front:
        found = []
        for number in range(6):
            lying = WRONG | {"X-Forwarded-For": f"192.0.2.{number}"}
            async with front.client.get("/v1/pools", headers=lying) as answer:
                found.append(answer.status)
        assert found == [401] * 3 + [429] * 3


async def test_many_streams_of_a_trusted_proxy_are_no_single_client(tmp_path: Path, name: str) -> None:
    async with (
        StandIn(STUCK) as engine,
        house(
            tmp_path,
            engine.url,
            token=TOKEN,
            auth=Auth(trust_proxy=True),
            max_connections_per_client=8,
            report={"slots": 20},
        ) as here,
        proxy(name, here, tmp_path) as front,
        asyncio.TaskGroup() as group,
    ):
        sent = [group.create_task(front.client.post("/v1/tasks", json=BODY, headers=STREAM)) for _ in range(20)]
        await engine.until(lambda stats: stats.tokens >= 100)
        for each in sent:
            answer = await each
            assert answer.status == 200
            answer.close()

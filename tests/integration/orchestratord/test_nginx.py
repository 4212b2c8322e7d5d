"""The real nginx in front, with the very configuration of docs/reverse-proxy.md: streams flow, leaving is noticed."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from contracts.config import Auth
from tests.integration.orchestratord.house import BODY, EVENT_STREAM, TOKEN, House, house, read_until, tokens_in
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.support.certificates import authority_and_server
from tests.support.stream_grammar import check

pytestmark = [pytest.mark.needs("nginx", "curl"), pytest.mark.req("HP-11", "HP-19"), pytest.mark.slow]

PAGE = Path(__file__).parents[3] / "docs/reverse-proxy.md"
SERVED = "/etc/nginx/llm.lan"
STUCK = Knobs(fault=Fault.HANG, fault_after=5, tokens=100)
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
STREAM = AUTHORIZED | {"Accept": EVENT_STREAM}
AROUND = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{documented}
}}
"""


class Front:
    """nginx, and a client that believes its certificate."""

    def __init__(self, url: str, authority: Path, client: aiohttp.ClientSession) -> None:
        self.url = url
        self.authority = authority
        self.client = client

    @asynccontextmanager
    async def curl(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A client that speaks HTTP/2; it is gone when the block ends."""
        process = await asyncio.create_subprocess_exec(
            *("curl", "--http2", "--silent", "--include", "--no-buffer", "--cacert", str(self.authority)),
            *(part for name, value in STREAM.items() for part in ("--header", f"{name}: {value}")),
            *arguments,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@asynccontextmanager
async def nginx(here: House, folder: Path) -> AsyncIterator[Front]:
    """The real nginx before a house, configured as documented: only its ports and its files are the test's own."""
    match = re.search(r"^```nginx\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert match is not None
    authority, _ = authority_and_server(folder, "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mine = {
        "127.0.0.1:8080": here.url.removeprefix("http://"),
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        f"{SERVED}.pem": str(folder / "server.pem"),
        f"{SERVED}.key": str(folder / "server.pem"),
    }
    documented = match[1]
    for written, ours in mine.items():
        assert written in documented
        documented = documented.replace(written, ours)
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user, documented=documented))
    process = await asyncio.create_subprocess_exec(
        *("nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    said = b""
    try:
        while b"start worker process " not in said:
            line = await process.stderr.readline()
            assert line, said.decode()
            said += line
        trusted = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(authority)))
        async with aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=trusted) as client:
            yield Front(f"https://127.0.0.1:{port}", authority, client)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_tokens_come_while_the_engine_is_still_at_work(tmp_path: Path) -> None:
    async with (
        StandIn(STUCK) as engine,
        house(tmp_path, engine.url, token=TOKEN) as here,
        nginx(here, tmp_path) as front,
        front.client.post("/v1/tasks", json=BODY | {"max_tokens": 100}, headers=STREAM) as answer,
    ):
        assert answer.status == 200
        task_id = answer.headers["Location"].rpartition("/")[2]
        got = await read_until(answer, lambda got: tokens_in(got) == 5)  # the engine says no more
        here.orchestrator.cancel(here.orchestrator.get(task_id), "client")
        assert len(check(got + await answer.read()).tokens) == 5


@pytest.mark.parametrize("after", [0, 5], ids=["before the first token", "after it"])
async def test_a_client_that_hangs_up_frees_its_slot(tmp_path: Path, after: int) -> None:
    knobs = Knobs(first_token_delay_ms=60_000) if after == 0 else STUCK
    async with (
        StandIn(knobs) as engine,
        house(tmp_path, engine.url, token=TOKEN, disconnect_grace_ms=0) as here,
        nginx(here, tmp_path) as front,
    ):
        async with front.client.post("/v1/tasks", json=BODY | {"max_tokens": 100}, headers=STREAM) as answer:
            await read_until(answer, lambda got: tokens_in(got) == after and b"event: started" in got)
            await engine.until(lambda stats: stats.running == 1)
            answer.close()
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)
        (task,) = here.orchestrator.select(None, 10)
        assert task.state == "canceled"


async def test_http_2_streams_and_notices_who_leaves(tmp_path: Path) -> None:
    async with (
        StandIn(STUCK) as engine,
        house(tmp_path, engine.url, token=TOKEN, disconnect_grace_ms=0) as here,
        nginx(here, tmp_path) as front,
    ):
        body = '{"model_ref": "m", "prompt": "hello", "max_tokens": 100}'
        async with front.curl("--data", body, f"{front.url}/v1/tasks") as client:
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


async def test_behind_the_proxy_nobody_is_local_by_accident(tmp_path: Path) -> None:
    auth = Auth(optional=True)
    async with house(tmp_path, token=TOKEN, auth=auth) as here, nginx(here, tmp_path) as front:
        async with here.client.get("/v1/pools") as answer:
            assert answer.status == 200
        async with front.client.get("/v1/pools") as answer:
            assert (answer.status, (await answer.json())["code"]) == (401, "MISSING_TOKEN")
        async with front.client.get("/v1/pools", headers=AUTHORIZED) as answer:
            assert answer.status == 200

"""Real reverse proxies before a house, with the very configurations of examples/reverse-proxy."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp

from tests.integration.orchestratord.house import EVENT_STREAM, TOKEN, House
from tests.support.certificates import authority_and_server
from tests.support.ports import HeldPort

EXAMPLES = Path(__file__).parents[3] / "examples/reverse-proxy"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
STREAM = AUTHORIZED | {"Accept": EVENT_STREAM}
AROUND_NGINX = """
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
AROUND_CADDY = """
{{
	admin off
	auto_https disable_redirects
	storage file_system {folder}/caddy
	servers {{
		protocols h1 h2
	}}
}}
{documented}
"""


class Front:
    """A proxy, and a client that believes its certificate."""

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
async def proxy(name: str, here: House, folder: Path, **changes: str) -> AsyncIterator[Front]:
    """Nginx or caddy, configured as documented: only ports, files and ``changes`` are the test's own."""
    make = {"nginx": nginx, "caddy": caddy}[name]
    with closing(HeldPort()) as held:
        async with make(here, folder, held.number, changes) as front:
            yield front


@asynccontextmanager
async def nginx(here: House, folder: Path, port: int, changes: Mapping[str, str]) -> AsyncIterator[Front]:
    documented = adapted(
        "nginx.conf",
        {
            "127.0.0.1:8080": here.url.removeprefix("http://"),
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/nginx/llm.lan.pem": str(folder / "cert.pem"),
            "/etc/nginx/llm.lan.key": str(folder / "key.pem"),
        }
        | dict(changes),
    )
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND_NGINX.format(folder=folder, user=user, documented=documented))
    command = ("nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"))
    async with running(command, b"start worker process ", folder, port) as front:
        yield front


@asynccontextmanager
async def caddy(here: House, folder: Path, port: int, changes: Mapping[str, str]) -> AsyncIterator[Front]:
    documented = adapted(
        "Caddyfile",
        {
            "127.0.0.1:8080": here.url.removeprefix("http://"),
            "\nllm.lan {": f"\nhttps://127.0.0.1:{port} {{",
            "/etc/caddy/llm.lan.pem": str(folder / "cert.pem"),
            "/etc/caddy/llm.lan.key": str(folder / "key.pem"),
        }
        | dict(changes),
    )
    (folder / "Caddyfile").write_text(AROUND_CADDY.format(folder=folder, documented=documented))
    command = ("caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile")
    async with running(command, b"serving initial configuration", folder, port) as front:
        yield front


@asynccontextmanager
async def running(command: Sequence[str], ready: bytes, folder: Path, port: int) -> AsyncIterator[Front]:
    authority, _ = authority_and_server(folder, "127.0.0.1")
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=environ)
    assert process.stderr is not None
    said = b""
    try:
        while ready not in said:
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


def adapted(name: str, mine: Mapping[str, str]) -> str:
    """An example with the test's own ports and files; each of them has to stand in it."""
    text = (EXAMPLES / name).read_text()
    for written, ours in mine.items():
        assert written in text, f"{name} has no {written!r}"
        text = text.replace(written, ours)
    return text

"""What is measured: the engine itself, nginx before it, and llama-orch before it. Each is started once for all rounds.

Decides how each is set up: nginx unbuffered with one worker, as one would for streaming; llama-orch with both real
daemons and the engine as an external pool, with logs as in production.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import aiohttp

from bench import procfs
from bench.load import Target

TOKEN = "bench"  # noqa: S105 - guards a server on loopback for the length of a run
READY_S = 20.0
MAX_STREAMS = 1024
MAX_TOKENS = 1_000_000
_HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
_ENGINE_BODY = b'{"prompt":"hi","stream":true,"n_predict":@TOKENS@,"seed":0}'
_ENGINE_TOKEN = b'"stop":false'
_OUR_BODY = b'{"model_ref":"bench","prompt":"hi","max_tokens":@TOKENS@,"seed":0,"priority":"interactive"}'
_OUR_TOKEN = b"event: token"


@dataclass(frozen=True)
class System:
    """One thing to measure, and the processes that it costs."""

    target: Target
    pids: tuple[int, ...]


@asynccontextmanager
async def running(folder: Path, tokens_per_write: int) -> AsyncIterator[list[System]]:
    """All systems, up for the length of the block; nginx only where it is installed.

    ``tokens_per_write``: how many tokens the engine hands to the kernel at once.
    """
    knobs = json.dumps({"tokens": MAX_TOKENS, "slots": MAX_STREAMS, "tokens_per_write": tokens_per_write})
    command = (sys.executable, "-m", "tests.standin", "--port", "0", "--knobs", knobs)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(_process(*command, stderr=asyncio.subprocess.PIPE))
        port = await _announced_port(engine)
        head = _HEAD.format(path="/completion").encode()
        systems = [System(Target("direct", port, head, _ENGINE_BODY, _ENGINE_TOKEN), (engine.pid,))]
        if shutil.which("nginx"):
            nginx_port = free_port()
            nginx = await stack.enter_async_context(_nginx(folder, nginx_port, port))
            workers = await _with_worker(nginx)
            target = Target("nginx", nginx_port, head, _ENGINE_BODY, _ENGINE_TOKEN, cuts_events=True)
            systems.append(System(target, workers))
        systems.append(await stack.enter_async_context(_llama_orch(folder, port)))
        yield systems


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def _process(*command: str, stderr: int | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*command, stderr=stderr)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _announced_port(process: asyncio.subprocess.Process) -> int:
    said = cast("asyncio.StreamReader", process.stderr)
    async with asyncio.timeout(READY_S):
        async for line in said:
            if b"listening on http://127.0.0.1:" in line:
                return int(line.decode().split("listening on http://127.0.0.1:")[1].split()[0].strip("/"))
    message = "the stand-in engine did not say where it listens"
    raise RuntimeError(message)


@asynccontextmanager
async def _nginx(folder: Path, port: int, upstream: int) -> AsyncIterator[asyncio.subprocess.Process]:
    root = folder / "nginx"
    root.mkdir()
    temp = "".join(f"{name}_temp_path {root}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (root / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log; worker_rlimit_nofile 8192;"
        f"events {{ worker_connections 4096; }} http {{ access_log off; {temp}"
        f"upstream engine {{ server 127.0.0.1:{upstream}; keepalive {MAX_STREAMS}; }}"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://engine;"
        f'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;'
        "proxy_buffer_size 64k; proxy_buffers 4 64k; } } }"
    )
    async with _process("nginx", "-c", str(root / "nginx.conf"), "-p", str(root)) as process:
        await _reachable(port)
        yield process


async def _with_worker(nginx: asyncio.subprocess.Process) -> tuple[int, ...]:
    """The processes of nginx, once its worker is there: the first one listens before it starts the second."""
    async with asyncio.timeout(READY_S):
        while True:
            pids = procfs.tree(nginx.pid)
            if len(pids) > 1:
                return tuple(pids)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _llama_orch(folder: Path, upstream: int) -> AsyncIterator[System]:
    port, config = free_port(), folder / "config.json"
    pool = {
        "id": "bench",
        "engine": "llamacpp",
        "model": "bench",
        "ctx": 2 * MAX_TOKENS,
        "slots": MAX_STREAMS,
        "queue": {"capacity": MAX_STREAMS},
        "provisioning": {"mode": "external", "external": {"url": f"http://127.0.0.1:{upstream}"}},
    }
    limits = {"bind": f"127.0.0.1:{port}", "max_streams_per_client": MAX_STREAMS}
    config.write_text(json.dumps({"profile": "trial", "server": limits, "pools": [pool]}))
    environ = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run"), "LLORCH_API_TOKEN": TOKEN}
    logs = folder / "daemons.log"
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(_daemon("pool_managerd", config, logs, environ))
        ours = await stack.enter_async_context(_daemon("orchestratord", config, logs, environ))
        await _pool_ready(port)
        extra = f"Authorization: Bearer {TOKEN}\r\nAccept: text/event-stream\r\n"
        head = (_HEAD.format(path="/v1/tasks") + extra).encode()
        target = Target("llama-orch", port, head, _OUR_BODY, _OUR_TOKEN)
        del manager  # it takes no part in a generation; what it costs is not the relay's
        yield System(target, (ours.pid,))


@asynccontextmanager
async def _daemon(
    module: str, config: Path, logs: Path, environ: dict[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    with logs.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, "--config", str(config), stderr=sink, env=os.environ | environ
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _reachable(port: int) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def _pool_ready(port: int) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    await _reachable(port)
    async with asyncio.timeout(READY_S), aiohttp.ClientSession(headers=headers) as session:
        while True:
            async with session.get(f"http://127.0.0.1:{port}/v1/pools/bench/health") as response:
                if (await response.json())["ready"]:
                    return
            await asyncio.sleep(0.02)

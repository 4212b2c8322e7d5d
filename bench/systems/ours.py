"""llama-orch before its engines: both real daemons, each engine as an external pool, logs as in production."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp

from bench.load import Target
from bench.processes import READY_S, free_port, process, reachable
from bench.systems.base import MAX_STREAMS, MAX_TOKENS, POST, System
from bench.systems.engine import Engine
from contracts.config import Durability

TOKEN = "a-token-for-the-length-of-a-run"  # noqa: S105 - guards a server on loopback
WITHOUT_UVLOOP = (
    "import runpy, sys; sys.modules['uvloop'] = None; runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)
"""A daemon uses uvloop where it is installed; so it runs as if it were not."""
BODY = b'{"model_ref":"@MODEL@","prompt":"hi","max_tokens":@TOKENS@,"seed":0,"priority":"interactive"}'


def task_target(port: int, model: str = "bench") -> Target:
    """``POST /v1/tasks`` with the stream as its answer."""
    extra = f"Authorization: Bearer {TOKEN}\r\nAccept: text/event-stream\r\n"
    head = (POST.format(path="/v1/tasks") + extra).encode()
    return Target("llama-orch", port, head, BODY.replace(b"@MODEL@", model.encode()), b"event: token")


@dataclass(frozen=True)
class PoolOf:
    """A pool to configure: its id is also the name of its model."""

    name: str
    url: str
    slots: int
    ctx: int
    queue: int = 4 * MAX_STREAMS


@dataclass(frozen=True)
class Daemons:
    """Both of them, running."""

    port: int
    orchestratord: int
    manager: int

    def target(self, model: str) -> Target:
        """Where tasks for a model are sent."""
        return task_target(self.port, model)

    def session(self) -> aiohttp.ClientSession:
        """A client of the API."""
        return aiohttp.ClientSession(f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {TOKEN}"})

    async def ready(self, *pools: str) -> None:
        """Wait until these pools can be given tasks."""
        await reachable(self.port)
        async with asyncio.timeout(READY_S), self.session() as session:
            for pool in pools:
                while True:
                    async with session.get(f"/v1/pools/{pool}/health") as response:
                        if (await response.json())["ready"]:
                            break
                    await asyncio.sleep(0.02)


@asynccontextmanager
async def daemons(
    folder: Path, pools: list[PoolOf], *, uvloop: bool, durability: Durability = Durability.PROCESS
) -> AsyncIterator[Daemons]:
    """Both daemons for the length of the block; it begins when they were started, not when they are ready."""
    port = free_port()
    config = _written(folder, _config(port, pools, durability))
    environ = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run"), "LLORCH_API_TOKEN": TOKEN}
    async with AsyncExitStack() as stack:
        pids = []
        for module in ("pool_managerd", "orchestratord"):
            command = (*_command(module, uvloop=uvloop), "--config", str(config))
            started = process(*command, log=folder / f"{module}.log", environ=environ)
            pids.append((await stack.enter_async_context(started)).pid)
        yield Daemons(port, orchestratord=pids[1], manager=pids[0])


@asynccontextmanager
async def ours(folder: Path, engine: Engine, name: str, pools: list[PoolOf], *, uvloop: bool) -> AsyncIterator[System]:
    """The relay as a system; what its manager costs is not the relay's, as it takes no part in a generation."""
    async with daemons(folder, pools, uvloop=uvloop) as running:
        await running.ready(*(pool.name for pool in pools))
        yield System(replace(running.target("bench"), name=name), engine, (running.orchestratord,))


def _command(module: str, *, uvloop: bool) -> tuple[str, ...]:
    return (sys.executable, "-m", module) if uvloop else (sys.executable, "-c", WITHOUT_UVLOOP, module)


def _written(folder: Path, config: Mapping[str, object]) -> Path:
    folder.mkdir()
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def _config(port: int, pools: list[PoolOf], durability: Durability) -> Mapping[str, object]:
    made = [
        {
            "id": pool.name,
            "engine": "llamacpp",
            "model": pool.name,
            "ctx": pool.ctx,
            "slots": pool.slots,
            "queue": {"capacity": pool.queue},
            "provisioning": {"mode": "external", "external": {"url": pool.url}},
        }
        for pool in pools
    ]
    server = {"bind": f"127.0.0.1:{port}", "max_streams_per_client": 4 * MAX_STREAMS}
    return {"profile": "trial", "server": server, "store": {"durability": durability}, "pools": made}


def fast(engine: Engine) -> PoolOf:
    """The pool that the hot rows use."""
    return PoolOf("bench", engine.url, MAX_STREAMS, 2 * MAX_TOKENS)

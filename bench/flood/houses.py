"""Two replicas behind both real daemons, whose engines can be killed: real llama.cpp, or the stand-in of the tests.

Decides how each is set up. The daemons and engines are ended here, by their ids, on every way out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from bench.flood.watched import POOLS, Note
from bench.processes import announced_port, ended, free_port, process, reachable
from tests.support.ports import HeldPort

TOKEN = "a-token-for-the-length-of-a-flood"  # noqa: S105 - guards a server on loopback
READY_S = 60.0
CAPACITY = 10_000
GRACE_MS = 300
"""So long an interactive task goes on after its last reader has left."""


@dataclass
class House:
    """A running installation."""

    port: int
    model: str
    twin: str
    """Another model, which nobody asks for."""
    batch_share: float
    book: Path
    kill: Callable[[str], Awaitable[bool]]
    """Kill the engine of a pool, if it has one right now; whether it had."""

    def session(self) -> aiohttp.ClientSession:
        """A client of the API that opens as many connections as it needs."""
        return aiohttp.ClientSession(
            f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    def notes(self) -> list[Note]:
        """The book; it is there once the daemon has ended."""
        return msgspec.json.decode(self.book.read_bytes(), type=list[Note])


class StandInEngine:
    """A stand-in that somebody else than pool-managerd runs, on the same port whenever it is started."""

    def __init__(self, slots: int, token_delay_ms: float) -> None:
        self._slots = slots
        self._knobs = {"slots": slots, "token_delay_ms": token_delay_ms, "first_token_delay_ms": 2}
        self._running: Process | None = None
        self._held = HeldPort()  # while it is dead, too: nobody else is to get it then
        self._port = self._held.number

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        command = (sys.executable, "-m", "tests.standin", "--uvloop", "--knobs", json.dumps(self._knobs))
        self._running = await asyncio.create_subprocess_exec(
            *command, "--port", str(self._port), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        self._port = await announced_port(self._running)

    async def kill(self) -> None:
        """End it without a word."""
        if self._running is not None:
            self._running.kill()
            await self._running.wait()

    async def end(self) -> None:
        """End it, if it runs."""
        if self._running is not None:
            await ended(self._running)
        self._held.close()

    def pool(self) -> dict[str, object]:
        """The pool that leads to it."""
        return {
            "model": "standin",
            "slots": self._slots,
            "ctx": 100_000,
            "provisioning": {"mode": "external", "external": {"url": f"http://127.0.0.1:{self._port}"}},
        }


@asynccontextmanager
async def real(folder: Path, model: Path, slots: int, batch_share: float = 0.0) -> AsyncIterator[House]:
    """Two llama.cpp servers, started and restarted by pool-managerd."""
    twin = model.with_stem("twin")
    twin.write_bytes(model.read_bytes())  # noqa: ASYNC240 - nothing else runs yet
    pools = [
        {
            "model": str(model),
            "slots": slots,
            "ctx": 512 * slots,
            "flags": ["--threads", "1"],
            "provisioning": {"mode": "package", "package": {"name": "xllamacpp"}},
            "restart": {"initial_ms": 50, "max_ms": 200, "max_failures": 1_000},
        }
    ] * len(POOLS)

    async def kill(pool_id: str) -> bool:
        try:
            pid = int((folder / "run" / "llama-orch" / f"{pool_id}.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, IndexError):
            return False
        return True

    async with _daemons(folder, pools, batch_share, (str(model), str(twin)), kill) as house:
        yield house


@asynccontextmanager
async def stand_in(folder: Path, slots: int, token_delay_ms: float, batch_share: float = 0.0) -> AsyncIterator[House]:
    """Two stand-ins that somebody else runs: they are started anew here, on the same port."""
    engines = {pool_id: StandInEngine(slots, token_delay_ms) for pool_id in POOLS}

    async def kill(pool_id: str) -> bool:
        await engines[pool_id].kill()
        await engines[pool_id].start()
        return True

    try:
        for engine in engines.values():
            await engine.start()
        pools = [engine.pool() for engine in engines.values()]
        async with _daemons(folder, pools, batch_share, ("standin", "twin"), kill) as house:
            yield house
    finally:
        for engine in engines.values():
            await engine.end()


@asynccontextmanager
async def _daemons(
    folder: Path,
    pools: Sequence[Mapping[str, object]],
    batch_share: float,
    models: tuple[str, str],
    kill: Callable[[str], Awaitable[bool]],
) -> AsyncIterator[House]:
    port, book = free_port(), folder / "book.json"
    folder.mkdir(parents=True)  # noqa: ASYNC240 - nothing else runs yet
    queue = {"capacity": CAPACITY, "batch_share": batch_share}
    document = {
        "profile": "trial",
        "server": {
            "bind": f"127.0.0.1:{port}",
            "max_streams_per_client": 4_096,
            "disconnect_grace_ms": GRACE_MS,
            "ping_interval_ms": 3_600_000,  # one who waits for long would read what one who comes later does not
            "keep_finished": 50_000,
        },
        "sessions": {"max_turns": 100_000},
        "pools": [
            {"id": pool_id, "engine": "llamacpp", "queue": queue, **pool}
            for pool_id, pool in zip(POOLS, pools, strict=True)
        ],
    }
    config = folder / "config.json"  # JSON is YAML
    config.write_text(json.dumps(document))
    environ = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run"), "LLORCH_API_TOKEN": TOKEN}
    async with AsyncExitStack() as stack:
        for name, command in (
            ("pool_managerd", ("pool_managerd",)),
            ("orchestratord", ("bench.flood.watched", str(book))),
        ):
            started = process(
                *(sys.executable, "-m", *command, "--config", str(config)), log=folder / f"{name}.log", environ=environ
            )
            await stack.enter_async_context(started)
        house = House(port, *models, batch_share, book, kill)
        await _ready(house)
        yield house


async def _ready(house: House) -> None:
    await reachable(house.port)
    async with asyncio.timeout(READY_S), house.session() as session:
        for pool_id in POOLS:
            while True:
                async with session.get(f"/v1/pools/{pool_id}/health") as response:
                    if (await response.json()).get("ready"):
                        break
                await asyncio.sleep(0.05)

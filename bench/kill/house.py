"""Both real daemons with three pools, each part of which can be killed and is started again at once.

Two pools have real llama.cpp servers with one slot each, which pool-managerd starts; the third has the tests' stand-in,
which is somebody else's. Decides how they are set up and killed, and never when. What is started here ends here.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from bench.flood.houses import StandInEngine
from bench.processes import as_installed
from tests.support.installation import Daemon
from tests.support.ports import HeldPort
from tests.support.tiny_gguf import write_tiny_gguf

TOKEN = "a-token-for-the-length-of-a-run"  # noqa: S105 - guards a server on loopback
LLAMAS = ("one", "two")
SHARED = "shared"
POOLS = (*LLAMAS, SHARED)


class House:
    """The installation. Use ``house``."""

    def __init__(self, folder: Path, model: Path, standin: StandInEngine, port: int) -> None:
        self.folder = folder
        self.model = str(model)
        self.port = port
        self.standin = standin
        self.narrow = folder / "narrow.json"
        """A configuration with which all that has ended is too old and too much."""
        environ = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run"), "LLORCH_API_TOKEN": TOKEN}
        self.environ = as_installed({**os.environ, **environ})
        config = folder / "config.json"
        self.manager = Daemon("pool_managerd", config, self.environ)
        self.orchestrator = Daemon("orchestratord", config, self.environ)
        self.runs = 0
        """How often orchestratord has begun to listen."""
        self._news = asyncio.Condition()

    @property
    def store(self) -> Path:
        """The file of tasks."""
        return self.folder / ".local" / "share" / "llama-orch" / "tasks.sqlite3"

    def session(self) -> aiohttp.ClientSession:
        """A client of the API; each request has a connection of its own, so that none is met by a dead one."""
        return aiohttp.ClientSession(
            f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def serve(self, *instead: str) -> None:
        """Start orchestratord, or another program in its place, and wait until it listens."""
        since = len(self.orchestrator.lines)
        await self.orchestrator.start(*instead)
        await self.orchestrator.logged("listening on", since=since)
        async with self._news:
            self.runs += 1
            self._news.notify_all()

    async def served_again(self, run: int) -> None:
        """Wait until orchestratord listens anew after its run of this number."""
        async with self._news:
            await self._news.wait_for(lambda: self.runs > run)

    async def ready(self, since: int = 0) -> None:
        """Wait until orchestratord says of every pool that it is ready."""
        for pool_id in POOLS:
            await self.orchestrator.logged(f"pool {pool_id} is ready", since=since)

    def kill_engine(self, pool_id: str) -> bool:
        """Kill the engine of a pool, if it has one right now; whether it had."""
        try:
            pid = int((self.folder / "run" / "llama-orch" / f"{pool_id}.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return False
        if pid not in self.engines():  # it has ended, and the number may be somebody else's
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    def engines(self) -> list[int]:
        """The processes that have our model in their command line: every engine that lives, whoever knows of it."""
        return [pid for pid, command in _commands() if self.model in command]

    def descriptors(self) -> tuple[int, int]:
        """How many file descriptors orchestratord and pool-managerd have open."""
        counts = [len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())) for daemon in (self.orchestrator, self.manager)]
        return counts[0], counts[1]

    def on_disk(self) -> dict[str, int]:
        """The files of the task store, and their sizes."""
        return {path.name: path.stat().st_size for path in self.store.parent.glob(f"{self.store.name}*")}


def _commands() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_text(errors="replace")
            except OSError:  # it has ended meanwhile
                continue


@asynccontextmanager
async def house(folder: Path, durability: str = "process") -> AsyncIterator[House]:
    """A running installation whose pools are ready."""
    folder.mkdir(parents=True)  # noqa: ASYNC240 - nothing else runs yet
    model = write_tiny_gguf(folder / "model.gguf", layers=4, dim=256, ctx=512)
    standin = StandInEngine(slots=8, token_delay_ms=1.0)
    await standin.start()
    held = HeldPort()  # between two lives of orchestratord nobody else is to get it
    made = House(folder, model, standin, held.number)
    document = _document(made, durability)
    (folder / "config.json").write_text(json.dumps(document))  # JSON is YAML
    document["server"]["keep_finished"] = 1
    document["store"]["max_age_ms"] = 1
    made.narrow.write_text(json.dumps(document))
    try:
        await made.manager.start()
        await made.serve()
        await made.ready()
        yield made
    finally:
        await made.orchestrator.close()
        await made.manager.close()
        await standin.end()
        held.close()
        for pid in made.engines():
            os.kill(pid, signal.SIGKILL)


def _document(made: House, durability: str) -> dict[str, Any]:
    llama = {
        "model": made.model,
        "ctx": 512,
        "flags": ["--threads", "1"],
        "provisioning": {"mode": "package", "package": {"name": "xllamacpp"}},
        "restart": {"initial_ms": 50, "max_ms": 200, "max_failures": 1_000},
    }
    kinds = {**dict.fromkeys(LLAMAS, llama), SHARED: made.standin.pool()}
    return {
        "profile": "trial",
        "server": {
            "bind": f"127.0.0.1:{made.port}",
            "max_streams_per_client": 4_096,
            "disconnect_grace_ms": 3_600_000,  # nobody is given up because a daemon died
            "keep_finished": 100_000,
        },
        "store": {"durability": durability},
        "sessions": {"max_turns": 100_000},
        "pools": [
            {"id": pool_id, "engine": "llamacpp", "queue": {"capacity": 10_000}, **pool}
            for pool_id, pool in kinds.items()
        ],
    }

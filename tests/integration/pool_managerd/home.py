"""A user's home with one pool, and as many managers as a test starts in it, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from contracts.pools import PoolSnapshot, PoolState
from contracts.rpc import MAX_FRAME_BYTES, PoolSet
from pool_managerd import proc
from tests.integration.pool_managerd.support import Peer
from tests.support.installation import Daemon


class Follower:
    """A subscriber that remembers every snapshot of the one pool."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.history: list[PoolSnapshot] = []

    async def reached(self, state: PoolState) -> PoolSnapshot:
        """Read until the pool is in this state; what was read before does not count."""
        async with asyncio.timeout(30):
            while True:
                frame = await self.peer.read()
                if frame.get("method") == "pool.changed":
                    self.history.append(msgspec.convert(frame["params"], PoolSnapshot))
                    if self.history[-1].state is state:
                        return self.history[-1]

    def states(self) -> list[str]:
        return list(dict.fromkeys(str(seen.state) for seen in self.history))


class Home:
    """A user's directories and configuration, with as many managers as a test starts."""

    def __init__(
        self, root: Path, model: Path, profile: str = "trial", env: Mapping[str, str] | None = None, **pool: object
    ) -> None:
        self.root = root
        self.run = root / "run" / "llama-orch"
        self.state = root / ".local" / "state" / "llama-orch"
        self.config = root / "config.json"  # JSON is YAML
        self.document: dict[str, Any] = {
            "profile": profile,
            "pools": [
                {
                    "id": "trial",
                    "engine": "llamacpp",
                    "model": str(model),
                    "ctx": 512,
                    "provisioning": {"mode": "package", "package": {"name": "xllamacpp"}},
                    "restart": {"initial_ms": 20, "max_ms": 50, "max_failures": 3},
                    **pool,
                }
            ],
        }
        self.write()
        kept = {
            name: os.environ[name]
            for name in ("PATH", "LANG", "PYTHONPATH", "PYTHONWARNINGS", "LLAMA_ORCH_TEST_RUN")
            if name in os.environ
        }
        self.environ = {**kept, "HOME": str(root), "XDG_RUNTIME_DIR": str(root / "run"), "HF_TOKEN": "hf-of-a-test"}
        self.environ |= env or {}
        self.managers: list[Daemon] = []

    def write(self) -> None:
        self.config.write_text(json.dumps(self.document))

    async def start(self) -> Daemon:
        """Start a manager; it listens when this returns."""
        manager = await self.launch()
        await manager.logged("listening on")
        return manager

    async def launch(self) -> Daemon:
        self.managers.append(Daemon("pool_managerd", self.config, self.environ))
        return await self.managers[-1].start()

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[Follower]:
        """Subscribe."""
        peer = Peer(*await asyncio.open_unix_connection(self.run / "pool-managerd.sock", limit=MAX_FRAME_BYTES))
        try:
            await peer.hello()
            first = await peer.call("subscribe")
            follower = Follower(peer)
            follower.history += msgspec.convert(first["result"], PoolSet).pools
            yield follower
        finally:
            peer.writer.close()

    async def ready(self) -> PoolSnapshot:
        async with self.follow() as follower:
            last = follower.history[-1]
            return last if last.ready else await follower.reached(PoolState.READY)

    def engine(self) -> int:
        return int((self.run / "trial.pid").read_text())


def marked(home: Home) -> set[int]:
    """The pids of all processes that carry one of this home's handle files."""
    handles = str(home.state / "handles")
    return {seen.pid for seen in proc.processes() if seen.marker is not None and seen.marker.startswith(handles)}

"""What the tests here share: children that behave as asked, and a plain JSON-RPC client."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from contracts.rpc import PROTOCOL
from daemon_core.redaction import Redactor
from pool_managerd.engine_log import EngineLog
from pool_managerd.process import SpawnSpec


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def log_at(path: Path) -> EngineLog:
    return EngineLog(path, "gpu0", Redactor())


def python(code: str, marker: Path, **env: str) -> SpawnSpec:
    """A child that runs some Python and inherits what the guard against leftovers needs."""
    output = str(marker.with_suffix(".out"))
    return SpawnSpec(argv=(sys.executable, "-c", code), env={**os.environ, **env}, marker=str(marker), output=output)


class Peer:
    """A client that says exactly what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.told: deque[dict[str, Any]] = deque()
        """Notifications that came before the answer to a call."""

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def read(self) -> dict[str, Any]:
        return dict(msgspec.json.decode(await self.reader.readuntil()))

    async def next_told(self) -> dict[str, Any]:
        """The next notification, also one that came while an answer was awaited."""
        return self.told.popleft() if self.told else await self.read()

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        document = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
        await self.send(msgspec.json.encode(document) + b"\n")
        while "method" in (frame := await self.read()):
            self.told.append(frame)
        return frame

    async def hello(self, protocol: str = PROTOCOL) -> dict[str, Any]:
        return await self.call("hello", protocol=protocol, name="test", version="0")

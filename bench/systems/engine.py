"""The engine behind all that is measured: the stand-in of the tests, as fast as it can write, or at a given pace."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import msgspec

from bench.processes import announced_port, process
from tests.standin.knobs import Knobs, Stats, Times


@dataclass(frozen=True)
class Engine:
    """A running stand-in."""

    port: int
    pid: int
    usual: Knobs

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def set(self, **changes: object) -> None:
        """Behave so from the next request on; what is not named is as at its start."""
        knobs = msgspec.structs.replace(self.usual, **changes)
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/_knobs", data=_encode(knobs)):
            pass

    async def times(self) -> list[Times]:
        """When its latest generations came, began and ended."""
        return msgspec.json.decode(await self._get("/_times"), type=list[Times])

    async def stats(self) -> Stats:
        """What it counted."""
        return msgspec.json.decode(await self._get("/_stats"), type=Stats)

    async def until_taken(self) -> None:
        """Wait until a generation has a slot."""
        while not (await self.stats()).running:  # noqa: ASYNC110 - another process has no event of ours
            await asyncio.sleep(0.002)

    async def _get(self, path: str) -> bytes:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return await response.read()


@asynccontextmanager
async def stand_in(knobs: Knobs, wire: str = "llamacpp") -> AsyncIterator[Engine]:
    """An engine for the length of the block, on uvloop where that is installed: it must not be the limit."""
    options = ("--engine", wire, "--port", "0", "--knobs", json.dumps(msgspec.to_builtins(knobs)), "--remote-knobs")
    async with process(sys.executable, "-m", "tests.standin", "--uvloop", *options) as running:
        yield Engine(await announced_port(running), running.pid, knobs)


_encode = msgspec.json.Encoder().encode

"""The stand-in engine as a child process, for tests that kill it and for measurements.

async with standin_process(Knobs(tokens=100)) as engine:
    ...  # engine.url, engine.pid, await engine.stats()
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from tests.standin.knobs import Knobs, Stats
from tests.standin.server import WIRES

LISTENING = b"listening on "


class StandInProcess:
    """One running child."""

    def __init__(self, url: str, process: asyncio.subprocess.Process) -> None:
        self.url = url
        self.process = process
        self.pid = process.pid

    async def stats(self) -> Stats:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/_stats") as answer:
            return msgspec.json.decode(await answer.read(), type=Stats)

    async def set(self, knobs: Knobs) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/_knobs", data=msgspec.json.encode(knobs)) as answer,
        ):
            answer.raise_for_status()

    def kill(self) -> None:
        """End it without a word, as a crash would."""
        self.process.kill()


@asynccontextmanager
async def standin_process(
    knobs: Knobs | None = None, *, engine: str = "llamacpp", key: str | None = None
) -> AsyncIterator[StandInProcess]:
    """A child that serves; it is gone when the context ends."""
    environment = dict(os.environ) if key is None else {**os.environ, WIRES[engine].key_variable: key}
    given = msgspec.json.encode(knobs or Knobs()).decode()
    arguments = ["-m", "tests.standin", "--engine", engine, "--remote-knobs", "--knobs", given]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stderr=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stderr is not None
    try:
        line = await process.stderr.readline()
        if not line.startswith(LISTENING):
            rest = await process.stderr.read()
            raise RuntimeError(f"the stand-in did not start: {(line + rest).decode()}")
        yield StandInProcess(line.removeprefix(LISTENING).strip().decode(), process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()

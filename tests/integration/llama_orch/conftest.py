"""The program as a user runs it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.ports import HeldPort
from tests.unit.llama_orch.fake import TOKEN, FakeDaemon, serving

CHECKOUT = Path(__file__).parents[3]


class Outcome(NamedTuple):
    status: int
    stdout: str
    stderr: str


Cli = Callable[..., Awaitable[Outcome]]


def environment(home: Path, **more: str) -> dict[str, str]:
    """An empty home, and nothing of the developer's own configuration."""
    ours = ("LLORCH_", "XDG_", "CREDENTIALS_", "NOTIFY_", "COLUMNS")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return environ | {"HOME": str(home), "PYTHONPATH": str(CHECKOUT)} | more


@asynccontextmanager
async def started(home: Path, arguments: Sequence[str], **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command that runs; what is left of it at the end is killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llama_orch", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(home, **more),
        cwd=home,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(home: Path, arguments: Sequence[str], stdin: str = "", **more: str) -> Outcome:
    async with started(home, arguments, **more) as process:
        stdout, stderr = await process.communicate(stdin.encode())
    return Outcome(process.returncode or 0, stdout.decode(), stderr.decode())


@pytest.fixture
def port() -> Iterator[int]:
    """For a daemon, whoever else asks for one meanwhile."""
    with closing(HeldPort()) as held:
        yield held.number


@pytest.fixture
def fake() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
async def url(fake: FakeDaemon) -> AsyncIterator[str]:
    async with serving(fake) as address:
        yield address


@pytest.fixture
def cli(tmp_path: Path, url: str) -> Cli:
    """Runs a command against the stand-in."""

    async def call(*arguments: str, stdin: str = "", **more: str) -> Outcome:
        known = {"LLORCH_URL": url, "LLORCH_API_TOKEN": TOKEN}
        return await run(tmp_path, arguments, stdin, **(known | more))

    return call

"""A prepared engine, started as a pool manager starts it."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from catalog_core.engines import FsEngineCatalog
from contracts.config import Engine, Mode, Package, Pool, Profile, Provisioning
from contracts.engines import PreparedEngine
from engine_provisioner.host import Host
from engine_provisioner.registry import provider_for
from pool_managerd.launch import fill
from tests.support.tiny_gguf import write_tiny_gguf

KEY = "sesame-open-wide"


@dataclass(frozen=True)
class Running:
    """An engine that says it listens."""

    process: asyncio.subprocess.Process
    url: str
    client: aiohttp.ClientSession
    engine: PreparedEngine


Start = Callable[[Pool], AbstractAsyncContextManager[Running]]


def trial_pool(model: Path, *, ctx: int = 256, slots: int = 1, flags: tuple[str, ...] = ()) -> Pool:
    """A pool of profile trial."""
    provisioning = Provisioning(mode=Mode.PACKAGE, package=Package(name="xllamacpp"))
    return Pool(
        id="trial",
        engine=Engine.LLAMACPP,
        model=str(model),
        ctx=ctx,
        slots=slots,
        flags=flags,
        provisioning=provisioning,
    )


async def prepared(pool: Pool, root: Path) -> PreparedEngine:
    """The engine of a pool of profile trial."""
    host = Host(environ=dict(os.environ), catalog=FsEngineCatalog(root / "catalog"), cache=root / "cache", workdir=root)
    return await provider_for(pool, Profile.TRIAL, host).ensure(pool, lambda _: None)


async def spawn(engine: PreparedEngine, model: str, key: str | None = KEY) -> asyncio.subprocess.Process:
    """The engine's process, with nothing in its environment but what the preparation says."""
    assert engine.bin_or_entry is not None
    assert engine.key_env is not None
    return await asyncio.create_subprocess_exec(
        engine.bin_or_entry,
        *fill(engine.args, model=model, host="127.0.0.1", port=0),
        env={**engine.env, **({engine.key_env: key} if key else {})},
        cwd=engine.workdir,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def listening(process: asyncio.subprocess.Process) -> str:
    """The URL that an engine says it listens on."""
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(40):
        while line := await process.stderr.readline():
            said += line
            if match := re.match(rb"listening on (\S+)", line):
                return match[1].decode()
    raise AssertionError(f"the engine ended with {await process.wait()}:\n{said.decode()}")


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Prepares and starts the engine of a pool, and ends it."""

    @asynccontextmanager
    async def running(pool: Pool) -> AsyncIterator[Running]:
        engine = await prepared(pool, tmp_path)
        process = await spawn(engine, pool.model)
        try:
            url = await listening(process)
            timeout = aiohttp.ClientTimeout(total=40)
            # The engine closes a connection after a streamed answer, having promised to keep it.
            connector = aiohttp.TCPConnector(force_close=True)
            async with aiohttp.ClientSession(base_url=url, timeout=timeout, connector=connector) as client:
                yield Running(process=process, url=url, client=client, engine=engine)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return running


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is loaded in no time and says gibberish."""
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")

"""A file whose name is no UTF-8 text, beside a model that is missing: an error that names it reaches everybody."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from contracts.config import Engine
from contracts.engines import ResolvedModel
from contracts.pools import Cause, PoolState
from contracts.rpc import MAX_FRAME_BYTES
from model_provisioner import local
from pool_managerd.errors import StepError
from pool_managerd.host import Progress
from tests.integration.pool_managerd.support import Peer
from tests.integration.pool_managerd.test_pools import TRIAL, World


@pytest.mark.req("PM-01")
async def test_an_error_that_quotes_such_a_name_is_told_and_the_pool_goes_on(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.gguf").touch()
    world = World(tmp_path, TRIAL)
    missing = local.unusable(tmp_path / "cafe.gguf", FileNotFoundError())

    async def fail(_ref: str, _digest: str | None, _progress: Progress, _engine: Engine) -> ResolvedModel:
        raise StepError(Cause.MODEL_MISSING, missing.message, missing.hint)

    world.models.ensure_present = fail  # type: ignore[assignment, method-assign]
    async with world.running():
        await world.reached(PoolState.BROKEN)
        reading, writing = await asyncio.open_unix_connection(world.context.paths.socket, limit=MAX_FRAME_BYTES)
        peer = Peer(reading, writing)
        await peer.hello()
        [pool] = (await peer.call("pool.list"))["result"]["pools"]
        assert pool["last_error"]["hint"] == f"in {tmp_path} there is: caf\\udce9.gguf"
        writing.close()

"""What is told where an engine cannot be started for want of something other than its program."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.pools import PoolState
from tests.integration.pool_managerd.test_pools import TRIAL, World


@pytest.mark.req("EP-15")
async def test_what_is_in_the_way_is_named_beside_the_program(tmp_path: Path) -> None:
    world = World(tmp_path, TRIAL)
    in_the_way = world.context.paths.engines / "gpu0.out"
    in_the_way.mkdir(parents=True)
    async with world.running():
        failed = await world.reached(PoolState.FAILED)
        assert failed.last_error is not None
        assert failed.last_error.message.startswith("cannot start ")
        assert failed.last_error.message.endswith(f": Is a directory: {in_the_way}")

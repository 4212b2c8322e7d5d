"""What is asked of an engine before anything is measured; the rest needs memory and GPUs, and is tested with them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from contracts.config import Engine, Mode, Profile
from contracts.engines import PreparedEngine
from contracts.pools import Cause
from pool_managerd.errors import StepError
from pool_managerd.gpu import Gpus
from pool_managerd.room import Room
from pool_managerd.vram_memory import VramMemory
from tests.unit.pool_managerd.models import model, pool

ENGINE = PreparedEngine(engine=Engine.LLAMACPP, engine_version="b1", provisioning_mode=Mode.BINARY)


def room(tmp_path: Path, profile: Profile) -> Room:
    return Room(
        profile=profile,
        gpus=cast("Gpus", None),  # nothing here gets as far as a GPU
        memory=VramMemory(tmp_path),
    )


@pytest.mark.req("ORCH-3803", "PM-02")
async def test_layers_on_the_cpu_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    home = room(tmp_path, Profile.HOME)
    told = pool("-ngl", "12")
    for asked in (home.check, home.beside, home.need):
        with pytest.raises(StepError) as caught:
            await asked(told, ENGINE, model(), ())
        assert caught.value.cause is Cause.POLICY_DENIED
        assert "leaves 21 of 33 layers on the CPU" in str(caught.value)


@pytest.mark.req("ORCH-3803")
async def test_the_trial_profile_computes_where_it_can(tmp_path: Path) -> None:
    assert await room(tmp_path, Profile.TRIAL).need(pool("-ngl", "12"), ENGINE, model(), ()) is not None

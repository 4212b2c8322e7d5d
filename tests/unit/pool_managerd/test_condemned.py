from __future__ import annotations

import pytest
from msgspec.structs import replace

from contracts.pools import Gpu
from pool_managerd.condemned import Condemned
from pool_managerd.devices import EventKind, GpuEvent, Inventory

GPU = Gpu(index=0, uuid="GPU-0", name="card", vram_total_bytes=1, vram_used_bytes=0, driver="550")
OTHER = replace(GPU, index=1, uuid="GPU-1")
BROKEN = GpuEvent(uuid="GPU-0", kind=EventKind.XID, number=95, message="uncontained memory error", hint="reset it")
ALL, ONE, NONE = Inventory(gpus=(GPU, OTHER)), Inventory(gpus=(OTHER,)), Inventory(problem="no driver")


@pytest.fixture
def condemned() -> Condemned:
    found = Condemned()
    found.happened(BROKEN)
    return found


@pytest.mark.req("PM-03")
def test_a_gpu_that_reported_something_fatal_is_not_trusted_because_it_answers(condemned: Condemned) -> None:
    for _ in range(3):
        condemned.seen(ALL)
    assert condemned.of(["GPU-1", "GPU-0"]) == BROKEN
    assert condemned.of(["GPU-1"]) is None


@pytest.mark.req("PM-03")
@pytest.mark.parametrize("away", [ONE, NONE], ids=["reset", "driver"])
def test_a_gpu_that_was_away_and_is_back_is_trusted_again(condemned: Condemned, away: Inventory) -> None:
    condemned.seen(away)
    assert condemned.of(["GPU-0"]) == BROKEN
    condemned.seen(ALL)
    assert condemned.of(["GPU-0"]) is None


def test_an_operator_may_trust_it_again_and_the_next_error_counts_anew(condemned: Condemned) -> None:
    condemned.pardon(["GPU-0", "GPU-9"])
    assert condemned.of(["GPU-0"]) is None
    condemned.happened(replace(BROKEN, fatal=False))
    assert condemned.of(["GPU-0"]) is None
    condemned.happened(BROKEN)
    condemned.seen(ALL)
    assert condemned.of(["GPU-0"]) == BROKEN

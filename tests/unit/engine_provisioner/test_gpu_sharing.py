from __future__ import annotations

import pytest
from msgspec.structs import replace

from contracts.config import Engine, External, Mode, Pool, Provisioning
from contracts.pools import Gpu
from engine_provisioner.gpu_faults import LostGpu
from engine_provisioner.gpu_sharing import shared_gpus, sharing_findings
from tests.plugins.failures import OperatorSees

BIG = Gpu(index=0, uuid="GPU-big", name="card", vram_total_bytes=24, vram_used_bytes=0, driver="550")
SMALL = replace(BIG, index=1, uuid="GPU-small")
BOTH = (BIG, SMALL)


def pool(name: str, *devices: int | str, share: bool = False) -> Pool:
    return Pool(id=name, engine=Engine.LLAMACPP, model="file:/m", devices=devices, share=share)


@pytest.mark.req("ORCH-3820")
def test_two_pools_that_name_one_gpu_in_two_ways_are_found(operator_sees: OperatorSees) -> None:
    pools = [pool("a", 0), pool("b", 1), pool("c", "GPU-big")]
    (shared,) = shared_gpus(pools, BOTH)
    assert shared.pools == ("a", "c")
    operator_sees("gpu/two-pools-on-one", f"{shared.message}\n  mend: {shared.hint}")
    told = [one.id for one in pools if sharing_findings(one, pools, BOTH)]
    assert told == ["a", "c"]


@pytest.mark.req("ORCH-3820")
@pytest.mark.parametrize(
    ("pools", "found"),
    [
        ((pool("a", 0), pool("b", 1)), 0),
        ((pool("a", 0, share=True), pool("b", "GPU-big", share=True)), 0),
        ((pool("a", 0, share=True), pool("b", "GPU-big")), 1),
        ((pool("a"), pool("b", "GPU-small")), 1),
        ((pool("a", 0), pool("b", "GPU-b"), pool("c", "GPU-big")), 3),
        ((pool("a", 7), pool("b", 7)), 0),
    ],
    ids=["apart", "shared", "one-sided", "every-gpu", "three", "not-there"],
)
def test_what_is_shared_must_be_shared_by_both(pools: tuple[Pool, ...], found: int) -> None:
    assert len(shared_gpus(pools, BOTH)) == found


def test_an_external_pool_takes_no_gpu_and_a_lost_gpu_is_still_somebodys() -> None:
    elsewhere = Provisioning(mode=Mode.EXTERNAL, external=External(url="http://127.0.0.1:8000"))
    assert shared_gpus([pool("a"), replace(pool("b"), provisioning=elsewhere)], BOTH) == ()
    lost = LostGpu(index=0, uuid="GPU-big", name="card", what="is gone", hint="look")
    assert len(shared_gpus([pool("a", 0), pool("b", "GPU-big")], (SMALL, lost))) == 1

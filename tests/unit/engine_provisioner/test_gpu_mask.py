import pytest

from contracts.pools import Gpu
from engine_provisioner.gpu_faults import LostGpu
from engine_provisioner.gpu_mask import chosen, named


def gpu(index: int, uuid: str) -> Gpu:
    return Gpu(index=index, uuid=uuid, name="made up", vram_total_bytes=1, vram_used_bytes=0, driver="1")


BIG, SMALL = gpu(0, "GPU-aa11"), gpu(2, "GPU-ab22")
LOST, UNKNOWN = (
    LostGpu(index=index, uuid=uuid, what="is lost", hint="-") for index, uuid in ((1, "GPU-b3"), (3, None))
)
ALL = (BIG, LOST, SMALL, UNKNOWN)


@pytest.mark.req("ORCH-3820")
@pytest.mark.parametrize(
    ("device", "found"),
    [
        (2, (SMALL,)),
        (3, (UNKNOWN,)),
        (4, ()),
        ("GPU-ab22", (SMALL,)),
        ("GPU-b", (LOST,)),
        ("GPU-a", (BIG, SMALL)),
        ("2", ()),
        ("gpu-ab22", ()),
    ],
)
def test_a_gpu_is_named_by_its_index_or_the_beginning_of_its_uuid(
    device: int | str, found: tuple[Gpu | LostGpu, ...]
) -> None:
    assert named(device, ALL) == found


@pytest.mark.req("ORCH-3820")
def test_a_mask_names_gpus_in_its_own_order_and_an_empty_one_all() -> None:
    assert chosen(("GPU-ab", 0), ALL) == (SMALL, BIG)
    assert chosen((), ALL) == ALL
    assert chosen((7,), ALL) == ()

import pytest

from contracts.pools import Gpu
from pool_managerd.devices import DeviceProcess, Inventory, Trouble, find, on_its_devices, use_of

BIG = Gpu(
    index=0, uuid="GPU-big", name="RTX 3090", vram_total_bytes=24, vram_used_bytes=4, driver="550", utilization=0.5
)
SMALL = Gpu(index=1, uuid="GPU-small", name="RTX 3060", vram_total_bytes=12, vram_used_bytes=0, driver="550")
BOTH = Inventory(gpus=(BIG, SMALL))


def test_a_mask_is_found_by_index_and_by_uuid_in_its_order() -> None:
    assert find(("GPU-small", 0), BOTH) == (SMALL, BIG)


@pytest.mark.req("ORCH-3803")
@pytest.mark.parametrize(
    ("mask", "inventory", "message", "hint"),
    [
        ((0,), Inventory(), "this machine has no NVIDIA GPU", "profile: trial"),
        ((0,), Inventory(problem="no driver", hint="install it"), "no NVIDIA GPU can be used: no driver", "install it"),
        ((0, 2), BOTH, "no such GPU: 2", "0: RTX 3090 GPU-big; 1: RTX 3060 GPU-small"),
        (("GPU-gone",), BOTH, "no such GPU: GPU-gone", "GPU-big"),
    ],
    ids=["none", "no-driver", "index", "uuid"],
)
def test_a_device_that_is_not_there_is_named_with_the_mend(
    mask: tuple[int | str, ...], inventory: Inventory, message: str, hint: str
) -> None:
    found = find(mask, inventory)
    assert isinstance(found, Trouble)
    assert found.message == message
    assert hint in found.hint


def on(*pairs: tuple[str, int]) -> tuple[DeviceProcess, ...]:
    return tuple(DeviceProcess(uuid=uuid, pid=pid) for uuid, pid in pairs)


@pytest.mark.req("ORCH-3820")
def test_an_engine_on_the_devices_of_its_mask_is_fine_whoever_else_is_there() -> None:
    assert on_its_devices(["GPU-big"], frozenset({5, 6}), on(("GPU-big", 6), ("GPU-small", 9))) is None


@pytest.mark.req("ORCH-3820", "ORCH-3803")
def test_an_engine_that_came_up_on_the_cpu_is_a_failure_with_that_name() -> None:
    trouble = on_its_devices(["GPU-big"], frozenset({5}), on(("GPU-big", 9)))
    assert trouble is not None
    assert trouble.message == "the engine answers, but not from a GPU: NVML shows no process of it on GPU-big"
    assert not trouble.final


@pytest.mark.req("ORCH-3820")
def test_an_engine_outside_of_its_mask_is_a_failure_even_when_it_is_inside_too() -> None:
    trouble = on_its_devices(["GPU-big"], frozenset({5}), on(("GPU-big", 5), ("GPU-small", 5)))
    assert trouble is not None
    assert trouble.message == "the engine uses GPU-small, which is not in this pool's devices"
    assert trouble.final


def test_use_is_shown_by_uuid() -> None:
    assert [(use.device, use.vram_used_bytes, use.utilization) for use in use_of((BIG, SMALL))] == [
        ("GPU-big", 4, 0.5),
        ("GPU-small", 0, None),
    ]

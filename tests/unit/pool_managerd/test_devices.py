from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from contracts.config import Engine, Pool
from contracts.pools import Cause, Gpu
from engine_provisioner.gpu_faults import lost_gpu
from pool_managerd.devices import (
    GIB,
    DeviceProcess,
    EventKind,
    GpuEvent,
    Inventory,
    Trouble,
    Untold,
    by_presence_alone,
    find,
    on_its_devices,
    settle,
    use_of,
)
from tests.plugins.failures import OperatorSees

BIG = Gpu(
    index=0, uuid="GPU-big", name="RTX 3090", vram_total_bytes=24, vram_used_bytes=4, driver="550", utilization=0.5
)
SMALL = Gpu(index=1, uuid="GPU-small", name="RTX 3060", vram_total_bytes=12, vram_used_bytes=0, driver="550")
THIRD = replace(SMALL, index=2, uuid="GPU-third")
BOTH = Inventory(gpus=(BIG, SMALL))
OFF_THE_BUS, TO_BE_RESET = 15, 16
NAMELESS = lost_gpu(0, OFF_THE_BUS, "GPU is lost")
BIG_LOST = replace(NAMELESS, uuid=BIG.uuid, name=BIG.name)


def rendered(trouble: Trouble) -> str:
    return f"{trouble.cause}: {trouble.message}\n  mend: {trouble.hint}"


def trouble_of(found: object) -> Trouble:
    assert isinstance(found, Trouble)
    return found


# --- the devices of a mask --------------------------------------------------------------------------------------------


def test_a_mask_is_found_by_index_and_by_uuid_in_its_order() -> None:
    assert find(("GPU-small", 0), BOTH) == (SMALL, BIG)
    assert find(("GPU-s",), BOTH) == (SMALL,)
    assert find((), BOTH) == (BIG, SMALL)


@pytest.mark.req("ORCH-3803")
@pytest.mark.parametrize(
    ("mask", "inventory", "cause", "message", "hint"),
    [
        ((0,), Inventory(), Cause.NO_GPU, "this machine has no NVIDIA GPU", "profile: trial"),
        (
            (0,),
            Inventory(problem="no driver", hint="install it", cause=Cause.DRIVER),
            Cause.DRIVER,
            "no NVIDIA GPU can be used: no driver",
            "install it",
        ),
        ((0, 2), BOTH, Cause.NO_GPU, "no such GPU: 2", "0: RTX 3090 GPU-big; 1: RTX 3060 GPU-small"),
        (("GPU-gone",), BOTH, Cause.NO_GPU, "no such GPU: GPU-gone", "GPU-big"),
        (("GPU-",), BOTH, Cause.NO_GPU, "more than one GPU is called GPU-", "GPU-big"),
        ((0, "GPU-big"), BOTH, Cause.NO_GPU, "a GPU is named twice: 0, GPU-big", "GPU-big"),
    ],
    ids=["none", "no-driver", "index", "uuid", "unclear", "twice"],
)
def test_a_device_that_is_not_there_is_named_with_the_mend(
    mask: tuple[int | str, ...], inventory: Inventory, cause: Cause, message: str, hint: str
) -> None:
    trouble = trouble_of(find(mask, inventory))
    assert (trouble.cause, trouble.message) == (cause, message)
    assert hint in trouble.hint


@pytest.mark.req("PM-06", "PM-03")
@pytest.mark.parametrize("mask", [(0,), ("GPU-big",), (1, 0)])
def test_a_lost_device_of_the_mask_is_told_apart_from_one_that_never_was(mask: tuple[int | str, ...]) -> None:
    trouble = trouble_of(find(mask, Inventory(gpus=(SMALL,), lost=(BIG_LOST,))))
    assert trouble.cause is Cause.GPU_LOST
    assert trouble.message == "GPU 0 (RTX 3090, GPU-big) has fallen off the bus"
    assert "journalctl -k" in trouble.hint


@pytest.mark.req("PM-06", "ORCH-3820")
def test_a_lost_device_stops_no_pool_that_does_not_name_it() -> None:
    assert find((1,), Inventory(gpus=(SMALL,), lost=(BIG_LOST,))) == (SMALL,)


@pytest.mark.req("PM-06")
def test_the_pool_that_takes_every_gpu_does_not_quietly_take_fewer(operator_sees: OperatorSees) -> None:
    trouble = trouble_of(find((), Inventory(gpus=(SMALL,), lost=(BIG_LOST,))))
    operator_sees("gpu/one-of-all-lost", rendered(trouble))
    assert "or set devices: [1]" in trouble.hint
    alone = trouble_of(find((), Inventory(lost=(NAMELESS,))))
    assert (alone.cause, alone.message) == (Cause.GPU_LOST, "GPU 0 has fallen off the bus")


@pytest.mark.req("PM-03")
@pytest.mark.parametrize(
    ("code", "cause", "what", "mend"),
    [
        (15, Cause.GPU_LOST, "has fallen off the bus", "reboot"),
        (16, Cause.GPU_LOST, "until it is reset", "--gpu-reset -i 3"),
        (999, Cause.GPU_LOST, "does not answer: words", "journalctl"),
        (4, Cause.DRIVER, "may not be used by this user: words", "/dev/nvidia"),
        (3, Cause.DRIVER, "does not tell its name and memory through NVML: words", "update"),
    ],
)
def test_each_way_of_losing_one_gpu_has_its_cause_and_mend(code: int, cause: Cause, what: str, mend: str) -> None:
    lost = lost_gpu(3, code, "words", name="RTX 3090")
    assert lost.cause is cause
    assert lost.message.startswith("GPU 3 (RTX 3090) ")
    assert what in lost.message
    assert mend in lost.hint


MASKS = st.lists(st.one_of(st.integers(0, 4), st.sampled_from(["GPU-big", "GPU-small", "GPU-third", "GPU-x"])))


@pytest.mark.req("ORCH-3820")
@given(MASKS, st.sets(st.sampled_from([BIG, SMALL, THIRD])), st.sets(st.sampled_from([BIG, SMALL, THIRD])))
def test_a_mask_never_gives_a_gpu_that_it_does_not_name(
    mask: list[int | str], working: set[Gpu], broken: set[Gpu]
) -> None:
    lost = tuple(replace(BIG_LOST, index=gpu.index, uuid=gpu.uuid) for gpu in sorted_by_index(broken - working))
    inventory = Inventory(gpus=sorted_by_index(working), lost=lost)
    found = find(tuple(mask), inventory)
    if isinstance(found, Trouble):
        assert found.message
        assert found.hint
        return
    assert set(found) <= working
    if mask:
        assert all(device in (gpu.index, gpu.uuid) for gpu, device in zip(found, mask, strict=True))
        assert len(set(found)) == len(mask)
    else:
        assert not lost


def sorted_by_index(gpus: set[Gpu]) -> tuple[Gpu, ...]:
    return tuple(sorted(gpus, key=lambda gpu: gpu.index))


# --- what was there before --------------------------------------------------------------------------------------------

KNOWN = {gpu.uuid: gpu for gpu in (BIG, SMALL, THIRD)}


@pytest.mark.req("PM-06")
def test_a_lost_gpu_keeps_the_name_that_it_had() -> None:
    settled = settle((SMALL, THIRD), (NAMELESS,), KNOWN)
    assert settled == Inventory(gpus=(SMALL, THIRD), lost=(BIG_LOST,))
    # Two that do not say who they are go by their places.
    other = lost_gpu(2, TO_BE_RESET, "GPU requires restart")
    two = settle((SMALL,), (NAMELESS, other), dict(reversed(KNOWN.items())))
    assert [(each.uuid, each.what) for each in two.lost] == [(BIG.uuid, NAMELESS.what), (THIRD.uuid, other.what)]


@pytest.mark.req("PM-06", "ORCH-3820")
def test_a_gpu_that_is_not_counted_any_more_is_lost_and_hands_its_index_to_nobody() -> None:
    settled = settle((replace(SMALL, index=0), replace(THIRD, index=1)), (), KNOWN)
    assert settled.gpus == (SMALL, THIRD)
    assert [each.message for each in settled.lost] == [
        "GPU 0 (RTX 3090, GPU-big) was there before, and the driver does not list it any more"
    ]
    assert trouble_of(find((0,), settled)).cause is Cause.GPU_LOST


def test_a_gpu_that_comes_in_makes_nvmls_numbers_count_again() -> None:
    new = replace(BIG, uuid="GPU-new")
    assert settle((new, SMALL), (), {BIG.uuid: BIG, SMALL.uuid: SMALL}) == Inventory(gpus=(new, SMALL))
    assert settle((BIG, SMALL), (), {}) == BOTH


@pytest.mark.req("PM-06")
@given(st.data())
def test_every_known_gpu_works_or_is_lost_and_keeps_its_index(data: st.DataObject) -> None:
    """NVML counts some of the cards from 0 without a gap; some of these fail without saying who they are."""
    counted = data.draw(st.lists(st.sampled_from([BIG, SMALL, THIRD]), unique=True).map(lambda gpus: {*gpus}))
    failing = data.draw(st.sets(st.sampled_from(sorted_by_index(counted)))) if counted else set()
    gpus, lost = [], []
    for number, gpu in enumerate(sorted_by_index(counted)):
        if gpu in failing:
            lost.append(replace(NAMELESS, index=number))
        else:
            gpus.append(replace(gpu, index=number))
    settled = settle(tuple(gpus), tuple(lost), KNOWN)
    assert {gpu.uuid for gpu in settled.gpus} == {gpu.uuid for gpu in counted - failing}
    assert sorted((each.index, cast("str", each.uuid)) for each in settled.all) == sorted(
        (gpu.index, gpu.uuid) for gpu in KNOWN.values()
    )


# --- pools that want the same GPU -------------------------------------------------------------------------------------


def pool(name: str, *devices: int | str, share: bool = False) -> Pool:
    return Pool(id=name, engine=Engine.LLAMACPP, model="file:/m", devices=devices, share=share)


# --- where an engine is -----------------------------------------------------------------------------------------------


def on(*pairs: tuple[str, int], used: int | None = None) -> tuple[DeviceProcess, ...]:
    return tuple(DeviceProcess(uuid=uuid, pid=pid, used_bytes=used) for uuid, pid in pairs)


@pytest.mark.req("ORCH-3820")
def test_an_engine_on_the_devices_of_its_mask_is_fine_whoever_else_is_there() -> None:
    assert on_its_devices(["GPU-big"], frozenset({5, 6}), on(("GPU-big", 6), ("GPU-small", 9))) is None


@pytest.mark.req("ORCH-3820", "ORCH-3803")
def test_an_engine_that_came_up_on_the_cpu_is_a_failure_with_that_name(operator_sees: OperatorSees) -> None:
    trouble = trouble_of(on_its_devices(["GPU-big"], frozenset({5}), on(("GPU-big", 9))))
    assert trouble.cause is Cause.ON_CPU
    assert not trouble.final
    operator_sees("gpu/on-the-cpu", rendered(trouble))


@pytest.mark.req("ORCH-3820")
def test_an_engine_outside_of_its_mask_is_a_failure_even_when_it_is_inside_too(operator_sees: OperatorSees) -> None:
    trouble = trouble_of(on_its_devices(["GPU-big"], frozenset({5}), on(("GPU-big", 5), ("GPU-small", 5))))
    assert trouble.cause is Cause.WRONG_DEVICE
    assert trouble.final
    operator_sees("gpu/outside-of-the-mask", rendered(trouble))


@pytest.mark.req("ORCH-3803")
def test_an_engine_that_holds_less_than_its_model_has_layers_on_the_cpu(operator_sees: OperatorSees) -> None:
    seen = (*on(("GPU-big", 5), used=GIB), *on(("GPU-small", 6), used=GIB // 2), *on(("GPU-small", 9), used=9 * GIB))
    mask, pids = ["GPU-big", "GPU-small"], frozenset({5, 6})
    assert on_its_devices(mask, pids, seen, least_bytes=3 * GIB // 2) is None
    trouble = trouble_of(on_its_devices(mask, pids, seen, least_bytes=4 * GIB))
    assert trouble.cause is Cause.ON_CPU
    assert not trouble.final
    operator_sees("gpu/layers-on-the-cpu", rendered(trouble))


def test_where_the_driver_does_not_tell_bytes_presence_is_the_proof_and_that_is_said() -> None:
    mask, pids, seen = ["GPU-big"], frozenset({5}), on(("GPU-big", 5))
    assert on_its_devices(mask, pids, seen, least_bytes=4 * GIB) is None
    assert "all that is known" in (by_presence_alone(mask, pids, seen) or "")
    assert by_presence_alone(mask, pids, on(("GPU-big", 5), used=1)) is None
    assert by_presence_alone(mask, pids, ()) is None


@pytest.mark.req("PM-06")
@pytest.mark.parametrize("uuid", ["GPU-big", None])
def test_what_cannot_be_told_is_not_taken_for_an_engine_on_the_cpu(uuid: str | None) -> None:
    untold = Untold(uuid=uuid, message="GPU 0 is lost", hint="reboot")
    trouble = trouble_of(on_its_devices(["GPU-big"], frozenset({5}), (untold,)))
    assert (trouble.cause, trouble.hint, trouble.final) == (Cause.DRIVER, "reboot", False)
    assert trouble.message == "it cannot be told whether the engine uses its GPUs: GPU 0 is lost"


def test_what_cannot_be_told_of_another_gpu_does_not_matter() -> None:
    untold = Untold(uuid="GPU-small", message="it is lost", hint="reboot")
    assert on_its_devices(["GPU-big"], frozenset({5}), (*on(("GPU-big", 5)), untold)) is None
    cause = trouble_of(on_its_devices(["GPU-big"], frozenset({5}), (untold,))).cause
    assert cause is Cause.ON_CPU


UUIDS = st.sampled_from(["GPU-a", "GPU-b", "GPU-c"])
PROCESSES = st.lists(
    st.builds(
        DeviceProcess, uuid=UUIDS, pid=st.integers(1, 4), used_bytes=st.one_of(st.none(), st.integers(0, 4 * GIB))
    )
)


@pytest.mark.req("ORCH-3820", "ORCH-3803")
@given(st.sets(UUIDS, min_size=1), st.frozensets(st.integers(1, 4)), PROCESSES, st.one_of(st.none(), st.integers(0)))
def test_an_engine_is_proved_only_by_memory_on_its_mask_alone(
    mask: set[str], pids: frozenset[int], processes: list[DeviceProcess], least: int | None
) -> None:
    mine = [process for process in processes if process.pid in pids]
    sizes = [process.used_bytes for process in mine]
    short = least is not None and None not in sizes and sum(size or 0 for size in sizes) < least
    trouble = on_its_devices(mask, pids, processes, least)
    outside = any(process.uuid not in mask for process in mine)
    assert (trouble is None) == (bool(mine) and not outside and not short)
    if trouble is not None:
        assert (trouble.cause is Cause.WRONG_DEVICE) == outside


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-03")
@pytest.mark.parametrize(
    ("kind", "number", "cause"),
    [
        (EventKind.LOST, 0, Cause.GPU_LOST),
        (EventKind.XID, 79, Cause.GPU_LOST),
        (EventKind.XID, 48, Cause.GPU_ERROR),
        (EventKind.ECC, 79, Cause.GPU_ERROR),
    ],
)
def test_an_event_has_the_cause_that_its_pools_report(kind: EventKind, number: int, cause: Cause) -> None:
    assert GpuEvent(uuid="GPU-big", kind=kind, number=number, message="m", hint="h").cause is cause


def test_use_is_shown_by_uuid() -> None:
    assert [(use.device, use.vram_used_bytes, use.utilization) for use in use_of((BIG, SMALL))] == [
        ("GPU-big", 4, 0.5),
        ("GPU-small", 0, None),
    ]

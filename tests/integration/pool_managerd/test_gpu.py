"""NVML through the real binding: on a stand-in for the driver's library, and with a GPU on the driver itself."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from contracts.pools import Cause
from engine_provisioner.gpus import GpuUnavailable, gpu_findings, survey_gpus, visible_gpus
from llama_orch.gpus import NoGpuError, list_gpus, look_at_gpus
from pool_managerd.devices import DeviceProcess, EventKind, GpuEvent, Trouble, Untold, find, on_its_devices
from pool_managerd.gpu import NvmlGpus
from tests.plugins.failures import OperatorSees
from tests.support.nvml import GIB, FakeGpus
from tests.unit.engine_provisioner.conftest import a_pool

pytest_plugins = ["tests.support.nvml.fixtures"]
pytestmark = pytest.mark.needs("gcc")

HAS_GPU = Path("/dev/nvidiactl").exists()
LOST = pynvml.NVML_ERROR_GPU_IS_LOST


@pytest.fixture
def nvml(loaded_gpus: FakeGpus) -> Iterator[NvmlGpus]:
    gpus = NvmlGpus()
    yield gpus
    gpus.close()


def rendered(trouble: object) -> str:
    assert isinstance(trouble, Trouble)
    return f"{trouble.cause}: {trouble.message}\n  mend: {trouble.hint}"


# --- what there is ----------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-06", "PM-02")
def test_every_gpu_is_listed_with_its_facts(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    loaded_gpus.change(0, utilization=50)
    loaded_gpus.process(0, 4711, 2 * GIB)
    inventory = nvml.inventory()
    big, small = inventory.gpus
    assert (inventory.lost, inventory.problem) == ((), None)
    assert (big.index, big.uuid, big.name) == (0, loaded_gpus.uuids[0], "NVIDIA GeForce RTX 3090")
    assert (big.vram_total_bytes, big.vram_used_bytes, big.utilization) == (24 * GIB, 2 * GIB, 0.5)
    assert (big.compute_capability, big.driver) == ("8.6", "550.163.01")
    assert (small.index, small.vram_total_bytes, small.utilization) == (1, 12 * GIB, 0)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
def test_a_fact_that_a_gpu_does_not_tell_is_left_out(code: int, loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    loaded_gpus.refuse("nvmlDeviceGetUtilizationRates", code, device=0)
    loaded_gpus.refuse("nvmlDeviceGetCudaComputeCapability", code, device=0)
    big, small = nvml.inventory().gpus
    assert (big.utilization, big.compute_capability) == (None, None)
    assert small.compute_capability == "8.6"


@pytest.mark.req("ORCH-3803", "PM-03")
@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "does not work: Driver Not Loaded", "lsmod"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "updated while its old kernel module", "reboot"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "this user may not use the NVIDIA driver", "/dev/nvidia"),
        (pynvml.NVML_ERROR_UNKNOWN, "does not work: Unknown Error", "nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_work_is_a_value_with_its_cause_and_comes_back(
    code: int, message: str, hint: str, loaded_gpus: FakeGpus, nvml: NvmlGpus
) -> None:
    assert len(nvml.inventory().gpus) == 2
    loaded_gpus.break_driver(code)
    for _ in range(2):  # in the middle of it, and when it is asked anew
        inventory = nvml.inventory()
        assert inventory.gpus == ()
        assert inventory.cause is Cause.DRIVER
        assert message in (inventory.problem or "")
        assert hint in (inventory.hint or "")
    (untold,) = nvml.processes()
    assert isinstance(untold, Untold)
    assert untold.uuid is None
    assert nvml.events() == ()
    loaded_gpus.mend_driver()
    assert len(nvml.inventory().gpus) == 2
    assert nvml.processes() == ()


@pytest.mark.req("PM-03")
def test_a_driver_that_goes_while_one_gpu_is_read_is_no_lost_gpu(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    loaded_gpus.refuse("nvmlDeviceGetName", pynvml.NVML_ERROR_DRIVER_NOT_LOADED, device=1)
    inventory = nvml.inventory()
    assert (inventory.gpus, inventory.lost, inventory.cause) == ((), (), Cause.DRIVER)


@pytest.mark.req("ORCH-3803")
@pytest.mark.skipif(HAS_GPU, reason="this machine has a driver")
def test_a_machine_without_a_driver_is_a_value_that_says_so(operator_sees: OperatorSees) -> None:
    gpus = NvmlGpus()
    inventory = gpus.inventory()
    assert (inventory.gpus, inventory.cause) == ((), Cause.NO_GPU)
    operator_sees("gpu/no-driver-for-a-pool", rendered(find((0,), inventory)))
    (untold,) = gpus.processes()
    assert isinstance(untold, Untold)
    assert gpus.events() == ()
    gpus.close()


@pytest.mark.req("PM-06", "PM-03")
def test_a_lost_gpu_hides_no_other_and_keeps_its_name(
    loaded_gpus: FakeGpus, nvml: NvmlGpus, operator_sees: OperatorSees
) -> None:
    big, small = nvml.inventory().gpus
    loaded_gpus.lose(0)
    inventory = nvml.inventory()
    assert inventory.gpus == (small,)
    (lost,) = inventory.lost
    assert (lost.index, lost.uuid, lost.name) == (0, big.uuid, big.name)
    operator_sees("gpu/lost", rendered(find((0,), inventory)))
    assert find((1,), inventory) == (small,)
    loaded_gpus.restore(0)
    assert nvml.inventory().gpus == (big, small)


@pytest.mark.req("PM-06")
def test_a_gpu_that_was_lost_before_anybody_looked_is_told_by_its_index(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    loaded_gpus.lose(0)
    (lost,) = nvml.inventory().lost
    assert (lost.uuid, lost.message) == (None, "GPU 0 has fallen off the bus")


@pytest.mark.req("PM-06")
def test_a_gpu_that_fails_half_way_says_who_it_is(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    loaded_gpus.refuse("nvmlDeviceGetMemoryInfo", LOST, device=0)
    (lost,) = nvml.inventory().lost
    assert (lost.uuid, lost.name) == (loaded_gpus.uuids[0], "NVIDIA GeForce RTX 3090")


@pytest.mark.req("PM-06", "ORCH-3820")
def test_a_gpu_that_is_not_counted_any_more_does_not_hand_its_index_on(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    big, small = nvml.inventory().gpus
    first, _ = loaded_gpus.cards
    loaded_gpus.remove(0)
    for _ in range(2):
        inventory = nvml.inventory()
        assert inventory.gpus == (small,)
        assert [each.uuid for each in inventory.lost] == [big.uuid]
    loaded_gpus.add(replace(first, id=2, uuid="GPU-new"))
    assert [(gpu.index, gpu.uuid) for gpu in nvml.inventory().gpus] == [(0, small.uuid), (1, "GPU-new")]


# --- who uses it ------------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3820")
def test_processes_are_told_by_gpu(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    big, small = loaded_gpus.uuids
    loaded_gpus.process(0, 5, GIB)
    loaded_gpus.process(1, 6, None)
    wanted = (DeviceProcess(uuid=big, pid=5, used_bytes=GIB), DeviceProcess(uuid=small, pid=6))
    assert nvml.processes() == wanted
    loaded_gpus.refuse("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, device=0)
    loaded_gpus.refuse("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, device=1)
    assert nvml.processes() == wanted  # as a driver before 510 tells it


@pytest.mark.req("PM-06")
@pytest.mark.parametrize("how", ["lost", "half-lost", "refused", "removed"])
def test_none_and_cannot_be_told_are_apart(how: str, loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    big, small = loaded_gpus.uuids
    assert nvml.inventory().lost == ()
    loaded_gpus.process(1, 6, GIB)
    assert nvml.processes() == (DeviceProcess(uuid=small, pid=6, used_bytes=GIB),)
    match how:
        case "lost":
            loaded_gpus.lose(0)
        case "half-lost":
            loaded_gpus.refuse("nvmlDeviceGetComputeRunningProcesses_v3", LOST, device=0)
        case "refused":
            code = pynvml.NVML_ERROR_NO_PERMISSION
            loaded_gpus.refuse("nvmlDeviceGetComputeRunningProcesses_v3", code, device=0)
        case _:
            loaded_gpus.remove(0)
    told = nvml.processes()
    assert DeviceProcess(uuid=small, pid=6, used_bytes=GIB) in told
    (untold,) = (each for each in told if isinstance(each, Untold))
    assert untold.uuid == big
    assert big in untold.message
    assert ("has fallen off the bus" in untold.message) == (how in {"lost", "half-lost"})
    assert on_its_devices([small], frozenset({6}), told, least_bytes=GIB) is None
    trouble = on_its_devices([big], frozenset({7}), told)
    assert trouble is not None
    assert trouble.cause is Cause.DRIVER


@pytest.mark.req("ORCH-3803", "ORCH-3820")
def test_an_engine_is_found_on_the_gpu_that_its_mask_names(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    big, small = loaded_gpus.uuids
    loaded_gpus.engines_hold(2 * GIB)
    env = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": big}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=env) as engine:
        assert engine.stdin is not None
        assert engine.stdout is not None
        engine.stdin.write(b"up\n")
        assert engine.stdout.readline() == b"up\n"  # a program that has just begun shows no environment yet
        seen = nvml.processes()
        used = [gpu.vram_used_bytes for gpu in nvml.inventory().gpus]
        engine.communicate()
    assert on_its_devices([big], frozenset({engine.pid}), seen, least_bytes=2 * GIB) is None
    wrong = on_its_devices([small], frozenset({engine.pid}), seen)
    assert wrong is not None
    assert wrong.cause is Cause.WRONG_DEVICE
    assert used == [2 * GIB, 0]
    assert nvml.processes() == ()


# --- what happens to it -----------------------------------------------------------------------------------------------


def told(events: tuple[GpuEvent, ...]) -> list[tuple[str, EventKind, int, bool]]:
    return [(event.uuid, event.kind, event.number, event.fatal) for event in events]


@pytest.mark.req("PM-06", "PM-03")
def test_xids_are_told_once_with_what_they_mean(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    big, small = loaded_gpus.uuids
    loaded_gpus.xid(0, 48)  # before anybody listened
    assert nvml.events() == ()
    for device, number in ((1, 31), (0, 79), (1, 31)):
        loaded_gpus.xid(device, number)
    events = nvml.events()
    assert told(events) == [(big, EventKind.XID, 79, True), (small, EventKind.XID, 31, False)]
    assert events[0].message == f"GPU 0 (NVIDIA GeForce RTX 3090, {big}) reports Xid 79: the GPU has fallen off the bus"
    assert events[0].cause is Cause.GPU_LOST
    assert "power" in events[0].hint
    assert nvml.events() == ()


@pytest.mark.req("PM-06")
def test_a_gpu_that_is_lost_is_told_once_each_time(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    big, small = loaded_gpus.uuids
    assert nvml.events() == ()
    loaded_gpus.xid(0, 79)
    loaded_gpus.lose(0)
    assert told(nvml.events()) == [(big, EventKind.XID, 79, True), (big, EventKind.LOST, 0, True)]
    assert nvml.events() == ()
    loaded_gpus.xid(1, 13)
    assert told(nvml.events()) == [(small, EventKind.XID, 13, False)]
    loaded_gpus.restore(0)
    assert nvml.events() == ()
    loaded_gpus.xid(0, 31)
    assert told(nvml.events()) == [(big, EventKind.XID, 31, False)]
    loaded_gpus.remove(0)
    (event,) = nvml.events()
    assert (event.uuid, event.kind, event.cause) == (big, EventKind.LOST, Cause.GPU_LOST)
    assert big in event.message


@pytest.mark.req("PM-06", "PM-03")
def test_uncorrectable_memory_errors_are_told_when_they_are_new(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    big = loaded_gpus.uuids[0]
    loaded_gpus.uncorrectable(0, 2)  # of long ago
    assert nvml.events() == ()
    loaded_gpus.uncorrectable(0, 3)
    (event,) = nvml.events()
    assert told((event,)) == [(big, EventKind.ECC, 1, True)]
    assert event.cause is Cause.GPU_ERROR
    assert event.message == f"GPU 0 (NVIDIA GeForce RTX 3090, {big}) has 1 new uncorrectable memory error"
    assert nvml.events() == ()
    loaded_gpus.uncorrectable(0, 0)  # a driver that starts again counts from 0
    assert nvml.events() == ()
    loaded_gpus.uncorrectable(0, 2)
    assert told(nvml.events()) == [(big, EventKind.ECC, 2, True)]


@pytest.mark.req("PM-06")
def test_after_a_restart_of_the_driver_events_are_heard_again(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    assert nvml.events() == ()
    loaded_gpus.break_driver()
    assert nvml.events() == ()
    loaded_gpus.mend_driver()
    assert nvml.events() == ()
    loaded_gpus.xid(1, 119)
    assert told(nvml.events()) == [(loaded_gpus.uuids[1], EventKind.XID, 119, True)]


def garble(gpus: FakeGpus) -> None:
    """The name of the first GPU is no text any more, as with a card that is failing."""
    gpus.state.write_bytes(gpus.state.read_bytes().replace(b"NVIDIA GeForce RTX 3090", b"NVIDIA \xff\xfe"))


@pytest.mark.req("PM-06", "PM-03")
def test_what_cannot_be_understood_is_a_fault_that_is_logged_once(
    loaded_gpus: FakeGpus, nvml: NvmlGpus, caplog: pytest.LogCaptureFixture
) -> None:
    assert nvml.events() == ()
    garble(loaded_gpus)
    for _ in range(3):
        inventory = nvml.inventory()
        assert (inventory.gpus, inventory.cause) == ((), Cause.DRIVER)
        assert "cannot be understood: UnicodeDecodeError" in (inventory.problem or "")
        assert inventory.hint
        (untold,) = nvml.processes()
        assert isinstance(untold, Untold)
        assert nvml.events() == ()
    (logged,) = caplog.records
    assert "UnicodeDecodeError" in logged.getMessage()
    assert logged.exc_info is not None
    loaded_gpus.restore(0)
    assert len(nvml.inventory().gpus) == 2


@pytest.mark.req("PM-03")
@pytest.mark.parametrize("error", [OSError("too many open files"), TimeoutError("within the driver"), ValueError()])
def test_whatever_a_call_into_the_driver_raises_is_a_fault(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    gpus = NvmlGpus()
    assert type(error).__name__ in (gpus.inventory().problem or "")
    assert isinstance(gpus.processes()[0], Untold)
    assert gpus.events() == ()
    gpus.close()


@pytest.mark.req("PM-06", "PM-03")
def test_an_xid_is_told_though_the_question_before_it_failed(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    assert nvml.events() == ()
    loaded_gpus.xid(0, 79)
    garble(loaded_gpus)
    assert nvml.inventory().problem is not None
    assert told(nvml.events()) == [(loaded_gpus.uuids[0], EventKind.XID, 79, True)]
    assert nvml.events() == ()


@pytest.mark.req("PM-06", "PM-03")
def test_memory_errors_are_told_though_the_driver_then_fails(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    loaded_gpus.uncorrectable(0, 0)
    assert nvml.events() == ()
    loaded_gpus.uncorrectable(0, 1)
    loaded_gpus.refuse("nvmlEventSetWait_v2", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    assert told(nvml.events()) == [(loaded_gpus.uuids[0], EventKind.ECC, 1, True)]
    assert nvml.events() == ()


@pytest.mark.req("PM-06")
def test_listening_for_long_uses_nothing_up(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    assert {nvml.events() for _ in range(100)} == {()}
    loaded_gpus.xid(0, 62)
    assert told(nvml.events()) == [(loaded_gpus.uuids[0], EventKind.XID, 62, True)]


@pytest.mark.parametrize("how", ["gpu", "driver", "waiting"])
def test_a_gpu_or_driver_without_events_is_fine(how: str, loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    match how:
        case "gpu":
            loaded_gpus.change(0, events=False)
        case "driver":
            loaded_gpus.refuse("nvmlEventSetCreate", pynvml.NVML_ERROR_NOT_SUPPORTED)
        case _:
            loaded_gpus.refuse("nvmlEventSetWait_v2", LOST)
    for _ in range(3):
        loaded_gpus.xid(0, 79)
        assert nvml.events() == ()
    loaded_gpus.lose(1)
    assert told(nvml.events()) == [(loaded_gpus.uuids[1], EventKind.LOST, 0, True)]


@pytest.mark.req("PM-06", "PM-03")
def test_a_driver_that_hangs_holds_up_nobody_and_what_it_reports_at_the_end_is_told(
    loaded_gpus: FakeGpus, operator_sees: OperatorSees
) -> None:
    nvml = NvmlGpus(answer_s=1)
    assert nvml.events() == ()
    loaded_gpus.hang()
    try:
        loaded_gpus.xid(0, 119)
        assert nvml.events() == ()
        inventory = nvml.inventory()
    finally:
        loaded_gpus.hang(hangs=False)
        nvml.close()  # waits for what hung
    operator_sees("gpu/driver-hangs", rendered(find((0,), inventory)), wait="1 s")
    assert told(nvml.events()) == [(loaded_gpus.uuids[0], EventKind.XID, 119, True)]
    assert len(nvml.inventory().gpus) == 2
    nvml.close()


def test_the_driver_is_let_go_of_at_the_end(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    nvml.events()
    nvml.close()
    nvml.close()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


# --- the same reader without a daemon ---------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3803")
def test_commands_and_the_preflight_see_the_same_machine(loaded_gpus: FakeGpus, nvml: NvmlGpus) -> None:
    inventory = nvml.inventory()
    assert visible_gpus() == list_gpus() == inventory.gpus
    nvml.close()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()  # they let go of the driver
    loaded_gpus.lose(0)
    assert visible_gpus() == inventory.gpus[1:]
    assert [lost.index for lost in look_at_gpus().lost] == [0]
    pool = a_pool(devices=(0, 1))
    (finding,) = gpu_findings(pool, visible_gpus)
    assert finding.message == "pool gpu0 wants GPU 0, which is not there"
    assert gpu_findings(pool, visible_gpus, lost=survey_gpus().lost) == ()


@pytest.mark.req("ORCH-3803")
def test_where_every_gpu_is_lost_or_there_is_none_commands_say_so(loaded_gpus: FakeGpus) -> None:
    loaded_gpus.lose(0)
    loaded_gpus.lose(1)
    with pytest.raises(GpuUnavailable, match=r"GPU 0 has fallen off the bus; GPU 1 has fallen off the bus"):
        visible_gpus()
    assert len(look_at_gpus().lost) == 2
    loaded_gpus.remove(0)
    loaded_gpus.remove(1)
    for look in (list_gpus, look_at_gpus):
        with pytest.raises(NoGpuError, match="shows no GPU"):
            look()
    loaded_gpus.break_driver()
    for look in (list_gpus, look_at_gpus):
        with pytest.raises(NoGpuError, match="does not work"):
            look()

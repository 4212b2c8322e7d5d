"""The stand-in for NVML is true to the binding, and a test's children see what the test says."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from tests.support.nvml import GIB, FakeGpus

pytest_plugins = ["tests.support.nvml.fixtures"]
pytestmark = pytest.mark.needs("gcc")


def test_the_binding_reads_every_fact_from_it(loaded_gpus: FakeGpus) -> None:
    loaded_gpus.change(1, utilization=37, used=GIB, ecc=2)
    loaded_gpus.process(1, 4711, 3 * GIB)
    loaded_gpus.process(1, 4712, None)
    pynvml.nvmlInit()
    assert pynvml.nvmlSystemGetDriverVersion() == "550.163.01"
    assert pynvml.nvmlSystemGetCudaDriverVersion_v2() == 12040
    assert pynvml.nvmlDeviceGetCount() == 2
    device = pynvml.nvmlDeviceGetHandleByUUID(loaded_gpus.uuids[1])
    assert pynvml.nvmlDeviceGetIndex(device) == 1
    assert pynvml.nvmlDeviceGetName(device) == "NVIDIA GeForce RTX 3060"
    assert pynvml.nvmlDeviceGetCudaComputeCapability(device) == (8, 6)
    assert pynvml.nvmlDeviceGetUtilizationRates(device).gpu == 37
    assert pynvml.nvmlDeviceGetPciInfo(device).busId == "00000000:02:00.0"
    for memory in (
        pynvml.nvmlDeviceGetMemoryInfo(device),
        pynvml.nvmlDeviceGetMemoryInfo(device, version=pynvml.nvmlMemory_v2),
    ):
        assert (memory.total, memory.used, memory.free) == (12 * GIB, 4 * GIB, 8 * GIB)
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
    assert [(process.pid, process.usedGpuMemory) for process in processes] == [(4711, 3 * GIB), (4712, None)]
    uncorrected, volatile = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    assert pynvml.nvmlDeviceGetTotalEccErrors(device, uncorrected, volatile) == 2
    assert pynvml.nvmlDeviceGetEccMode(device) == [1, 1]
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetEccMode(pynvml.nvmlDeviceGetHandleByIndex(0))
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_an_xid_is_told_once_to_each_set_that_was_there_and_has_the_device(loaded_gpus: FakeGpus) -> None:
    pynvml.nvmlInit()
    loaded_gpus.xid(0, 13)
    events = pynvml.nvmlEventSetCreate()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlDeviceRegisterEvents(device, pynvml.nvmlEventTypeXidCriticalError, events)
    loaded_gpus.xid(1, 31)
    loaded_gpus.xid(0, 79)
    told = pynvml.nvmlEventSetWait(events, 0)
    assert (told.eventType, told.eventData) == (pynvml.nvmlEventTypeXidCriticalError, 79)
    assert ctypes.addressof(told.device.contents) == ctypes.addressof(device.contents)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait(events, 20)
    pynvml.nvmlEventSetFree(events)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlEventSetWait(events, 0)
    pynvml.nvmlShutdown()


def test_a_child_uses_the_gpu_that_its_mask_names(gpus: FakeGpus) -> None:
    gpus.engines_hold(2 * GIB)
    mask = {**gpus.env, "CUDA_VISIBLE_DEVICES": gpus.uuids[0]}
    env = {"PATH": "/usr/bin:/bin", **mask}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=env) as engine:
        assert engine.stdin is not None
        assert engine.stdout is not None
        engine.stdin.write(b"up\n")
        assert engine.stdout.readline() == b"up\n"  # a program that has just begun shows no environment yet
        with gpus.loaded():
            pynvml.nvmlInit()
            first, second = (pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(2))
            found = pynvml.nvmlDeviceGetComputeRunningProcesses(first)
            assert [(process.pid, process.usedGpuMemory) for process in found] == [(engine.pid, 2 * GIB)]
            assert pynvml.nvmlDeviceGetMemoryInfo(first).used == 2 * GIB
            assert pynvml.nvmlDeviceGetComputeRunningProcesses(second) == []
            pynvml.nvmlShutdown()
        engine.communicate()


def test_a_child_process_has_the_machine_of_its_test(gpus: FakeGpus) -> None:
    gpus.lose(0)
    code = """
import pynvml
pynvml.nvmlInit()
print(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(1)))
try:
    pynvml.nvmlDeviceGetHandleByIndex(0)
except pynvml.NVMLError_GpuIsLost as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=gpus.env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["NVIDIA GeForce RTX 3060", "GPU is lost"]


def test_a_card_that_is_gone_shifts_the_index_of_the_others(loaded_gpus: FakeGpus) -> None:
    pynvml.nvmlInit()
    gone = pynvml.nvmlDeviceGetHandleByIndex(0)
    loaded_gpus.remove(0)
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(0)) == loaded_gpus.uuids[0]
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetName(gone)
    pynvml.nvmlShutdown()


def test_calls_can_be_refused_by_name(loaded_gpus: FakeGpus) -> None:
    pynvml.nvmlInit()
    loaded_gpus.refuse("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_NOT_SUPPORTED, device=1)
    loaded_gpus.refuse("nvmlDeviceGetCount_v2", pynvml.NVML_ERROR_NO_PERMISSION)
    assert pynvml.nvmlDeviceGetUtilizationRates(pynvml.nvmlDeviceGetHandleByIndex(0)).gpu == 0
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetUtilizationRates(pynvml.nvmlDeviceGetHandleByIndex(1))
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlShutdown()


def test_a_driver_that_is_gone_and_a_file_that_cannot_be_read_are_errors(
    loaded_gpus: FakeGpus, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded_gpus.break_driver(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    with pytest.raises(pynvml.NVMLError_LibRmVersionMismatch):
        pynvml.nvmlInit()
    loaded_gpus.state.write_text("device 0\nnonsense 3\n")
    with pytest.raises(pynvml.NVMLError_Unknown):
        pynvml.nvmlInit()
    assert f"{loaded_gpus.state}:2 cannot be read: nonsense 3" in capfd.readouterr().err
    loaded_gpus.state.unlink()
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a driver")
def test_afterwards_this_process_has_no_nvml_again(gpus: FakeGpus) -> None:
    with gpus.loaded():
        pynvml.nvmlInit()
        pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_LibraryNotFound):
        pynvml.nvmlInit()

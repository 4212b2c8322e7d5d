"""Asks NVML which GPUs there are, how full and busy they are, and which processes use them.

Decides nothing. A machine without a driver is a value that says so, never an exception; so is a driver that goes away.
The calls block for milliseconds (a sleeping GPU: a second): callers use a thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import pynvml

from contracts.pools import Gpu
from pool_managerd.devices import DeviceProcess, Inventory

_T = TypeVar("_T")


class Gpus(Protocol):
    """What pool-managerd needs to know of GPUs. Both calls may block; neither raises."""

    def inventory(self) -> Inventory:
        """The GPUs with their memory and utilization right now, or why they cannot be listed."""

    def processes(self) -> tuple[DeviceProcess, ...]:
        """Who has memory on which GPU; empty where that cannot be told."""


class NvmlGpus:
    """The GPUs as the NVIDIA driver sees them."""

    def __init__(self) -> None:
        # NVML counts its initializations; one lock keeps ours and the calls that rely on it together.
        self._lock = threading.Lock()
        self._ready = False

    def inventory(self) -> Inventory:
        """See ``Gpus``."""
        found = self._ask(_inventory)
        return _unavailable(found) if isinstance(found, pynvml.NVMLError) else found

    def processes(self) -> tuple[DeviceProcess, ...]:
        """See ``Gpus``."""
        found = self._ask(_processes)
        return () if isinstance(found, pynvml.NVMLError) else found

    def close(self) -> None:
        """Let go of the driver."""
        with self._lock:
            if self._ready:
                self._ready = False
                _quietly(pynvml.nvmlShutdown)

    def _ask(self, question: Callable[[], _T]) -> _T | pynvml.NVMLError:
        """Ask, connected to the driver; after a failure the next question connects anew."""
        with self._lock:
            try:
                if not self._ready:
                    pynvml.nvmlInit()
                    self._ready = True
                return question()
            except pynvml.NVMLError as error:
                if self._ready:
                    self._ready = False
                    _quietly(pynvml.nvmlShutdown)
                return error


def _inventory() -> Inventory:
    driver = str(pynvml.nvmlSystemGetDriverVersion())
    return Inventory(gpus=tuple(_gpu(number, driver) for number in range(pynvml.nvmlDeviceGetCount())))


def _gpu(number: int, driver: str) -> Gpu:
    device = pynvml.nvmlDeviceGetHandleByIndex(number)
    memory = pynvml.nvmlDeviceGetMemoryInfo(device)
    return Gpu(
        index=number,
        uuid=str(pynvml.nvmlDeviceGetUUID(device)),
        name=str(pynvml.nvmlDeviceGetName(device)),
        vram_total_bytes=int(memory.total),
        vram_used_bytes=int(memory.used),
        driver=driver,
        utilization=_utilization(device),
    )


def _utilization(device: Any) -> float | None:  # noqa: ANN401 - an opaque handle
    try:
        return float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu) / 100
    except pynvml.NVMLError_NotSupported:
        return None


def _processes() -> tuple[DeviceProcess, ...]:
    found = []
    for number in range(pynvml.nvmlDeviceGetCount()):
        device = pynvml.nvmlDeviceGetHandleByIndex(number)
        uuid = str(pynvml.nvmlDeviceGetUUID(device))
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(device):
            used = process.usedGpuMemory
            found.append(DeviceProcess(uuid=uuid, pid=int(process.pid), used_bytes=None if used is None else int(used)))
    return tuple(found)


def _unavailable(error: Exception) -> Inventory:
    missing = isinstance(error, pynvml.NVMLError_LibraryNotFound)
    problem = "the NVIDIA driver's library libnvidia-ml.so.1 is not there" if missing else f"NVML says: {error}"
    hint = (
        "install the NVIDIA driver"
        if missing
        else "nvidia-smi says more; after a driver update the machine must restart"
    )
    return Inventory(problem=problem, hint=f"{hint}, or set profile: trial to look around without a GPU")


def _quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(pynvml.NVMLError):
        call()

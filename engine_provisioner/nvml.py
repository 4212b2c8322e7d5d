"""Asks the NVIDIA driver, through NVML, which GPUs there are: what each one is, how full and how busy.

Decides nothing; what a refusal means is ``engine_provisioner.gpu_faults``'s. Each call blocks for milliseconds (a
sleeping GPU: a second) and wants NVML to be initialized.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pynvml

from contracts.base import Message
from contracts.pools import Gpu
from engine_provisioner.cuda import Driver
from engine_provisioner.gpu_faults import NOT_TOLD, OF_THE_DRIVER, LostGpu, lost_gpu

_T = TypeVar("_T")

Handle = Any
"""NVML's opaque pointer to a device."""


class Survey(Message, frozen=True, kw_only=True):
    """The GPUs that work and those that do not, by index."""

    gpus: tuple[Gpu, ...] = ()
    lost: tuple[LostGpu, ...] = ()


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """NVML, initialized. Raises NVMLError."""
    pynvml.nvmlInit()
    try:
        yield
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def survey() -> Survey:
    """Every GPU; one that fails does not hide the others. Raises NVMLError where the driver as a whole fails."""
    version = str(pynvml.nvmlSystemGetDriverVersion())
    seen = tuple(ask_each(lambda handle, identity: _read(handle, identity, version)))
    return Survey(
        gpus=tuple(gpu for gpu in seen if isinstance(gpu, Gpu)),
        lost=tuple(gpu for gpu in seen if isinstance(gpu, LostGpu)),
    )


def driver() -> Driver:
    """Which driver it is. Raises NVMLError."""
    cuda = None
    with contextlib.suppress(pynvml.NVMLError):
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    return Driver(version=str(pynvml.nvmlSystemGetDriverVersion()), cuda=cuda)


class Identity(Message, frozen=True, kw_only=True):
    """Which GPU it is."""

    index: int
    uuid: str
    name: str


def ask_each(question: Callable[[Handle, Identity], _T]) -> Iterator[_T | LostGpu]:
    """Ask every GPU in the order of NVML's index. Raises NVMLError where the driver as a whole fails."""
    for index in range(pynvml.nvmlDeviceGetCount()):
        uuid = name = None
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(pynvml.nvmlDeviceGetUUID(handle))
            name = str(pynvml.nvmlDeviceGetName(handle))
            yield question(handle, Identity(index=index, uuid=uuid, name=name))
        except pynvml.NVMLError as error:
            if error.value in OF_THE_DRIVER:
                raise
            yield lost_gpu(index, error.value, str(error), uuid=uuid, name=name)


def told(question: Callable[[Handle], _T], handle: Handle) -> _T | None:
    """A fact that not every GPU and driver tells. Raises NVMLError where the GPU or the driver fails."""
    try:
        return question(handle)
    except pynvml.NVMLError as error:
        if error.value in NOT_TOLD:
            return None
        raise


def _read(handle: Handle, identity: Identity, driver: str) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    rates = told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    capability = told(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return Gpu(
        index=identity.index,
        uuid=identity.uuid,
        name=identity.name,
        vram_total_bytes=int(memory.total),
        vram_used_bytes=int(memory.used),
        driver=driver,
        utilization=None if rates is None else float(rates.gpu) / 100,
        compute_capability=None if capability is None else ".".join(map(str, capability)),
    )

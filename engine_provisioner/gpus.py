"""The NVIDIA GPUs that the driver shows, and what is missing for a pool that wants some of them.

Decides whether a pool's devices are there. Never falls back: without them a home profile has no engine. How the driver
is asked is ``engine_provisioner.nvml``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pynvml

from contracts.config import Pool
from contracts.engines import Finding
from contracts.pools import Gpu
from engine_provisioner.cuda import Driver
from engine_provisioner.gpu_faults import LostGpu, driver_fault
from engine_provisioner.gpu_mask import named
from engine_provisioner.nvml import Survey, connected, driver, survey

WHY = "profile home computes on NVIDIA GPUs only, and nothing ever falls back to the CPU"


class GpuUnavailable(Exception):  # noqa: N818 - it says what is the case
    """The driver shows no GPU at all. ``hint`` is the mend."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def survey_gpus() -> Survey:
    """What NVML shows, with the GPUs that do not work. Blocks for a moment. Raises GpuUnavailable."""
    try:
        with connected():
            return survey()
    except pynvml.NVMLError as error:
        raise unavailable(error) from error


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that work. Blocks for a moment. Raises GpuUnavailable, also where there are only lost ones."""
    seen = survey_gpus()
    if seen.lost and not seen.gpus:
        raise GpuUnavailable("; ".join(gpu.message for gpu in seen.lost), seen.lost[0].hint)
    return seen.gpus


def visible_driver() -> Driver | None:
    """The driver; None where it does not answer, which ``visible_gpus`` tells. Blocks for a moment."""
    try:
        with connected():
            return driver()
    except pynvml.NVMLError:
        return None


def unavailable(error: pynvml.NVMLError) -> GpuUnavailable:
    """NVML's refusal in the operator's words."""
    fault = driver_fault(error.value, str(error))
    return GpuUnavailable(fault.message, fault.hint)


def gpu_findings(pool: Pool, gpus: Callable[[], Sequence[Gpu]], *, lost: Sequence[LostGpu] = ()) -> tuple[Finding, ...]:
    """Every device of the pool that is not there. ``gpus`` raises GpuUnavailable.

    ``lost`` are devices that are known not to work, and told already: nothing is said of them.
    """
    try:
        there = gpus()
    except GpuUnavailable as error:
        return (Finding(check="gpu", message=error.message, why=WHY, hint=error.hint),)
    if not there:
        hint = "is the card seated, powered and shown by lspci? nvidia-smi -L lists what the driver sees"
        return (Finding(check="gpu", message="the NVIDIA driver shows no GPU", why=WHY, hint=hint),)
    known: tuple[Gpu | LostGpu, ...] = (*there, *lost)
    hint = f"set pools[].devices to some of: {', '.join(f'{gpu.index} ({gpu.uuid})' for gpu in there)}"
    found = [
        Finding(check="gpu", message=f"pool {pool.id} wants GPU {device}, which is not there", why=WHY, hint=hint)
        for device in pool.devices
        if not named(device, known)
    ]
    if len({type(device) for device in pool.devices}) > 1:
        text = f"pool {pool.id} names some of its GPUs by index and some by UUID"
        found.append(
            Finding(check="gpu", message=text, why="CUDA reads one of the two, and ignores the rest", hint=hint)
        )
    return tuple(found)


def mask_of(pool: Pool) -> dict[str, str]:
    """The environment that shows an engine the GPUs of its pool and no other, numbered as nvidia-smi does."""
    if not pool.devices:
        return {}  # every GPU
    visible = ",".join(str(device) for device in pool.devices)
    return {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

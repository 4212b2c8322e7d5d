"""The NVIDIA GPUs that the driver shows, and what is missing for a pool that wants some of them.

Decides whether a pool's devices are there. Never falls back: without them a home profile has no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pynvml

from contracts.config import Pool
from contracts.engines import Finding
from contracts.pools import Gpu

WHY = "profile home computes on NVIDIA GPUs only, and nothing ever falls back to the CPU"


class GpuUnavailable(Exception):  # noqa: N818 - it says what is the case
    """The driver shows no GPU at all. ``hint`` is the mend."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def visible_gpus() -> tuple[Gpu, ...]:
    """What NVML shows. Blocks for a moment. Raises GpuUnavailable."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise unavailable(error) from error
    try:
        return tuple(_read(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        raise unavailable(error) from error
    finally:
        pynvml.nvmlShutdown()


def unavailable(error: pynvml.NVMLError) -> GpuUnavailable:
    """NVML's refusal in the operator's words."""
    match error.value:
        case pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return GpuUnavailable(
                "no NVIDIA driver is installed (libnvidia-ml.so.1 is missing)",
                "install the NVIDIA driver and reboot, or set profile: trial to look around without a GPU",
            )
        case pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            return GpuUnavailable("the NVIDIA driver was updated while its old kernel module is loaded", "reboot")
        case _:
            text = f"the NVIDIA driver does not work: {error}"
            return GpuUnavailable(text, "nvidia-smi shows more; is the kernel module loaded (lsmod | grep nvidia)?")


def gpu_findings(pool: Pool, gpus: Callable[[], Sequence[Gpu]]) -> tuple[Finding, ...]:
    """Every device of the pool that is not there. ``gpus`` raises GpuUnavailable."""
    try:
        there = gpus()
    except GpuUnavailable as error:
        return (Finding(check="gpu", message=error.message, why=WHY, hint=error.hint),)
    if not there:
        hint = "is the card seated, powered and shown by lspci? nvidia-smi -L lists what the driver sees"
        return (Finding(check="gpu", message="the NVIDIA driver shows no GPU", why=WHY, hint=hint),)
    hint = f"set pools[].devices to some of: {', '.join(f'{gpu.index} ({gpu.uuid})' for gpu in there)}"
    found = [
        Finding(check="gpu", message=f"pool {pool.id} wants GPU {device}, which is not there", why=WHY, hint=hint)
        for device in pool.devices
        if not any(_is_named(gpu, device) for gpu in there)
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


def _is_named(gpu: Gpu, device: int | str) -> bool:
    """Whether this is the GPU; CUDA takes the beginning of a UUID, so do we."""
    return gpu.uuid.startswith(device) if isinstance(device, str) else gpu.index == device


def _read(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        vram_total_bytes=memory.total,
        vram_used_bytes=memory.used,
        driver=pynvml.nvmlSystemGetDriverVersion(),
    )

"""The NVIDIA GPUs of this machine, as NVML shows them.

Decides nothing: it reads once and lets go. Watching them is pool-managerd's.
"""

from __future__ import annotations

import pynvml

from contracts.pools import Gpu
from daemon_core.errors import StartupError

NO_DRIVER = "install NVIDIA's driver and see that nvidia-smi lists the GPUs; without one: llama-orch init --trial"


class NoGpuError(StartupError):
    """NVML shows no GPU."""


def list_gpus() -> tuple[Gpu, ...]:
    """Every GPU, by index. Raises NoGpuError where there is none or NVML cannot be asked."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoGpuError(f"NVML cannot be used: {error}", NO_DRIVER) from error
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        gpus = tuple(_gpu(index, driver) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        raise NoGpuError(f"NVML failed: {error}", "nvidia-smi -q says more; the kernel's log too") from error
    finally:
        pynvml.nvmlShutdown()
    if not gpus:
        raise NoGpuError("NVML shows no NVIDIA GPU", NO_DRIVER)
    return gpus


def _gpu(index: int, driver: str) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        vram_total_bytes=int(memory.total),
        vram_used_bytes=int(memory.used),
        driver=driver,
    )


def _text(value: str | bytes) -> str:
    """Older releases of the binding answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value

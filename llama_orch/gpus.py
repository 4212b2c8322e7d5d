"""The NVIDIA GPUs of this machine, for commands that need some.

Decides only how their absence is told: ``engine_provisioner.gpus`` asks the driver.
"""

from __future__ import annotations

from contracts.pools import Gpu
from daemon_core.errors import StartupError
from engine_provisioner.gpus import GpuUnavailable, visible_gpus


class NoGpuError(StartupError):
    """There is no GPU to work with."""


def list_gpus() -> tuple[Gpu, ...]:
    """Every GPU, by index. Blocks for a moment. Raises NoGpuError where there is none."""
    try:
        gpus = visible_gpus()
    except GpuUnavailable as error:
        raise NoGpuError(error.message, error.hint) from error
    if not gpus:
        raise NoGpuError("the NVIDIA driver shows no GPU", "nvidia-smi -L lists what the driver sees")
    return gpus

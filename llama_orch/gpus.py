"""The NVIDIA GPUs of this machine, for commands that need some.

Decides only how their absence is told: ``engine_provisioner.gpus`` asks the driver.
"""

from __future__ import annotations

from contracts.pools import Gpu
from daemon_core.errors import StartupError
from engine_provisioner.gpus import GpuUnavailable, survey_gpus, visible_gpus
from engine_provisioner.nvml import Survey


class NoGpuError(StartupError):
    """There is no GPU to work with."""


def list_gpus() -> tuple[Gpu, ...]:
    """Every GPU that works, by index. Blocks for a moment. Raises NoGpuError where there is none."""
    try:
        gpus = visible_gpus()
    except GpuUnavailable as error:
        raise NoGpuError(error.message, error.hint) from error
    if not gpus:
        raise _none()
    return gpus


def look_at_gpus() -> Survey:
    """Every GPU, with those that do not work. Blocks for a moment. Raises NoGpuError where there is neither."""
    try:
        seen = survey_gpus()
    except GpuUnavailable as error:
        raise NoGpuError(error.message, error.hint) from error
    if not seen.gpus and not seen.lost:
        raise _none()
    return seen


def _none() -> NoGpuError:
    return NoGpuError("the NVIDIA driver shows no GPU", "nvidia-smi -L lists what the driver sees")

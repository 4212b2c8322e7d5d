"""NVML shows the GPUs that the pools name."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.config import Config, Profile
from contracts.pools import Gpu
from llama_orch.doctor.base import Machine, Result, failed, ok, skipped
from llama_orch.gpus import NoGpuError, list_gpus

CHECK = "gpus"
GIB = 1 << 30


async def check(machine: Machine) -> Sequence[Result]:
    """The GPUs that are there, and each device of a pool that is not."""
    config = machine.config
    if config is not None and config.profile is Profile.TRIAL:
        return [skipped(CHECK, "profile trial needs none")]
    try:
        gpus = list_gpus()
    except NoGpuError as error:
        why = "profile home is GPU only: no engine starts without one, and nothing falls back to the CPU"
        return [failed(CHECK, error.message, why, error.hint or "install NVIDIA's driver")]
    names = "; ".join(f"{gpu.index}: {gpu.name}, {gpu.vram_total_bytes / GIB:.0f} GiB" for gpu in gpus)
    missing = [] if config is None else _missing(config, gpus)
    return missing or [ok(CHECK, f"driver {gpus[0].driver}; {names}")]


def _missing(config: Config, gpus: tuple[Gpu, ...]) -> list[Result]:
    known = {gpu.index for gpu in gpus} | {gpu.uuid for gpu in gpus}
    listed = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
    return [
        failed(
            CHECK,
            f"pool {pool.id}: there is no GPU {device}",
            "the pool is never placed on another one",
            f"name one of these in devices: {listed}",
        )
        for pool in config.pools
        for device in pool.devices
        if device not in known
    ]

"""The driver shows the GPUs that the pools name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from contracts.config import Mode, Profile
from engine_provisioner.gpu_sharing import shared_gpus
from engine_provisioner.gpus import gpu_findings
from llama_orch.doctor.base import Machine, Result, failed, ok, skipped
from llama_orch.gpus import NoGpuError, look_at_gpus

CHECK = "gpus"
GIB = 1 << 30
GPU_ONLY = "profile home is GPU only: no engine starts without one, and nothing falls back to the CPU"


async def check(machine: Machine) -> Sequence[Result]:
    """The GPUs that are there, and each device of a pool that is not."""
    config = machine.config
    if config is not None and config.profile is Profile.TRIAL:
        return [skipped(CHECK, "profile trial needs none")]
    if config is not None and config.pools and all(pool.mode is Mode.EXTERNAL for pool in config.pools):
        return [skipped(CHECK, "every pool has its engine elsewhere, and needs none")]
    try:
        seen = await asyncio.to_thread(look_at_gpus)
    except NoGpuError as error:
        return [failed(CHECK, error.message, GPU_ONLY, error.hint or "install NVIDIA's driver")]
    lost = [failed(CHECK, gpu.message, GPU_ONLY, gpu.hint) for gpu in seen.lost]
    if not seen.gpus:
        return lost
    pools = () if config is None else tuple(pool for pool in config.pools if pool.mode is not Mode.EXTERNAL)
    missing = [
        failed(CHECK, finding.message, finding.why, finding.hint)
        for pool in pools
        for finding in gpu_findings(pool, lambda: seen.gpus, lost=seen.lost)
    ]
    taken_twice = [
        failed(CHECK, shared.message, "pool-managerd refuses to start with it (exit status 78)", shared.hint)
        for shared in shared_gpus(pools, (*seen.gpus, *seen.lost))
    ]
    names = "; ".join(f"{gpu.index}: {gpu.name}, {gpu.vram_total_bytes / GIB:.0f} GiB" for gpu in seen.gpus)
    return lost + missing + taken_twice or [ok(CHECK, f"driver {seen.gpus[0].driver}; {names}")]

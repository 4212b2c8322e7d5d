"""Whether an engine fits into the host memory that is free, before it is started.

Decides what stays in host memory: what is not offloaded of the weights and the KV cache, or all of it in the trial
profile, and what the process itself needs. Offloaded weights pass through the page cache, which the kernel gives back.
Never reads how much is free.
"""

from __future__ import annotations

from contracts.config import Engine, Pool, Profile
from contracts.engines import ResolvedModel
from contracts.pools import Cause
from pool_managerd.footprint import GIB, MIB, Footprint, footprint, kv_cache_bytes
from pool_managerd.vram import Refusal, gib

NATIVE_PROCESS = 512 * MIB
TRIAL_PROCESS = 256 * MIB
TORCH_PROCESS = 3 * GIB
"""An interpreter with PyTorch, and the pinned buffers through which weights are loaded."""


def ram_refusal(
    model: ResolvedModel, pool: Pool, available_bytes: int, profile: Profile = Profile.HOME
) -> Refusal | None:
    """Why the host has too little memory for the engine; None where it has enough, or where somebody else runs it.

    ``available_bytes`` is what can be had without swapping: MemAvailable of ``/proc/meminfo``.
    """
    found = footprint(model, pool)
    if found is None:
        return None
    weights, kv, compute, process = _on_host(model, pool, found, profile)
    needed = weights + kv + compute + process
    if needed <= available_bytes:
        return None
    message = (
        f"the engine needs {gib(needed)} of host memory (weights {gib(weights)}, KV cache {gib(kv)}, "
        f"compute {gib(compute)}, its process {gib(process)}), and {gib(available_bytes)} are available"
    )
    return Refusal(cause=Cause.RAM_SHORT, message=message, hint=_mend(weights, kv, profile))


def _on_host(model: ResolvedModel, pool: Pool, found: Footprint, profile: Profile) -> tuple[int, int, int, int]:
    """Weights, KV cache, compute and process, in bytes."""
    if profile is Profile.TRIAL:
        return model.size_bytes, kv_cache_bytes(model.kv, pool), found.compute, TRIAL_PROCESS
    process = NATIVE_PROCESS if pool.engine is Engine.LLAMACPP else TORCH_PROCESS
    return found.host_weights, found.host_kv, 0, process


def _mend(weights: int, kv: int, profile: Profile) -> str:
    mends = ["end other programs"]
    if kv > GIB // 4:
        mends.append("lower ctx or slots")
    if weights > GIB:
        if profile is Profile.TRIAL:
            mends.append("use a smaller model")
        else:
            mends.append("keep less of the model off the GPUs (--n-cpu-moe, --cpu-moe, --cpu-offload-gb)")
    return ", or ".join(mends)

"""The GPUs that the pools name: there, working, and each pool's own.

Decides how they are told. Which devices are missing or shared, ``engine_provisioner`` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from contracts.config import Mode, Pool
from contracts.engines import Finding
from contracts.pools import Gpu
from engine_provisioner.gpu_faults import LostGpu, label
from engine_provisioner.gpu_mask import chosen
from engine_provisioner.gpu_sharing import shared_gpus
from llama_orch.doctor.base import Kind, Result, ok

CHECK = "gpus"
GIB = 1 << 30
GPU_ONLY = "profile home is GPU only: no engine starts without one, and nothing falls back to the CPU"

NONE = Kind(
    id="gpus.none",
    what="the driver shows no GPU",
    why=GPU_ONLY,
    mend="nvidia-smi -L lists what the driver sees; is the card seated, powered and shown by lspci?",
)
LOST = Kind(
    id="gpus.lost",
    what="a GPU is there and does not work: fallen off the bus, to be reset, not permitted",
    why=GPU_ONLY,
    mend="journalctl -k | grep -i xid says why; reboot",
)
MISSING = Kind(
    id="gpus.missing",
    what="a pool names a GPU that is not there",
    why=GPU_ONLY,
    mend="set pools[].devices to some of those that nvidia-smi -L lists",
)
TAKEN_TWICE = Kind(
    id="gpus.taken-twice",
    what="two pools want the same GPU, be it under two names",
    why="pool-managerd refuses to start with it (exit status 78)",
    mend="give each pool its own GPU, or set share: true on both pools",
)
SHARED = Kind(
    id="gpus.shared",
    what="pools share a GPU, as they were told to",
    why="their models, caches and computations share its memory and its time: one may find no room to start",
    mend="see that models and ctx of both fit: llama-orch pools shows what each holds",
    note=True,
)


def judge(
    pools: Sequence[Pool], gpus: Sequence[Gpu], lost: Sequence[LostGpu], missing: Sequence[Finding]
) -> list[Result]:
    """What is there, and what pools want of it; ``missing`` is the provisioner's word on the devices of all pools."""
    if not gpus and not lost:
        return [NONE.found("the NVIDIA driver shows no GPU")]
    everything: tuple[Gpu | LostGpu, ...] = (*gpus, *lost)
    found = [LOST.found(gpu.message, gpu.hint) for gpu in lost]
    if gpus:
        found += [MISSING.found(finding.message, finding.hint) for finding in missing]
        found += [TAKEN_TWICE.found(shared.message, shared.hint) for shared in shared_gpus(pools, everything)]
        found += _agreed(pools, everything)
    names = "; ".join(f"{gpu.index}: {gpu.name}, {gpu.vram_total_bytes / GIB:.0f} GiB" for gpu in gpus)
    bad = any(result.status is not SHARED.status for result in found)
    return found if bad else [ok(CHECK, names), *found]


def _agreed(pools: Sequence[Pool], gpus: Sequence[Gpu | LostGpu]) -> list[Result]:
    local = [pool for pool in pools if pool.mode is not Mode.EXTERNAL and pool.share]
    found = []
    for first, second in combinations(local, 2):
        others = chosen(second.devices, gpus)
        if common := [gpu for gpu in chosen(first.devices, gpus) if gpu in others]:
            names = ", ".join(label(gpu.index, gpu.name, gpu.uuid) for gpu in common)
            found.append(SHARED.found(f"pools {first.id} and {second.id} share {names}"))
    return found

"""Decides which pools want the same GPU, be it named by index in one and by UUID in the other, and how that is said.

Never asks which GPUs there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from contracts.base import Message
from contracts.config import Mode, Pool
from contracts.engines import Finding
from contracts.pools import Gpu
from engine_provisioner.gpu_faults import LostGpu, label
from engine_provisioner.gpu_mask import chosen

HINT = "give each pool its own GPU, or set share: true on both pools"


class SharedGpu(Message, frozen=True, kw_only=True):
    """Two pools that have GPUs in common and do not both agree to share them."""

    pools: tuple[str, str]
    message: str
    hint: str = HINT


def shared_gpus(pools: Iterable[Pool], gpus: Sequence[Gpu | LostGpu]) -> tuple[SharedGpu, ...]:
    """Pairs of pools whose masks name the same GPU, working or not, where not both have ``share: true``."""
    local = [pool for pool in pools if pool.mode is not Mode.EXTERNAL]
    found = []
    for first, second in combinations(local, 2):
        others = chosen(second.devices, gpus)
        common = [gpu for gpu in chosen(first.devices, gpus) if gpu in others]
        if common and not (first.share and second.share):
            names = ", ".join(label(gpu.index, gpu.name, gpu.uuid) for gpu in common)
            message = f"pools {first.id} and {second.id} both want {names}"
            found.append(SharedGpu(pools=(first.id, second.id), message=message))
    return tuple(found)


def sharing_findings(pool: Pool, pools: Iterable[Pool], gpus: Sequence[Gpu | LostGpu]) -> tuple[Finding, ...]:
    """What is said to one pool of the GPUs that another one wants, too."""
    why = "the daemon refuses to start with it (exit status 78)"
    return tuple(
        Finding(check="gpu", message=shared.message, why=why, hint=shared.hint)
        for shared in shared_gpus(pools, gpus)
        if pool.id in shared.pools
    )

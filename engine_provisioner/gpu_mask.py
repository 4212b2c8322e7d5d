"""Decides which GPUs a pool's ``devices`` name: the one reading of a mask, for the daemon and for every provider.

Never asks whether a GPU works, or whether a mask makes sense.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from contracts.pools import Gpu
from engine_provisioner.gpu_faults import LostGpu

_Device = TypeVar("_Device", bound=Gpu | LostGpu)


def named(device: int | str, gpus: Iterable[_Device]) -> tuple[_Device, ...]:
    """Those that one entry names: by index, or by UUID or its beginning, as CUDA reads them. More than one: unclear."""
    if isinstance(device, int):
        return tuple(gpu for gpu in gpus if gpu.index == device)
    return tuple(gpu for gpu in gpus if gpu.uuid is not None and gpu.uuid.startswith(device))


def chosen(mask: Iterable[int | str], gpus: Sequence[_Device]) -> tuple[_Device, ...]:
    """Those that a mask names, in its order; an empty one names all."""
    entries = tuple(mask)
    return tuple(gpu for device in entries for gpu in named(device, gpus)) if entries else tuple(gpus)

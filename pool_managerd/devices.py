"""Decides whether a pool's devices exist and whether its engine computes on them and on nothing else.

Values in, values out: what NVML shows is an argument. Where something is wrong, the answer says what, and the mend.
"""

from __future__ import annotations

from collections.abc import Iterable

from contracts.base import Message
from contracts.pools import DeviceUse, Gpu


class Inventory(Message, frozen=True, kw_only=True):
    """The GPUs of this machine; ``problem`` and ``hint`` where they cannot be listed."""

    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None
    hint: str | None = None


class DeviceProcess(Message, frozen=True, kw_only=True):
    """A process that has memory on a GPU. ``used_bytes`` is None where the driver does not tell."""

    uuid: str
    pid: int
    used_bytes: int | None = None


class Trouble(Message, frozen=True, kw_only=True):
    """What is wrong with the devices of a pool, and the mend."""

    message: str
    hint: str
    final: bool = True
    """A later look will not show anything else."""


def find(mask: tuple[int | str, ...], inventory: Inventory) -> tuple[Gpu, ...] | Trouble:
    """The GPUs of a pool's mask (indices or UUIDs), in its order, or what is wrong."""
    if inventory.problem is not None:
        return Trouble(message=f"no NVIDIA GPU can be used: {inventory.problem}", hint=inventory.hint or _DRIVER_HINT)
    if not inventory.gpus:
        return Trouble(message="this machine has no NVIDIA GPU", hint=_DRIVER_HINT)
    if not mask:
        return inventory.gpus  # the machine's only pool: it takes them all
    missing = [device for device in mask if _match(device, inventory.gpus) is None]
    if missing:
        names = ", ".join(str(device) for device in missing)
        there = "; ".join(f"{gpu.index}: {gpu.name} {gpu.uuid}" for gpu in inventory.gpus)
        return Trouble(message=f"no such GPU: {names}", hint=f"set devices to what this machine has ({there})")
    return tuple(gpu for device in mask if (gpu := _match(device, inventory.gpus)) is not None)


_DRIVER_HINT = (
    "nvidia-smi must list the GPUs: install the NVIDIA driver, or set profile: trial to look around without one"
)


def on_its_devices(
    mask: Iterable[str], engine_pids: frozenset[int], processes: Iterable[DeviceProcess]
) -> Trouble | None:
    """Whether an engine that generated a token has memory on GPUs of its mask (UUIDs), and on no other."""
    allowed = frozenset(mask)
    used = {process.uuid for process in processes if process.pid in engine_pids}
    if outside := sorted(used - allowed):
        message = f"the engine uses {', '.join(outside)}, which is not in this pool's devices"
        return Trouble(
            message=message, hint="remove flags and env of the pool that choose devices (--device, --main-gpu)"
        )
    if not used:
        message = f"the engine answers, but not from a GPU: NVML shows no process of it on {', '.join(sorted(allowed))}"
        hint = "it was built without CUDA or does not fit: look for the offloaded layers in its log"
        return Trouble(message=message, hint=hint, final=False)
    return None


def use_of(gpus: Iterable[Gpu]) -> tuple[DeviceUse, ...]:
    """How full and how busy GPUs are."""
    return tuple(
        DeviceUse(
            device=gpu.uuid,
            vram_total_bytes=gpu.vram_total_bytes,
            vram_used_bytes=gpu.vram_used_bytes,
            utilization=gpu.utilization,
        )
        for gpu in gpus
    )


def _match(device: int | str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    """By index, or by UUID or its beginning, as CUDA reads them."""
    return next((gpu for gpu in gpus if device == gpu.index or gpu.uuid.startswith(str(device))), None)

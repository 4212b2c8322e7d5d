"""Decides whether a pool's devices exist and whether its engine computes on them and on nothing else.

Values in, values out: what NVML shows is an argument. Where something is wrong, the answer says what, and the mend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec.structs import replace

from contracts.base import Message
from contracts.pools import Cause, DeviceUse, Gpu
from engine_provisioner.gpu_faults import LostGpu, vanished
from engine_provisioner.gpu_mask import named
from pool_managerd.xid import FALLEN_OFF_THE_BUS

GIB = 1 << 30


class Inventory(Message, frozen=True, kw_only=True):
    """The GPUs of this machine; ``problem``, ``hint`` and ``cause`` where none can be listed."""

    gpus: tuple[Gpu, ...] = ()
    """Those that work."""
    lost: tuple[LostGpu, ...] = ()
    problem: str | None = None
    hint: str | None = None
    cause: Cause = Cause.NO_GPU

    @property
    def all(self) -> tuple[Gpu | LostGpu, ...]:
        """Every GPU, working or not."""
        return (*self.gpus, *self.lost)


class DeviceProcess(Message, frozen=True, kw_only=True):
    """A process that has memory on a GPU. ``used_bytes`` is None where the driver does not tell."""

    uuid: str
    pid: int
    used_bytes: int | None = None


class Untold(Message, frozen=True, kw_only=True):
    """It cannot be told which processes use a GPU; ``uuid`` is None where that concerns every GPU, or one unknown."""

    uuid: str | None = None
    message: str
    hint: str


class EventKind(StrEnum):
    """What happened to a GPU."""

    LOST = "lost"
    XID = "xid"
    ECC = "ecc"


class GpuEvent(Message, frozen=True, kw_only=True):
    """Something that happened to a GPU.

    ``number`` is that of an Xid, or how many uncorrectable memory errors came up; 0 for a GPU that was lost.
    """

    uuid: str
    kind: EventKind
    number: int = 0
    fatal: bool = True
    """The GPU is not to be used before somebody did something about it."""
    message: str
    hint: str

    @property
    def cause(self) -> Cause:
        """What a pool on this GPU reports, where the event is fatal."""
        off_the_bus = self.kind is EventKind.XID and self.number == FALLEN_OFF_THE_BUS
        return Cause.GPU_LOST if off_the_bus or self.kind is EventKind.LOST else Cause.GPU_ERROR


class Trouble(Message, frozen=True, kw_only=True):
    """What is wrong with the devices of a pool, and the mend."""

    cause: Cause
    message: str
    hint: str
    final: bool = True
    """A later look will not show anything else."""


# --- what there is ----------------------------------------------------------------------------------------------------


def settle(gpus: tuple[Gpu, ...], lost: tuple[LostGpu, ...], known: Mapping[str, Gpu]) -> Inventory:
    """What NVML shows now, in the light of what it showed before (by UUID).

    A lost GPU keeps the name that it had. While no GPU comes in, an index means the card that it meant at first: a card
    that falls off the bus may shift NVML's indices, and must never hand its place in a mask to another one.
    """
    away = _away(gpus, lost, known)
    lost = tuple(_recognized(each, away) for each in lost)
    if any(gpu.uuid not in known for gpu in gpus):
        return Inventory(gpus=gpus, lost=lost)
    gone = tuple(vanished(gpu) for gpu in away)
    return Inventory(
        gpus=tuple(sorted((replace(gpu, index=known[gpu.uuid].index) for gpu in gpus), key=lambda gpu: gpu.index)),
        lost=tuple(sorted((*lost, *gone), key=lambda each: each.index)),
    )


def _away(gpus: tuple[Gpu, ...], lost: tuple[LostGpu, ...], known: Mapping[str, Gpu]) -> list[Gpu]:
    """The known GPUs that NVML does not name now."""
    named = {gpu.uuid for gpu in gpus} | {each.uuid for each in lost}
    return [gpu for uuid, gpu in known.items() if uuid not in named]


def _recognized(lost: LostGpu, away: list[Gpu]) -> LostGpu:
    """A lost GPU that does not say who it is, as the one that it must be: that one is taken from ``away``."""
    if lost.uuid is not None or not away:
        return lost
    gpu = next((gpu for gpu in away if gpu.index == lost.index), away[0])
    away.remove(gpu)
    return replace(lost, index=gpu.index, uuid=gpu.uuid, name=gpu.name)


def find(mask: tuple[int | str, ...], inventory: Inventory) -> tuple[Gpu, ...] | Trouble:
    """The GPUs of a pool's mask (indices or UUIDs), in its order, or what is wrong."""
    if inventory.problem is not None:
        message = f"no NVIDIA GPU can be used: {inventory.problem}"
        return Trouble(cause=inventory.cause, message=message, hint=inventory.hint or _DRIVER_HINT)
    if not inventory.gpus and not inventory.lost:
        return Trouble(cause=Cause.NO_GPU, message="this machine has no NVIDIA GPU", hint=_DRIVER_HINT)
    if not mask:
        # The machine's only pool takes every GPU: without the lost one it would quietly be another pool.
        return _every_gpu(inventory)
    each_named = [(device, named(device, inventory.all)) for device in mask]
    if missing := [str(device) for device, found in each_named if not found]:
        return _wrong(f"no such GPU: {', '.join(missing)}", inventory)
    if unclear := [str(device) for device, found in each_named if len(found) > 1]:
        return _wrong(f"more than one GPU is called {', '.join(unclear)}", inventory)
    those = [found[0] for _, found in each_named]
    if lost := tuple(each for each in those if isinstance(each, LostGpu)):
        return _all_lost(lost)
    gpus = tuple(each for each in those if isinstance(each, Gpu))
    if len({gpu.uuid for gpu in gpus}) < len(gpus):
        return _wrong(f"a GPU is named twice: {', '.join(map(str, mask))}", inventory)
    return gpus


def _every_gpu(inventory: Inventory) -> tuple[Gpu, ...] | Trouble:
    if not inventory.lost:
        return inventory.gpus
    trouble = _all_lost(inventory.lost)
    others = ", ".join(str(gpu.index) for gpu in inventory.gpus)
    return replace(trouble, hint=f"{trouble.hint}; or set devices: [{others}]") if others else trouble


def _all_lost(lost: tuple[LostGpu, ...]) -> Trouble:
    first = lost[0]
    return Trouble(cause=first.cause, message="; ".join(each.message for each in lost), hint=first.hint)


def _wrong(message: str, inventory: Inventory) -> Trouble:
    there = "; ".join(f"{each.index}: {each.name} {each.uuid}" for each in inventory.all)
    hint = f"set devices to what this machine has ({there})"
    return Trouble(cause=Cause.NO_GPU, message=message, hint=hint)


_DRIVER_HINT = (
    "nvidia-smi must list the GPUs: install the NVIDIA driver, or set profile: trial to look around without one"
)


# --- who uses it ------------------------------------------------------------------------------------------------------


def on_its_devices(
    mask: Iterable[str],
    engine_pids: frozenset[int],
    processes: Iterable[DeviceProcess | Untold],
    least_bytes: int | None = None,
) -> Trouble | None:
    """Whether an engine that generated a token has memory on GPUs of its mask (UUIDs), and on no other.

    With ``least_bytes`` it must hold that much on them together. Where the driver does not tell how much a process
    holds, its presence is the proof; ``by_presence_alone`` says so.
    """
    allowed = frozenset(mask)
    seen = tuple(processes)
    held = _held(engine_pids, seen)
    if outside := sorted({process.uuid for process in held} - allowed):
        message = f"the engine uses {', '.join(outside)}, which is not in this pool's devices"
        hint = "remove flags and env of the pool that choose devices (--device, --main-gpu)"
        return Trouble(cause=Cause.WRONG_DEVICE, message=message, hint=hint)
    untold = [each for each in seen if isinstance(each, Untold) and (each.uuid is None or each.uuid in allowed)]
    total = _total(held)
    enough = bool(held) if least_bytes is None or total is None else total >= least_bytes and bool(held)
    if enough:
        return None
    if untold:
        message = f"it cannot be told whether the engine uses its GPUs: {untold[0].message}"
        return Trouble(cause=Cause.DRIVER, message=message, hint=untold[0].hint, final=False)
    if not held or total is None or least_bytes is None:
        message = f"the engine answers, but not from a GPU: NVML shows no process of it on {', '.join(sorted(allowed))}"
        hint = "it was built without CUDA or does not fit: look for the offloaded layers in its log"
        return Trouble(cause=Cause.ON_CPU, message=message, hint=hint, final=False)
    needs = f"the engine holds {_gib(total)} of the {_gib(least_bytes)} of VRAM that the model needs"
    hint = "let it offload every layer (no --n-gpu-layers below the model's), or give it more VRAM or a smaller model"
    return Trouble(cause=Cause.ON_CPU, message=f"{needs}: layers are on the CPU", hint=hint, final=False)


def by_presence_alone(
    mask: Iterable[str], engine_pids: frozenset[int], processes: Iterable[DeviceProcess | Untold]
) -> str | None:
    """What is to be said where the driver does not tell how much VRAM an engine holds; None where it does."""
    held = [process for process in _held(engine_pids, processes) if process.uuid in frozenset(mask)]
    if not held or _total(held) is not None:
        return None
    return "the driver does not tell how much VRAM a process holds: that the engine is on its GPUs is all that is known"


def _held(engine_pids: frozenset[int], processes: Iterable[DeviceProcess | Untold]) -> tuple[DeviceProcess, ...]:
    return tuple(each for each in processes if isinstance(each, DeviceProcess) and each.pid in engine_pids)


def _total(held: Iterable[DeviceProcess]) -> int | None:
    """Bytes, or None where one of them is not told."""
    total = 0
    for process in held:
        if process.used_bytes is None:
            return None
        total += process.used_bytes
    return total


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


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

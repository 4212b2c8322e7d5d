"""What NVML's refusals mean, for the driver as a whole and for one GPU, and what mends them.

Decides the wording and the cause, from error numbers. Never asks NVML: ``engine_provisioner.nvml`` does.
"""

from __future__ import annotations

from enum import IntEnum

from contracts.base import Message
from contracts.pools import Cause, Gpu


class Nvml(IntEnum):
    """The error numbers of nvml.h that mean something of their own here."""

    UNINITIALIZED = 1
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    OPERATING_SYSTEM = 17
    LIB_RM_VERSION_MISMATCH = 18
    NO_DATA = 21
    NOT_READY = 27
    UNKNOWN = 999


OF_THE_DRIVER = frozenset(
    {Nvml.UNINITIALIZED, Nvml.DRIVER_NOT_LOADED, Nvml.LIBRARY_NOT_FOUND, Nvml.LIB_RM_VERSION_MISMATCH}
)
"""Whoever gets one of these for one GPU gets it for all."""

NOT_TOLD = frozenset(
    {
        Nvml.NOT_SUPPORTED,
        Nvml.NO_PERMISSION,
        Nvml.FUNCTION_NOT_FOUND,
        Nvml.NO_DATA,
        Nvml.NOT_READY,
        Nvml.UNKNOWN,
    }
)
"""This GPU does not tell this fact; the GPU itself may work."""


class DriverFault(Message, frozen=True, kw_only=True):
    """Why no GPU can be listed."""

    cause: Cause
    message: str
    hint: str


class LostGpu(Message, frozen=True, kw_only=True):
    """A GPU that is there, or was, and cannot be used. ``uuid`` and ``name`` are None where NVML never told them."""

    index: int
    uuid: str | None = None
    name: str | None = None
    cause: Cause = Cause.GPU_LOST
    what: str
    """What is wrong with it, as the end of a sentence: ``has fallen off the bus``."""
    hint: str

    @property
    def message(self) -> str:
        """The whole sentence, with all that is known of the GPU."""
        return f"{label(self.index, self.name, self.uuid)} {self.what}"


def label(index: int, name: str | None, uuid: str | None) -> str:
    """A GPU for people: ``GPU 0 (NVIDIA GeForce RTX 3090, GPU-8f2c...)``."""
    known = ", ".join(part for part in (name, uuid) if part)
    return f"GPU {index} ({known})" if known else f"GPU {index}"


def driver_fault(code: int, text: str) -> DriverFault:
    """What a refusal means that concerns every GPU. ``text`` is NVML's own."""
    match code:
        case Nvml.LIBRARY_NOT_FOUND:
            return DriverFault(
                cause=Cause.NO_GPU,
                message="no NVIDIA driver is installed (libnvidia-ml.so.1 is missing)",
                hint="install the NVIDIA driver and reboot, or set profile: trial to look around without a GPU",
            )
        case Nvml.LIB_RM_VERSION_MISMATCH:
            message = "the NVIDIA driver was updated while its old kernel module is loaded"
            return DriverFault(cause=Cause.DRIVER, message=message, hint="reboot")
        case Nvml.NO_PERMISSION | Nvml.OPERATING_SYSTEM:
            message = f"this user may not use the NVIDIA driver: {text}"
            return DriverFault(cause=Cause.DRIVER, message=message, hint=_PERMISSION)
        case _:
            hint = "nvidia-smi shows more; is the kernel module loaded (lsmod | grep nvidia)?"
            return DriverFault(cause=Cause.DRIVER, message=f"the NVIDIA driver does not work: {text}", hint=hint)


def no_answer(seconds: float) -> DriverFault:
    """What it means that a question to the driver has no answer for so long."""
    message = f"the NVIDIA driver does not answer for {seconds:g} s"
    hint = "a GPU or its driver hangs: the kernel's log says more (journalctl -k | grep -i nvrm); reboot"
    return DriverFault(cause=Cause.DRIVER, message=message, hint=hint)


def lost_gpu(index: int, code: int, text: str, *, uuid: str | None = None, name: str | None = None) -> LostGpu:
    """What a refusal means that concerns one GPU. ``text`` is NVML's own."""
    match code:
        case Nvml.GPU_IS_LOST:
            cause, what, hint = Cause.GPU_LOST, "has fallen off the bus", _LOST
        case Nvml.RESET_REQUIRED:
            cause, what = Cause.GPU_LOST, "stopped working until it is reset"
            hint = f"end what uses it and run nvidia-smi --gpu-reset -i {index} as root, or reboot"
        case Nvml.NO_PERMISSION | Nvml.OPERATING_SYSTEM:
            cause, what, hint = Cause.DRIVER, f"may not be used by this user: {text}", _PERMISSION
        case Nvml.NOT_SUPPORTED | Nvml.FUNCTION_NOT_FOUND:
            cause, what = Cause.DRIVER, f"does not tell its name and memory through NVML: {text}"
            hint = "update the NVIDIA driver; a GPU without memory of its own cannot be used"
        case _:
            # "Unknown Error" is what many drivers say of a card that fell off the bus.
            cause, what, hint = Cause.GPU_LOST, f"does not answer: {text}", _LOST
    return LostGpu(index=index, uuid=uuid, name=name, cause=cause, what=what, hint=hint)


def vanished(gpu: Gpu) -> LostGpu:
    """A GPU that was there before and is not even counted any more."""
    what = "was there before, and the driver does not list it any more"
    return LostGpu(index=gpu.index, uuid=gpu.uuid, name=gpu.name, what=what, hint=_LOST)


_PERMISSION = "see that this user may read and write /dev/nvidia* (ls -l /dev/nvidia*), in a container or sandbox too"
_LOST = (
    "the kernel's log says why (journalctl -k | grep -i xid); reboot, and if it happens again check the card's power, "
    "seat and temperature"
)

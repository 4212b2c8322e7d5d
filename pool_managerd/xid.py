"""What the numbers of Xid events mean: the driver's reports of GPU errors.

Decides whether the GPU may be used on after one, and what an operator does about it, as NVIDIA's catalog of Xids has
it. One that is an application's error, or that the GPU contains, ends an engine and no more: the engine starts again.
A fatal one wants a reset, a reboot or a hand on the machine: nothing may be started on that GPU before.
"""

from __future__ import annotations

from contracts.base import Message


class Xid(Message, frozen=True, kw_only=True):
    """An Xid number explained."""

    number: int
    meaning: str
    fatal: bool
    hint: str


FALLEN_OFF_THE_BUS = 79

_RESTART = (
    "nothing to do if it stays alone: the engine starts again; if it comes back, update the engine and the driver"
)
_WATCH = "nothing to do now; if it comes back, look at nvidia-smi -q -d ECC,ROW_REMAPPER and plan to replace the card"
_RESET = "end what uses this GPU and run nvidia-smi --gpu-reset as root, or reboot; if it comes back, replace the card"
_REBOOT = "reboot; if it comes back, check the card's power, seat, riser and temperature (journalctl -k | grep -i xid)"
_LINK = "nvidia-smi nvlink -s shows the links; reset both GPUs or reboot; if it comes back, reseat the NVLink bridge"
_ACTION = "the kernel's log names the action (journalctl -k | grep -i xid): a reset of the GPU or a reboot may be due"
_POWER = "connect the auxiliary power cables of the card, then reboot"
_FIRMWARE = "reboot; if it comes back, update the NVIDIA driver, and send nvidia-bug-report.sh's output to NVIDIA"

# Not fatal: the application's own errors, and what the GPU corrects or contains.
_SURVIVED = {
    8: ("the GPU stopped processing", _RESTART),
    11: ("an invalid or corrupted stream of commands", _RESTART),
    13: ("graphics engine exception: an access out of bounds or an illegal instruction in the engine", _RESTART),
    25: ("an illegal stream of commands", _RESTART),
    31: ("GPU memory page fault: the engine accessed an address that is not its own", _RESTART),
    32: ("a corrupted stream of commands, often from a bad PCIe link", _RESTART),
    37: ("error of the driver's firmware", _RESTART),
    38: ("error of the driver's firmware", _RESTART),
    39: ("copy engine exception", _RESTART),
    40: ("copy engine exception", _RESTART),
    41: ("copy engine exception", _RESTART),
    43: ("the engine hit an error that it caused itself and had to stop; the GPU is healthy", _RESTART),
    44: ("graphics engine fault during a context switch", _RESTART),
    45: ("the engine was torn down, by a signal or after an earlier error", _RESTART),
    63: ("a damaged row or page of GPU memory was marked to be taken out of use", _WATCH),
    66: ("illegal access by the driver", _RESTART),
    67: ("illegal access by the driver", _RESTART),
    68: ("video decoder exception", _RESTART),
    69: ("graphics engine class error", _RESTART),
    80: ("corrupted data was sent to the GPU", _RESTART),
    92: ("a high rate of corrected memory errors", _WATCH),
    94: ("uncorrectable memory error, contained to the engine that met it", _WATCH),
    121: ("a corrected error on the link to the CPU", _WATCH),
    137: ("an illegal access over NVLink", _RESTART),
    141: ("CUDA fast path error", _RESTART),
    154: ("the driver says what it wants done after another Xid", _ACTION),
    157: ("no spare resources are left to take damaged ones out of use", _WATCH),
}
# Fatal: the GPU is not to be trusted before somebody did something.
_FATAL = {
    46: ("the GPU stopped processing and does not recover", _RESET),
    48: ("uncorrectable (double-bit) memory error", _RESET),
    54: ("auxiliary power is not connected to the card", _POWER),
    61: ("a micro-controller of the GPU stopped at a breakpoint", _RESET),
    62: ("a micro-controller of the GPU halted", _RESET),
    64: ("a damaged row or page of GPU memory could not be taken out of use", _RESET),
    74: ("NVLink error", _LINK),
    FALLEN_OFF_THE_BUS: ("the GPU has fallen off the bus", _REBOOT),
    95: ("uncorrectable memory error, not contained: it hits whatever uses this GPU", _RESET),
    109: ("context switch timeout", _RESET),
    110: ("security fault, mostly of the hardware", _REBOOT),
    119: ("the GPU's system processor (GSP) does not answer the driver", _FIRMWARE),
    120: ("error in the GPU's system processor (GSP)", _FIRMWARE),
    136: ("training of an NVLink failed", _LINK),
    140: ("uncorrectable memory error that the driver could not take out of use", _RESET),
    143: ("the GPU could not be initialized", _REBOOT),
    **dict.fromkeys(range(144, 151), ("NVLink error", _LINK)),
    155: ("an NVLink went down", _LINK),
    156: ("a damaged part of the GPU was taken out of use, from the next reset on", _RESET),
    158: ("fatal timeout of the GPU", _RESET),
    167: ("fatal timeout on PCIe", _REBOOT),
    169: ("a micro-controller of the GPU halted", _RESET),
    171: ("uncorrectable error in GPU memory (DRAM)", _RESET),
    172: ("uncorrectable error inside the GPU (SRAM)", _RESET),
}
_UNKNOWN = ("an error that this version does not know", "look the number up in NVIDIA's catalog of Xid errors")


def explain(number: int) -> Xid:
    """What an Xid means. One that is not known is not fatal: if it was, the GPU fails on."""
    fatal = number in _FATAL
    meaning, hint = _FATAL.get(number) or _SURVIVED.get(number, _UNKNOWN)
    return Xid(number=number, meaning=meaning, fatal=fatal, hint=hint)

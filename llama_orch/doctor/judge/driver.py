"""NVIDIA's driver as a whole: loaded, whole, of one version, and in charge of the card.

Decides what is said of each way in which it is not. What NVML's refusals mean, ``engine_provisioner.gpu_faults`` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from contracts.base import Message
from engine_provisioner.cuda import cuda_text
from engine_provisioner.gpu_faults import DriverFault, Nvml
from engine_provisioner.packages import install_driver
from llama_orch.doctor.base import Kind, Result, ok
from llama_orch.doctor.mends import rebuild_module, without_nouveau

CHECK = "driver"
GPU_ONLY = "profile home is GPU only: no engine starts without one, and nothing falls back to the CPU"

NO_CARD = Kind(
    id="driver.no-card",
    what="there is no NVIDIA card on the PCI bus",
    why=GPU_ONLY,
    mend="see that the card is seated and powered, and shown by lspci -d 10de:; or set profile: trial",
)
NOUVEAU = Kind(
    id="driver.nouveau",
    what="nouveau has the card instead of NVIDIA's driver",
    why="CUDA and NVML need NVIDIA's own driver",
    mend="install NVIDIA's driver, keep nouveau from being loaded, and reboot",
)
GIVEN_AWAY = Kind(
    id="driver.given-away",
    what="another driver, such as vfio-pci, has the card",
    why="it is kept for virtual machines, so nothing here can compute on it",
    mend="take it out of the options of vfio-pci (/etc/modprobe.d, kernel command line) and reboot",
)
KERNEL_GONE = Kind(
    id="driver.kernel-gone",
    what="the modules of the running kernel are no longer on the disk",
    why="the kernel was updated since the machine started, so NVIDIA's module cannot be loaded",
    mend="reboot",
)
SECURE_BOOT = Kind(
    id="driver.secure-boot",
    what="NVIDIA's module is installed and not loaded, and Secure Boot is on",
    why="the kernel refuses a module that no enrolled key has signed",
    mend="enroll the key (sudo mokutil --import /var/lib/dkms/mok.pub) and reboot, or turn Secure Boot off",
)
NOT_LOADED = Kind(
    id="driver.not-loaded",
    what="NVIDIA's kernel module is installed and not loaded",
    why=GPU_ONLY,
    mend="sudo modprobe nvidia; what it prints, and journalctl -k, say why if it fails",
)
NOT_BUILT = Kind(
    id="driver.not-built",
    what="NVIDIA's driver is installed, and has no module for the running kernel",
    why="after an update of the kernel the module must be built again, which takes the kernel's headers",
    mend="install the kernel's headers, and have the module built",
)
NOT_INSTALLED = Kind(
    id="driver.not-installed", what="NVIDIA's driver is not installed", why=GPU_ONLY, mend="install it, and reboot"
)
MISMATCH = Kind(
    id="driver.mismatch",
    what="the loaded kernel module and the driver's libraries have different versions (NVML error 18)",
    why="the driver was updated while the old module is loaded; no CUDA program starts until both are the same",
    mend="reboot",
)
HANGS = Kind(
    id="driver.hangs",
    what="the driver does not answer",
    why="a GPU or its driver hangs, and with it everything that asks for GPUs",
    mend="journalctl -k | grep -i nvrm says more; reboot",
)
BROKEN = Kind(id="driver.broken", what="the driver answers with an error", why=GPU_ONLY, mend="as the error says")
NO_UVM = Kind(
    id="driver.no-uvm",
    what="there is no /dev/nvidia-uvm",
    why="CUDA needs it; programs make it by nvidia-modprobe, which containers cannot",
    mend="sudo modprobe nvidia-uvm && sudo nvidia-modprobe -u -c=0",
    note=True,
)

_LIBRARY = re.compile(r"libnvidia-ml\.so\.(\d+\.\d+(?:\.\d+)?)")
_MODULE = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+\.\d+(?:\.\d+)?)")


class Card(Message, frozen=True, kw_only=True):
    """An NVIDIA card on the PCI bus, and the kernel's driver that has it."""

    address: str
    driver: str | None = None


class Facts(Message, frozen=True, kw_only=True):
    """What was seen. ``fault`` and ``error`` are set where NVML did not answer as it should."""

    version: str | None = None
    """As NVML says it."""
    cuda: int | None = None
    """The newest CUDA that the driver knows, as NVML numbers it: 12040."""
    error: int | None = None
    fault: DriverFault | None = None
    hangs: bool = False
    cards: tuple[Card, ...] = ()
    modules: frozenset[str] = frozenset()
    """The names of the loaded ones."""
    module_version: str | None = None
    library_version: str | None = None
    has_module: bool | None = None
    """Whether the running kernel could load nvidia.ko; None where there are no modules of this kernel at all."""
    secure_boot: bool = False
    uvm: bool = True
    in_container: bool = False


def module_version(text: str) -> str | None:
    """From /proc/driver/nvidia/version."""
    found = _MODULE.search(text)
    return found[1] if found else None


def library_version(names: str) -> str | None:
    """From a text with the name of the library that was loaded, such as /proc/self/maps."""
    found = _LIBRARY.search(names)
    return found[1] if found else None


def judge(facts: Facts, distribution: Mapping[str, str]) -> list[Result]:
    """The driver, as far as it concerns every GPU."""
    if facts.hangs or facts.fault is None:
        return _answers(facts) if not facts.hangs else [HANGS.found("the NVIDIA driver does not answer")]
    if facts.error == Nvml.LIB_RM_VERSION_MISMATCH:
        loaded, libraries = facts.module_version or "another", facts.library_version or "another"
        text = f"the kernel module is {loaded} and the driver's libraries are {libraries}"
        return [MISMATCH.found(text, facts.fault.hint)]
    if facts.error in {Nvml.LIBRARY_NOT_FOUND, Nvml.DRIVER_NOT_LOADED}:
        return [_missing(facts, facts.fault, distribution)]
    return [BROKEN.found(facts.fault.message, facts.fault.hint)]


def _answers(facts: Facts) -> list[Result]:
    cuda = f", CUDA up to {cuda_text(facts.cuda)}" if facts.cuda else ""
    found = [ok(CHECK, f"driver {facts.version}{cuda}")]
    if not facts.uvm and not facts.in_container:
        found.append(NO_UVM.found(NO_UVM.what))
    return found


def _missing(facts: Facts, fault: DriverFault, distribution: Mapping[str, str]) -> Result:
    """Why there is no library or no module, as far as the machine shows it; the first cause counts."""
    if facts.in_container:
        return BROKEN.found(
            fault.message, f"give this container the GPUs: --device nvidia.com/gpu=all; or {fault.hint}"
        )
    if not facts.cards and "nvidia" not in facts.modules:
        return NO_CARD.found(f"{NO_CARD.what}; {fault.message}")
    owners = {card.driver for card in facts.cards} - {None}
    if "nouveau" in owners:
        return NOUVEAU.found(f"nouveau has {_addresses(facts, 'nouveau')}", without_nouveau(distribution))
    for owner in sorted(name for name in owners if name and name != "nvidia"):
        return GIVEN_AWAY.found(f"{owner} has {_addresses(facts, owner)}")
    if "nvidia" in facts.modules:
        return BROKEN.found(fault.message, fault.hint)
    if facts.has_module is None:
        return KERNEL_GONE.found(KERNEL_GONE.what)
    if facts.has_module:
        return SECURE_BOOT.found(SECURE_BOOT.what) if facts.secure_boot else NOT_LOADED.found(NOT_LOADED.what)
    if facts.error == Nvml.DRIVER_NOT_LOADED:  # its library is here
        return NOT_BUILT.found(NOT_BUILT.what, rebuild_module(distribution))
    return NOT_INSTALLED.found(fault.message, install_driver(distribution))


def _addresses(facts: Facts, owner: str) -> str:
    return "the card " + ", ".join(card.address for card in facts.cards if card.driver == owner)

"""Commands that mend things, in the words of the distribution at hand.

Decides the words. Never runs one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from engine_provisioner.packages import DRIVER, Family, family_of, install_hint

REBOOT = "reboot"
_REBUILD: Mapping[Family, str] = MappingProxyType(
    {
        Family.DEBIAN: "sudo apt install linux-headers-$(uname -r) && sudo dkms autoinstall",
        Family.ARCH: "sudo pacman -S linux-headers (the headers of your kernel's package) && sudo dkms autoinstall",
        Family.FEDORA: "sudo akmods --force",
    }
)
_INITRAMFS: Mapping[Family, str] = MappingProxyType(
    {
        Family.DEBIAN: "sudo update-initramfs -u",
        Family.ARCH: "sudo mkinitcpio -P",
        Family.FEDORA: "sudo dracut --force",
    }
)


def rebuild_module(distribution: Mapping[str, str]) -> str:
    """What builds the driver's kernel module for the running kernel."""
    family = family_of(distribution)
    build = _of(_REBUILD, family, "install your kernel's headers and build the module (sudo dkms autoinstall)")
    return f"{build}; then sudo modprobe nvidia, or reboot"


def without_nouveau(distribution: Mapping[str, str]) -> str:
    """What has NVIDIA's driver loaded instead of nouveau."""
    family = family_of(distribution)
    initramfs = _of(_INITRAMFS, family, "write the initial ramdisk anew")
    block = "echo 'blacklist nouveau' | sudo tee /etc/modprobe.d/no-nouveau.conf"
    return f"{_of(DRIVER, family, 'install the NVIDIA driver')}; {block}; {initramfs}; reboot"


def install(package: Mapping[Family, str], usual: str, distribution: Mapping[str, str]) -> str:
    """What installs a package that distributions call differently."""
    family = family_of(distribution)
    return install_hint(_of(package, family, usual), distribution)


def quoted(text: str) -> str:
    """A value in a line of an environment file, as systemd and a shell read it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _of(words: Mapping[Family, str], family: Family | None, otherwise: str) -> str:
    return words.get(family, otherwise) if family else otherwise

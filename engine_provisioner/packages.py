"""The package manager of each family of Linux distributions, and the command that installs a package with it.

Decides which family an os-release belongs to, how its command reads, and which package names may stand in one. Never
runs a command: only pacman's is ever run, by ``providers.package``, and all others are for the operator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Family(StrEnum):
    """Distributions that share a package manager."""

    ARCH = "arch"
    DEBIAN = "debian"
    FEDORA = "fedora"
    SUSE = "suse"
    ALPINE = "alpine"
    GENTOO = "gentoo"
    NIX = "nixos"


PACMAN = "pacman"
NAME_RULE = "letters, digits and '@._+-/', and a letter, a digit or '@' first"
_NAME = re.compile(r"[A-Za-z0-9@][A-Za-z0-9@._+/-]{0,127}")

_FAMILIES: MappingProxyType[str, Family] = MappingProxyType(
    {
        "arch": Family.ARCH,
        "debian": Family.DEBIAN,
        "ubuntu": Family.DEBIAN,
        "fedora": Family.FEDORA,
        "rhel": Family.FEDORA,
        "centos": Family.FEDORA,
        "suse": Family.SUSE,
        "opensuse": Family.SUSE,
        "sles": Family.SUSE,
        "alpine": Family.ALPINE,
        "gentoo": Family.GENTOO,
        "nixos": Family.NIX,
    }
)
_COMMANDS: MappingProxyType[Family, str] = MappingProxyType(
    {
        Family.ARCH: "sudo pacman -S {}",
        Family.DEBIAN: "sudo apt install {}",
        Family.FEDORA: "sudo dnf install {}",
        Family.SUSE: "sudo zypper install {}",
        Family.ALPINE: "doas apk add {}",
        Family.GENTOO: "sudo emerge --noreplace {}",
        Family.NIX: "nix profile install nixpkgs#{}",
    }
)

DRIVER: Mapping[Family, str] = MappingProxyType(
    {
        Family.DEBIAN: "sudo apt install nvidia-driver linux-headers-amd64 (Ubuntu: sudo ubuntu-drivers install)",
        Family.ARCH: "sudo pacman -S nvidia-open-dkms nvidia-utils linux-headers (CachyOS: sudo chwd -a)",
        # The second package has NVML, CUDA and nvidia-smi.
        Family.FEDORA: "enable RPM Fusion's nonfree repository, then: "
        "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda",
    }
)
"""What installs NVIDIA's driver, where that is known."""


def is_package_name(name: str) -> bool:
    """Whether a name can stand in a command: no option, no path, nothing that means something to a shell."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def family_of(distribution: Mapping[str, str]) -> Family | None:
    """The family that the fields of an os-release name: ``ID`` first, then ``ID_LIKE``, closest first."""
    for name in (distribution.get("ID", ""), *distribution.get("ID_LIKE", "").split()):
        if family := _FAMILIES.get(name.partition("-")[0]):
            return family
    return None


def pacman_install(name: str) -> tuple[str, ...]:
    """The argument vector that installs a package on an Arch-like system, with the rights of whoever runs it."""
    return (PACMAN, "-S", "--noconfirm", "--needed", name)


def install_hint(name: str, distribution: Mapping[str, str]) -> str:
    """What installs a package, in the words of the distribution that os-release names."""
    family = family_of(distribution)
    if family is None:
        return f"install {name} with the package manager of {distribution.get('PRETTY_NAME') or 'this system'}"
    return _COMMANDS[family].format(name)


def install_driver(distribution: Mapping[str, str]) -> str:
    """What installs NVIDIA's driver, or a newer one."""
    family = family_of(distribution)
    usual = "install the NVIDIA driver as your distribution says"
    return f"{DRIVER.get(family, usual) if family else usual}; then reboot"

"""A llama-server that is on this machine already: a configured path, or the one on PATH.

Decides where it is and what mends its absence. Never downloads, installs or changes one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from contracts.config import Mode, Pool
from contracts.pools import Cause
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.plan import SERVER
from engine_provisioner.providers.native import Found, Program


class BinarySource(Found):
    """Finds the program of modes ``binary`` and ``package``."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def locate(self, pool: Pool) -> Program:
        """See Found. Raises ProvisionError where there is no executable."""
        binary = pool.provisioning.binary if pool.mode is Mode.BINARY else None
        hint = self._hint(pool)
        if binary is None or binary.path is None:
            path = self._host.which(SERVER)
            if path is None:
                raise ProvisionError(Cause.ENGINE_MISSING, f"there is no {SERVER} on PATH", hint)
        else:
            path = Path(binary.path).expanduser()
            if problem := _problem_with(path):
                raise ProvisionError(Cause.ENGINE_MISSING, f"{path} {problem}", hint)
        package = pool.provisioning.package if pool.mode is Mode.PACKAGE else None
        return Program(
            argv=(str(path.absolute()),),
            digest_of=path.resolve(),
            wanted_version=package.version if package else None,
            missing_hint=hint,
        )

    def _hint(self, pool: Pool) -> str:
        package = pool.provisioning.package
        if pool.mode is Mode.PACKAGE and package is not None:
            return install_hint(package.name, self._host.distribution())
        return f"set provisioning.binary.path to an executable {SERVER}, or put one on PATH"


def install_hint(package: str, distribution: Mapping[str, str]) -> str:
    """The command that installs a package, in the words of the distribution that os-release names."""
    family = {distribution.get("ID", ""), *distribution.get("ID_LIKE", "").split()}
    if "arch" in family:
        return f"sudo pacman -S {package}"
    if family & {"debian", "ubuntu"}:
        return f"sudo apt install {package}"
    if family & {"fedora", "rhel", "centos"}:
        return f"sudo dnf install {package}"
    name = distribution.get("PRETTY_NAME", "this system")
    return f"install {package} with the package manager of {name}"


def _problem_with(path: Path) -> str | None:
    if not path.exists():
        return "does not exist"
    if not path.is_file():
        return "is no file"
    return None if os.access(path, os.X_OK) else "is not executable (chmod +x)"

"""A llama-server that is on this machine already: a configured path, or the one on PATH.

Decides where it is and what mends its absence. Never downloads, installs or changes one.
"""

from __future__ import annotations

import os
from pathlib import Path

from contracts.config import Pool
from contracts.pools import Cause
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.plan import SERVER
from engine_provisioner.providers.native import Found, Program


class BinarySource(Found):
    """Finds the program of mode ``binary``."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def locate(self, pool: Pool) -> Program:
        """See Found. Raises ProvisionError where there is no executable."""
        binary = pool.provisioning.binary
        if binary is None or binary.path is None:
            path = self._host.which(SERVER)
            if path is None:
                raise ProvisionError(Cause.ENGINE_MISSING, f"there is no {SERVER} on PATH", _HINT)
        else:
            path = Path(binary.path).expanduser()
            if problem := _problem_with(path):
                raise ProvisionError(Cause.ENGINE_MISSING, f"{path} {problem}", _HINT)
        return Program(argv=(str(path.absolute()),), digest_of=path.resolve(), missing_hint=_HINT)


_HINT = f"set provisioning.binary.path to an executable {SERVER}, or put one on PATH"


def _problem_with(path: Path) -> str | None:
    if not path.exists():
        return "does not exist"
    if not path.is_file():
        return "is no file"
    return None if os.access(path, os.X_OK) else "is not executable (chmod +x)"

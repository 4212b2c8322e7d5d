"""The configuration file can be used."""

from __future__ import annotations

from collections.abc import Sequence

from daemon_core.errors import ConfigFileError
from llama_orch.doctor.base import Machine, Result, failed, ok

CHECK = "config"
WHY = "both daemons refuse to start with it (exit status 78)"


async def check(machine: Machine) -> Sequence[Result]:
    """A result for each problem of the file."""
    match machine.config_error:
        case None:
            config = machine.config
            pools = ", ".join(pool.id for pool in config.pools) if config else ""
            profile = config.profile if config else ""
            return [ok(CHECK, f"{machine.config_path}: profile {profile}, pools {pools}")]
        case ConfigFileError() as error:
            return [
                failed(CHECK, problem.render().partition("\n")[0], WHY, problem.hint or "change that line")
                for problem in error.problems
            ]
        case error:
            return [failed(CHECK, error.message, WHY, error.hint or f"edit {machine.config_path}")]

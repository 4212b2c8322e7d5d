"""The configuration file can be used."""

from __future__ import annotations

from collections.abc import Sequence

from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import configuration
from llama_orch.doctor.machine import Look


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    config = machine.config
    pools = tuple(pool.id for pool in config.pools) if config else ()
    profile = config.profile if config else ""
    return configuration.judge_config(str(machine.config_path), profile, pools, machine.config_error, machine.asks)


CHECK = Check(name="config", about="the configuration file can be used", judge=configuration, run=_run)

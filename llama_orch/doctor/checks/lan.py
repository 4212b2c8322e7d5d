"""What it means that other machines reach orchestratord."""

from __future__ import annotations

from collections.abc import Sequence

from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import lan
from llama_orch.doctor.machine import Look


async def _run(look: Look) -> Sequence[Result]:
    config = look.machine.config
    if config is None:
        return [skipped(lan.CHECK)]
    return lan.judge(config.server.bind, tls=getattr(config.server, "tls", None) is not None)


CHECK = Check(name="lan", about="what other machines reach is encrypted", run=_run)

"""The units outlive a logout."""

from __future__ import annotations

from collections.abc import Sequence

from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import linger
from llama_orch.doctor.machine import Look
from llama_orch.doctor.services import services


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    lingers = machine.file(f"/var/lib/systemd/linger/{machine.user}").exists()
    return linger.judge(machine.user, installed=(await services(look)).installed, lingers=lingers)


CHECK = Check(name="linger", about="the units outlive a logout, and start at boot", judge=linger, run=_run)

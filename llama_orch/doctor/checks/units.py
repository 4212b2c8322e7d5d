"""The installed units are those of this version, and none has failed."""

from __future__ import annotations

from collections.abc import Sequence

from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import units
from llama_orch.doctor.machine import Look
from llama_orch.doctor.services import services


async def _run(look: Look) -> Sequence[Result]:
    seen = await services(look)
    return units.judge(seen.units, seen.states, seen.bindir, seen.problem)


CHECK = Check(
    name="units", about="the installed units are those of this version, and none has failed", judge=units, run=_run
)

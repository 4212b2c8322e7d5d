"""Each pool's GPUs are new enough for its engine."""

from __future__ import annotations

from collections.abc import Sequence

from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.checks.gpus import NO_DRIVER
from llama_orch.doctor.judge import compute_capability
from llama_orch.doctor.machine import Look
from llama_orch.doctor.nvml import asked


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    if machine.config is None:
        return [skipped(compute_capability.CHECK)]
    if machine.needs.no_gpu is not None:
        return [skipped(compute_capability.CHECK, machine.needs.no_gpu)]
    said = await asked(look)
    if said.fault is not None or not said.seen.gpus:
        return [skipped(compute_capability.CHECK, NO_DRIVER)]
    return compute_capability.judge(machine.config.pools, machine.config.profile, said.seen.gpus)


CHECK = Check(
    name="compute_capability",
    about="the GPUs are new enough for their engines and builds",
    judge=compute_capability,
    run=_run,
)

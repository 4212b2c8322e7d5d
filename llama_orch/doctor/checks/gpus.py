"""The driver shows the GPUs that the pools name."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.config import Mode
from engine_provisioner.gpus import gpu_findings
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import gpus
from llama_orch.doctor.machine import Look
from llama_orch.doctor.nvml import asked

NO_DRIVER = "the driver shows no GPU: the check driver says why"


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    if machine.needs.no_gpu is not None:
        return [skipped(gpus.CHECK, machine.needs.no_gpu)]
    said = await asked(look)
    if said.fault is not None:
        return [skipped(gpus.CHECK, NO_DRIVER)]
    seen = said.seen
    pools = () if machine.config is None else machine.config.pools
    local = tuple(pool for pool in pools if pool.mode is not Mode.EXTERNAL)
    missing = [
        finding for pool in local if seen.gpus for finding in gpu_findings(pool, lambda: seen.gpus, lost=seen.lost)
    ]
    return gpus.judge(local, seen.gpus, seen.lost, missing)


CHECK = Check(
    name="gpus",
    about="the GPUs that the pools name are there and work, and no two pools want one",
    judge=gpus,
    run=_run,
)

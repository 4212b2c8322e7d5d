"""Rootless podman works, where pools run in containers."""

from __future__ import annotations

from collections.abc import Sequence

from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import containers
from llama_orch.doctor.machine import Look
from llama_orch.doctor.runtimes import needed


async def _run(look: Look) -> Sequence[Result]:
    return containers.judge_podman(*await needed(look), look.machine.needs.containers)


CHECK = Check(
    name="podman",
    about="rootless podman works, where pools run in containers",
    judge=containers,
    run=_run,
    limit_s=20.0,
)

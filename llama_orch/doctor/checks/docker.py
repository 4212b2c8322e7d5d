"""Docker works, where pools run in containers and podman does not."""

from __future__ import annotations

from collections.abc import Sequence

from container_runtime.base import Detection
from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import containers
from llama_orch.doctor.machine import Look
from llama_orch.doctor.runtimes import docker, podman

_UNASKED = containers.Runtime(detection=Detection(runtime="", usable=False, reason="it was not asked"))


async def _run(look: Look) -> Sequence[Result]:
    pools = look.machine.needs.containers
    if not pools:
        return containers.judge_docker(_UNASKED, _UNASKED, pools)
    first = await podman(look)
    second = _UNASKED if first.detection.usable else await docker(look)
    return containers.judge_docker(first, second, pools)


CHECK = Check(name="docker", about="docker works, where podman does not serve", run=_run, limit_s=20.0)

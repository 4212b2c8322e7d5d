"""The directories lie on file systems that can carry what is in them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.checks.paths import places_of, there
from llama_orch.doctor.judge import filesystem
from llama_orch.doctor.machine import Look


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    paths = machine.paths
    if paths is None:
        return [skipped(filesystem.CHECK)]

    def found() -> dict[str, str]:
        return {name: str(there(path).resolve()) for name, path in places_of(paths).items()}

    mounts = filesystem.mounts_in(machine.text("/proc/self/mountinfo"))
    return filesystem.judge(await asyncio.to_thread(found), mounts, machine.needs)


CHECK = Check(
    name="filesystem", about="no network disk, read-only or noexec mount where it matters", judge=filesystem, run=_run
)

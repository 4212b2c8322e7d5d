"""There is room for what the configuration brings."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.checks.model import models
from llama_orch.doctor.checks.paths import places_of, there
from llama_orch.doctor.judge import disk
from llama_orch.doctor.machine import Look

_KEPT = ("cache", "data", "state")


async def _run(look: Look) -> Sequence[Result]:
    paths = look.machine.paths
    if paths is None:
        return [skipped(disk.CHECK)]
    found = places_of(paths)
    places = await asyncio.to_thread(lambda: [_place(name, found[name]) for name in _KEPT])
    missing = [seen.shown for _, seen in await models(look) if not seen.here and not seen.findings and seen.shown]
    return disk.judge(places, missing)


def _place(name: str, path: Path) -> disk.Place:
    nearest = there(path)
    status = os.statvfs(nearest)
    # File systems that make inodes as they need them say that they have none at all.
    files = status.f_favail if status.f_files else None
    return disk.Place(name=name, path=str(nearest), free=status.f_bavail * status.f_frsize, files=files)


CHECK = Check(name="disk", about="there is room for models, builds and tasks", judge=disk, run=_run)

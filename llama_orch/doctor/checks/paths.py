"""The directories can be written, and the socket's path is short enough."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from daemon_core.paths import Paths
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import paths as judged
from llama_orch.doctor.machine import Look


def places_of(paths: Paths) -> dict[str, Path]:
    """The directories by the name of their setting."""
    return {"cache": paths.cache, "data": paths.data, "state": paths.state, "runtime": paths.runtime}


def there(path: Path) -> Path:
    """The path itself, or the nearest of its parents that is there."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


async def _run(look: Look) -> Sequence[Result]:
    paths = look.machine.paths
    if paths is None:
        return [skipped(judged.CHECK)]
    places = await asyncio.to_thread(lambda: [_place(name, path) for name, path in places_of(paths).items()])
    return judged.judge(places, str(paths.socket), len(os.fsencode(paths.socket)))


def _place(name: str, path: Path) -> judged.Place:
    nearest = there(path)
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return judged.Place(name=name, path=str(path), there=str(nearest), writable=writable)


CHECK = Check(name="paths", about="the directories can be written", judge=judged, run=_run)

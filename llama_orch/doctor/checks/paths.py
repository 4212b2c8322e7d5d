"""The directories can be written, and have room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from llama_orch.doctor.base import Machine, Result, failed, ok, skipped

CHECK = "paths"
LEAST_FREE = 1 << 30
UNIX_SOCKET_PATH_MAX = 107
"""Bytes that the kernel takes for the path of a Unix socket, without the terminating zero."""


async def check(machine: Machine) -> Sequence[Result]:
    """A result for each directory that is no good, or one for all of them."""
    if machine.paths is None:
        return [skipped(CHECK)]
    paths = machine.paths
    places = {"cache": paths.cache, "data": paths.data, "state": paths.state, "runtime": paths.runtime}
    found = [result for name, path in places.items() if (result := _look(name, path)) is not None]
    length = len(os.fsencode(paths.socket))
    if length > UNIX_SOCKET_PATH_MAX:
        text = f"the path of the socket has {length} bytes: {paths.socket}"
        why = f"the kernel takes {UNIX_SOCKET_PATH_MAX}, so the daemons could not meet"
        found.append(failed(CHECK, text, why, "set paths.runtime to a shorter directory"))
    return found or [ok(CHECK, ", ".join(str(path) for path in places.values()))]


def _look(name: str, path: Path) -> Result | None:
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "models, engines, logs and the socket live there"
        return failed(CHECK, f"{name}: {there} cannot be written", why, f"ls -ld {there}; or set paths.{name}")
    free = shutil.disk_usage(there).free
    if name == "cache" and free < LEAST_FREE:
        text = f"{name}: {free / (1 << 20):.0f} MiB free below {there}"
        return failed(CHECK, text, "models and builds do not fit", f"make room, or set paths.{name} to a larger disk")
    return None

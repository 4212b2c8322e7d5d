"""What should be private is, and everything belongs to this user."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from daemon_core.paths import config_dir
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.checks.paths import places_of
from llama_orch.doctor.judge import permissions
from llama_orch.doctor.machine import Look, Machine

_MOST = 2_000
"""Files that are looked at in each directory."""


async def _run(look: Look) -> Sequence[Result]:
    return await asyncio.to_thread(_look, look.machine)


def _look(machine: Machine) -> Sequence[Result]:
    if machine.paths is None:
        return [skipped(permissions.CHECK)]
    config = [file for path in (machine.config_path.parent, machine.config_path) if (file := _file(path)) is not None]
    secret = _file(config_dir(machine.environ) / "environment")
    kept = [file for path in places_of(machine.paths).values() for file in islice(_strange(path, machine.uid), _MOST)]
    return permissions.judge(machine.uid, config, secret, kept)


def _strange(path: Path, uid: int) -> Iterator[permissions.File]:
    """The directory, what is in it, and what is in its directories, as far as somebody else has it for himself."""
    below = [path]
    with suppress(OSError):
        below += sorted(path.iterdir())
        for child in below[1:]:
            if child.is_dir() and not child.is_symlink():
                below += sorted(islice(child.iterdir(), _MOST))
    for each in below:
        file = _file(each)
        if file is not None and file.owner != uid and not os.access(each, os.W_OK, follow_symlinks=False):
            yield file


def _file(path: Path) -> permissions.File | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return permissions.File(path=str(path), owner=status.st_uid, mode=status.st_mode & 0o7777)


CHECK = Check(
    name="permissions",
    about="what should be private is, and everything belongs to this user",
    judge=permissions,
    run=_run,
)

"""This user has ids for rootless containers."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import subuid
from llama_orch.doctor.machine import Look, Machine

_HELPERS = ("newuidmap", "newgidmap")
_CAPABILITY = "security.capability"


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    podman = machine.which("podman") is not None
    facts = await asyncio.to_thread(_facts, machine)
    return subuid.judge(facts, machine.needs.containers, machine.distribution, podman=podman)


def _facts(machine: Machine) -> subuid.Facts:
    switch = machine.text("/etc/nsswitch.conf")
    return subuid.Facts(
        user=machine.user,
        uid=machine.uid,
        subuid=machine.text("/etc/subuid"),
        subgid=machine.text("/etc/subgid"),
        helpers={name: _may_map(machine.which(name)) for name in _HELPERS},
        other_source=re.search(r"^subid:\s*(?!files\s*$)\S", switch, re.MULTILINE) is not None,
    )


def _may_map(path: str | None) -> bool:
    """Whether a helper may map ids: it is setuid root, or has a capability in its file."""
    if path is None:
        return False
    status = Path(path).stat()
    if status.st_uid == 0 and status.st_mode & stat.S_ISUID:
        return True
    try:
        return bool(os.getxattr(path, _CAPABILITY))
    except OSError:
        return False


CHECK = Check(name="subuid", about="this user has ids for rootless containers", judge=subuid, run=_run)

"""This login: whose it is, and whether the user's service manager can be reached from it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import session
from llama_orch.doctor.machine import Look, Machine, owner

_RUNS = frozenset({"running", "degraded", "starting", "initializing", "maintenance", "stopping"})


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    facts = await asyncio.to_thread(_facts, machine)
    if facts.systemd and facts.runtime:
        said = await machine.run("systemctl", "--user", "is-system-running")
        state = "" if said is None else said.last_line
        facts = replace(facts, manager=state if state in _RUNS else None)
    return session.judge(facts)


def _facts(machine: Machine) -> session.Facts:
    environ = machine.environ
    home, runtime = environ.get("HOME", ""), environ.get("XDG_RUNTIME_DIR", "")
    booted = machine.file("/run/systemd/system").is_dir() or Path(runtime, "systemd/private").exists()
    return session.Facts(
        uid=machine.uid,
        user=machine.user,
        home=home,
        home_owner=owner(Path(home)) if home else None,
        runtime=runtime,
        runtime_owner=owner(Path(runtime)) if runtime else None,
        systemd=booted and machine.which("systemctl") is not None,
    )


CHECK = Check(
    name="session", about="this login has its own home, runtime directory and service manager", judge=session, run=_run
)

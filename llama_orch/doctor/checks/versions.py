"""The running daemons are those that are installed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import msgspec

from contracts import rpc
from daemon_core import procfs
from daemon_core.errors import StartupError
from daemon_core.paths import default_config_path
from daemon_core.version import version
from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.checks.clock import installed_s
from llama_orch.doctor.judge import versions
from llama_orch.doctor.machine import Look, Machine
from llama_orch.errors import ApiError
from llama_orch.session import find_session

_PACKAGES = {"orchestratord": "orchestratord", "pool-managerd": "pool_managerd"}
_SOCKET_S = 3.0


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    daemons = await asyncio.to_thread(lambda: list(running(machine)))
    manager, orchestrator = await asyncio.gather(_said(machine), _told(machine))
    said = {
        "pool-managerd": manager,
        f"orchestratord on {machine.asks}" if machine.asks else "orchestratord": orchestrator,
    }
    known = {name: each for name, each in said.items() if each is not None}
    return versions.judge(daemons, installed_s(), sys.prefix, known, version(), elsewhere=machine.asks is not None)


def running(machine: Machine) -> Iterator[versions.Daemon]:
    """The daemons of this user that run on this configuration."""
    boot = next((line for line in machine.text("/proc/stat").splitlines() if line.startswith("btime ")), "btime 0")
    booted, ticks = int(boot.split()[1]), os.sysconf("SC_CLK_TCK")
    for stat in procfs.stats():
        with suppress(OSError):  # it ended meanwhile, or is another user's
            process = Path("/proc", str(stat.pid))
            if not stat.alive or process.stat().st_uid != machine.uid:
                continue
            argv = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            name = _name(argv)
            if name is not None and _config(argv, machine) == machine.config_path.absolute():
                prefix = str(Path(argv[0]).parent.parent) if Path(argv[0]).is_absolute() else None
                started = booted + stat.start_time_ticks / ticks
                yield versions.Daemon(name=name, pid=stat.pid, started_s=started, prefix=prefix)


def _name(argv: Sequence[str]) -> str | None:
    """Which daemon a command line is, if it is one."""
    for name, package in _PACKAGES.items():
        if argv[1:3] == ["-m", package] or (len(argv) > 1 and Path(argv[1]).name == name):
            return name
    return None


def _config(argv: Sequence[str], machine: Machine) -> Path:
    named = [after for option, after in pairwise(argv) if option == "--config"]
    return Path(named[0] if named else default_config_path(machine.environ)).absolute()


async def _said(machine: Machine) -> str | None:
    """The version that pool-managerd tells whoever connects."""
    if machine.paths is None:
        return None
    try:
        async with asyncio.timeout(_SOCKET_S):
            reader, writer = await asyncio.open_unix_connection(str(machine.paths.socket), limit=rpc.MAX_FRAME_BYTES)
            try:
                hello = rpc.Hello(protocol=rpc.PROTOCOL, name="llama-orch doctor", version=version())
                writer.write(rpc.call(0, rpc.Method.HELLO, hello))
                answer = rpc.parse(await reader.readuntil())
            finally:
                writer.close()
        if isinstance(answer, rpc.Response) and answer.result is not msgspec.UNSET:
            return msgspec.json.decode(answer.result, type=rpc.Hello).version
    except (OSError, TimeoutError, EOFError, ValueError, rpc.ProtocolError):
        return None  # the check daemons says what that means
    return None


async def _told(machine: Machine) -> str | None:
    """The version that orchestratord tells who has its token; None where it does not answer, or is older than that."""
    if machine.config is None and machine.asks is None:
        return None
    try:
        session = find_session(None if machine.asks else machine.config_path, machine.url, machine.environ)
        async with session.client() as client:
            return (await client.capabilities()).version
    except (StartupError, ApiError):
        return None  # the check daemons says what that means


CHECK = Check(
    name="versions", about="the running daemons are those that are installed", judge=versions, run=_run, at_start=False
)

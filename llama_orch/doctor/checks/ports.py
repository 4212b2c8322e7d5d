"""orchestratord's address is free, or orchestratord has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from contracts.config import Config, split_bind
from daemon_core.errors import StartupError
from daemon_core.ports import refusal
from llama_orch.client import ApiClient
from llama_orch.doctor.base import Result, ok, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import ports
from llama_orch.doctor.machine import Look, Machine
from llama_orch.session import own_url, trust_in_own


async def _run(look: Look) -> Sequence[Result]:
    config = look.machine.config
    if config is None:
        return [skipped(ports.CHECK)]
    bind = config.server.bind
    if await _answers(look.machine, config):
        return [ok(ports.CHECK, f"{bind}: orchestratord answers")]
    host, port = split_bind(bind) or ("127.0.0.1", 8080)
    refused = refusal(host, port)
    if refused is None:
        return ports.judge(bind, port, None, "", None)
    owner = await asyncio.to_thread(_owner, look.machine, port)
    return ports.judge(bind, port, refused.errno, refused.strerror or str(refused), owner)


async def _answers(machine: Machine, config: Config) -> bool:
    try:
        trusted = trust_in_own(config, machine.config_path.absolute().parent, machine.environ)
    except StartupError:
        return False  # what is wrong with the certificate, the check lan says
    async with ApiClient(own_url(config), None, trusted=trusted) as client:
        return await client.is_up()


def _owner(machine: Machine, port: int) -> ports.Owner | None:
    """Whose socket listens there. Of other users' processes the kernel does not tell."""
    tables = (machine.text(f"/proc/net/{name}") for name in ("tcp", "tcp6"))
    wanted = {f"socket:[{inode}]" for table in tables for inode in ports.listening_inodes(table, port)}
    for process in machine.file("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is another user's
            if any(_leads_to(descriptor, wanted) for descriptor in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return ports.Owner(pid=int(process.name), command=command)
    return None


def _leads_to(descriptor: Path, wanted: set[str]) -> bool:
    with suppress(OSError):  # it was closed meanwhile
        return str(descriptor.readlink()) in wanted
    return False


CHECK = Check(
    name="ports",
    about="the address of orchestratord is free, or orchestratord's own",
    judge=ports,
    run=_run,
    at_start=False,
)

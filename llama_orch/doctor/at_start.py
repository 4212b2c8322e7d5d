"""What the doctor finds while the daemons start, told beside their logs.

Decides what is worth telling then: failures alone. Never delays the start, never fails it, and is gone before the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from llama_orch.doctor.base import Status
from llama_orch.doctor.checks import CHECKS
from llama_orch.doctor.examine import examine_bounded
from llama_orch.doctor.machine import Machine
from llama_orch.output import Output

NAME = "doctor"


@asynccontextmanager
async def examining(config_path: Path, environ: Mapping[str, str], out: Output, width: int) -> AsyncIterator[None]:
    """Look this machine over for the length of the block, and tell what is wrong as notes."""
    telling = asyncio.get_running_loop().create_task(_tell(config_path, environ, out, width), name="doctor")
    try:
        yield
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling


async def _tell(config_path: Path, environ: Mapping[str, str], out: Output, width: int) -> None:
    machine = await asyncio.to_thread(lambda: Machine(config_path=config_path, url=None, environ=environ))
    results = await examine_bounded(machine, tuple(check for check in CHECKS if check.at_start))
    for result in results:
        if result.status is Status.FAILED:
            out.note(f"{NAME:<{width}} | {result.check}: {result.what}: {result.mend}")

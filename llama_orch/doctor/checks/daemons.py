"""Both daemons run, talk to each other, and their pools are ready."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from daemon_core.errors import StartupError
from daemon_core.paths import Paths
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks import versions
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import daemons
from llama_orch.doctor.machine import Look
from llama_orch.doctor.services import services
from llama_orch.errors import ApiError
from llama_orch.reach import nobody_listens
from llama_orch.session import find_session


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    if machine.config is None and machine.asks is None:
        return [skipped(daemons.CHECK)]
    try:
        session = find_session(None if machine.asks else machine.config_path, machine.url, machine.environ)
    except StartupError:
        return [skipped(daemons.CHECK, "needs a usable token")]
    try:
        async with session.client() as client:
            pools = await client.pools()
    except StartupError as error:
        return [skipped(daemons.CHECK, error.message)]
    except ApiError as error:
        found = [] if machine.asks else await asyncio.to_thread(lambda: list(versions.running(machine)))
        own = next((each.pid for each in found if each.name == "orchestratord"), None)
        untouched = session.url_is_own and nobody_listens(error) and await _untouched(look)
        return daemons.unreached(session.url, error, own, untouched=untouched)
    return daemons.judge(session.url, pools)


async def _untouched(look: Look) -> bool:
    """Whether no unit is installed, and neither daemon has left anything of a former start."""
    seen = await services(look)
    paths = look.machine.paths
    return not seen.installed and seen.problem is None and paths is not None and not _left(paths)


def _left(paths: Paths) -> bool:
    return paths.tasks_db.exists() or paths.logs.exists()


CHECK = Check(
    name="daemons",
    about="both daemons run and talk to each other, and their pools are ready",
    judge=daemons,
    run=_run,
    at_start=False,
)

"""What would keep the daemons from starting as services, found out before they are started.

Decides which of the doctor's findings those are, and that they are looked for with the environment that the units
have: a token in this shell is none for them. What an operator's own changes to a unit bring is not known here; then the
daemon says itself what it lacks. Starts and stops nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from daemon_core.paths import config_dir
from daemon_core.token import VARIABLE
from llama_orch.doctor.base import Kind, Result
from llama_orch.doctor.checks import CHECKS, versions
from llama_orch.doctor.examine import examine_bounded
from llama_orch.doctor.judge import environment, lan, paths, ports
from llama_orch.doctor.judge.configuration import BAD_TOKEN, NO_TOKEN, TOKEN, UNUSABLE
from llama_orch.doctor.judge.versions import Daemon
from llama_orch.doctor.machine import Look, Machine, with_home
from llama_orch.doctor.services import services

_REFUSING = frozenset(
    kind.id
    for kind in (
        *(UNUSABLE, NO_TOKEN, BAD_TOKEN),
        *(paths.NOT_WRITABLE, paths.LONG_SOCKET),
        lan.UNUSABLE,
        *(ports.TAKEN, ports.PRIVILEGED, ports.NOT_HERE, ports.REFUSED),
    )
)
"""With each of these a daemon ends at once."""
RUNS_BESIDE = Kind(
    id="ports.runs-beside",
    what="a daemon runs on this configuration already, and not as a service",
    why="one configuration has one pair of daemons: the second would end at once",
    mend="end it first: Ctrl-C in the terminal of llama-orch up",
)
IN_THE_UNITS = f"llama-orch init makes one; or write {VARIABLE}=... into {environment.FILE} (mode 0600)"


def refusals(
    config_path: Path, environ: Mapping[str, str], services_pids: Collection[int], *, token_elsewhere: bool
) -> tuple[Result, ...]:
    """Everything that is in the way. ``services_pids`` are those of the daemons that systemd runs.

    ``token_elsewhere``: the operator has changed orchestratord's unit, so its token may come from anywhere.
    """
    return asyncio.run(_refusals(config_path, with_home(environ), services_pids, token_elsewhere=token_elsewhere))


async def _refusals(
    config_path: Path, environ: Mapping[str, str], services_pids: Collection[int], *, token_elsewhere: bool
) -> tuple[Result, ...]:
    seen = await services(Look(Machine(config_path=config_path, url=None, environ=environ)))
    machine = Machine(config_path=config_path, url=None, environ=with_home(seen.environment or environ))
    running = await asyncio.to_thread(lambda: [*versions.running(machine)])
    beside = [daemon for daemon in running if daemon.pid not in services_pids]
    passed_over = {ports.CHECK} if beside else set()
    if token_elsewhere or await asyncio.to_thread(_has_credential, environ):
        passed_over.add(TOKEN)
    names = {kind.partition(".")[0] for kind in _REFUSING} - passed_over
    results = await examine_bounded(machine, [check for check in CHECKS if check.name in names])
    return (*refusing(results), *map(_beside, beside))


def refusing(results: Sequence[Result]) -> tuple[Result, ...]:
    """Those of the doctor's results with which a daemon does not start, with the mend that helps a unit."""
    found = (each for each in results if each.id in _REFUSING)
    return tuple(NO_TOKEN.found(each.what, IN_THE_UNITS) if each.id == NO_TOKEN.id else each for each in found)


def _beside(daemon: Daemon) -> Result:
    return RUNS_BESIDE.found(f"{daemon.name} runs already, as process {daemon.pid}, and not as a service")


def _has_credential(environ: Mapping[str, str]) -> bool:
    """Whether there is a token where the unit's LoadCredential= looks for one. systemd reads it, whoever may."""
    path = config_dir(environ).parent / "credstore" / "llama-orch.api-token"
    try:
        return path.stat().st_size > 1
    except OSError:
        return False

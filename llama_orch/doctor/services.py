"""Looks at the installed units and asks the user's service manager about them, for a few seconds at most.

Decides nothing: whose a unit file is, ``llama_orch.units`` decides.
"""

from __future__ import annotations

import asyncio
import os
import shlex

from contracts.base import Message
from daemon_core.errors import StartupError
from daemon_core.paths import config_dir
from llama_orch.doctor.judge import environment
from llama_orch.doctor.judge.units import Unit, program_of
from llama_orch.doctor.machine import Look, Machine
from llama_orch.units.files import Standing, standing
from llama_orch.units.folder import Folder, find_bindir, wanted_units
from llama_orch.units.state import PROPERTIES, UnitState, read_states

MANAGER = "pool-managerd.service"
"""The unit that starts programs: its environment is the one that matters."""


class Services(Message, frozen=True, kw_only=True):
    """The units that are installed, and what systemd says of them."""

    units: tuple[Unit, ...] = ()
    states: tuple[UnitState, ...] | None = None
    """None where no service manager answers."""
    environment: dict[str, str] | None = None
    """That of pool-managerd; None where no service manager answers."""
    bindir: str = ""
    """Where the programs of this installation are."""
    problem: str | None = None
    """Why the units cannot be looked at."""

    @property
    def installed(self) -> bool:
        """Whether any unit is."""
        return any(unit.standing is not Standing.MISSING for unit in self.units)


async def services(look: Look) -> Services:
    """Everything of the units, found out once."""
    return await look.once("services", lambda: _services(look.machine))


async def _services(machine: Machine) -> Services:
    try:
        bindir, units = await asyncio.to_thread(_units, machine)
    except StartupError as error:
        return Services(problem=error.message)
    seen = Services(units=units, bindir=bindir)
    if not seen.installed:
        return seen
    names = [unit.name for unit in units if unit.standing is not Standing.MISSING]
    asked = ("systemctl", "--user", "--no-pager")
    shown = await machine.run(*asked, "show", f"--property={','.join(PROPERTIES)}", "--", *names)
    own = await machine.run(*asked, "show", "--property=Environment", "--value", "--", MANAGER)
    manager = await machine.run(*asked, "show-environment")
    answers = [answer.output for answer in (shown, own, manager) if answer is not None and answer.status == 0]
    if len(answers) < 3:
        return seen
    states, of_unit, of_manager = answers
    file = machine.text(str(config_dir(machine.environ) / "environment"))
    merged = {
        **environment.shown_environment(of_manager),
        **environment.file_environment("\n".join(shlex.split(of_unit))),
        **environment.file_environment(file),
    }
    return Services(units=units, states=read_states(states, 0), environment=merged, bindir=bindir)


def _units(machine: Machine) -> tuple[str, tuple[Unit, ...]]:
    """The folder of our programs, and every unit of ours as it lies there. Raises StartupError."""
    found = Folder(machine.environ).found()
    units = []
    for name, wanted in wanted_units().items():
        there = found.get(name)
        program = program_of(there.text) if there else None
        units.append(
            Unit(
                name=name,
                standing=standing(there, wanted),
                program=program,
                program_there=program is None or os.access(program, os.X_OK),
            )
        )
    return str(find_bindir()), tuple(units)

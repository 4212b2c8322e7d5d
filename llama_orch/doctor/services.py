"""Looks at the installed units and asks the user's service manager about them.

Decides where units lie. Never installs or changes one.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from contracts.base import Message
from daemon_core.paths import config_dir, home_dir
from llama_orch.doctor.judge import environment
from llama_orch.doctor.judge.units import State, Unit, program_of, state_of
from llama_orch.doctor.machine import Look, Machine

DAEMONS = ("pool-managerd.service", "orchestratord.service")
_PROPERTIES = "Id,ActiveState,Result,NeedDaemonReload,NRestarts,Environment"


class Services(Message, frozen=True, kw_only=True):
    """The units that are installed, and what systemd says of them."""

    units: tuple[Unit, ...] = ()
    states: dict[str, State] | None = None
    """None where no service manager answers."""
    environment: dict[str, str] | None = None
    """That of pool-managerd; None where no service manager answers."""

    @property
    def installed(self) -> bool:
        """Whether any unit is."""
        return bool(self.units)


async def services(look: Look) -> Services:
    """Everything of the units, found out once."""
    return await look.once("services", lambda: _services(look.machine))


def bindir() -> str:
    """Where the programs of this installation are."""
    return str(Path(sys.executable).parent)


def templates() -> dict[str, str]:
    """The units of the installed product, by name: beside the code, or in a checkout."""
    package = Path(__file__).resolve().parents[1] / "units"
    folder = package if package.is_dir() else Path(__file__).resolve().parents[2] / "systemd"
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(folder.glob("*"))
        if path.suffix in {".service", ".target", ".slice", ".socket", ".timer"}
    }


async def _services(machine: Machine) -> Services:
    units = tuple(_installed(machine))
    if not units:
        return Services()
    names = [unit.name for unit in units]
    shown = await machine.run("systemctl", "--user", "show", f"--property={_PROPERTIES}", *names)
    manager = await machine.run("systemctl", "--user", "show-environment")
    if shown is None or shown.status != 0 or manager is None or manager.status != 0:
        return Services(units=units)
    blocks = {_field(block, "Id"): block for block in shown.output.split("\n\n")}
    own = "\n".join(shlex.split(_field(blocks.get(DAEMONS[0], ""), "Environment")))
    file = machine.text(str(config_dir(machine.environ) / "environment"))
    merged = {
        **environment.shown_environment(manager.output),
        **environment.file_environment(own),
        **environment.file_environment(file),
    }
    states = {name: state_of(blocks[name]) for name in names if name in blocks}
    return Services(units=units, states=states, environment=merged)


def _installed(machine: Machine) -> list[Unit]:
    found = []
    for name, template in templates().items():
        texts = (machine.text(str(folder / name)) for folder in _folders(machine.environ))
        text = next((text for text in texts if text), "")
        if text:
            program = program_of(text)
            there = program is None or os.access(program, os.X_OK)
            found.append(Unit(name=name, template=template, installed=text, programs_there=there))
    return found


def _folders(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where systemd looks for a user's units, in its order."""
    home = home_dir(environ)
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
    return (config / "systemd/user", Path("/etc/systemd/user"), data / "systemd/user", Path("/usr/lib/systemd/user"))


def _field(block: str, name: str) -> str:
    return next((line.partition("=")[2] for line in block.splitlines() if line.startswith(f"{name}=")), "")

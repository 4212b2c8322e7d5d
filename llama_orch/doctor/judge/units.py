"""The installed units: of this version, loaded as they are, for programs that are there, and none of them failed.

Decides it from their text and from what systemd says. ``llama-orch units`` installs them; nothing here does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok, skipped

CHECK = "units"
BINDIR = "@BINDIR@"
INSTALL = "llama-orch units install"

OUT_OF_DATE = Kind(
    id="units.out-of-date",
    what="an installed unit is not that of the installed llama-orch",
    why="an upgrade brought other units: limits, sandbox and order of the old ones may not fit the new daemons",
    mend=f"{INSTALL}; then: systemctl --user restart llama-orch.target",
    note=True,
)
NO_PROGRAM = Kind(
    id="units.no-program",
    what="an installed unit starts a program that is not there",
    why="the environment it lay in was moved or removed, so the unit cannot start",
    mend=f"{INSTALL}, by the llama-orch that is to run",
)
OTHER_PROGRAM = Kind(
    id="units.other-program",
    what="an installed unit starts the programs of another installation than this one",
    why="what is upgraded or examined here is not what runs",
    mend=f"{INSTALL}, by the llama-orch that is to run",
    note=True,
)
NOT_RELOADED = Kind(
    id="units.not-reloaded",
    what="a unit file was changed since systemd read it",
    why="systemd goes on with the old one",
    mend="systemctl --user daemon-reload",
    note=True,
)
FAILED = Kind(
    id="units.failed",
    what="a unit of llama-orch has failed",
    why="systemd does not try again",
    mend="journalctl --user -u UNIT says why; then: systemctl --user reset-failed UNIT; systemctl --user start UNIT",
)
RESTARTING = Kind(
    id="units.restarting",
    what="systemd started a daemon again and again",
    why="it crashes, or its watchdog finds it stuck",
    mend="journalctl --user -u UNIT -n 100 says why",
    note=True,
)

MANY_RESTARTS = 3
_PROGRAM = re.compile(
    r'^ExecStart="?(?P<path>/[^"]*?/(?:orchestratord|pool-managerd|llama-orch))"?(?:\s|$)', re.MULTILINE
)


class Unit(Message, frozen=True, kw_only=True):
    """One unit: its template of this version, and its installed text."""

    name: str
    template: str
    installed: str
    programs_there: bool = True
    """Whether the program that it starts can be started."""


class State(Message, frozen=True, kw_only=True):
    """What systemd says of a unit."""

    active: str = ""
    result: str = ""
    reload_needed: bool = False
    restarts: int = 0


def state_of(properties: str) -> State:
    """From the lines of ``systemctl show``."""
    fields = dict(line.split("=", 1) for line in properties.splitlines() if "=" in line)
    restarts = fields.get("NRestarts", "0")
    return State(
        active=fields.get("ActiveState", ""),
        result=fields.get("Result", ""),
        reload_needed=fields.get("NeedDaemonReload") == "yes",
        restarts=int(restarts) if restarts.isdecimal() else 0,
    )


def program_of(text: str) -> str | None:
    """The program that a unit starts, with systemd's %% read."""
    found = _PROGRAM.search(text)
    return found["path"].replace("%%", "%") if found else None


def same(template: str, installed: str) -> bool:
    """Whether a unit is its template with the folder of the programs filled in, comments and blank lines aside."""
    ours, theirs = _lines(template), _lines(installed)
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def judge(units: Sequence[Unit], states: Mapping[str, State] | None, bindir: str) -> list[Result]:
    """``states`` is None where no service manager answers; ``bindir`` is where this installation's programs are."""
    if not units:
        return [skipped(CHECK, f"no unit of llama-orch is installed; {INSTALL} does it, and llama-orch up needs none")]
    found = []
    if stale := [unit.name for unit in units if not same(unit.template, unit.installed)]:
        found.append(OUT_OF_DATE.found(f"not those of this version: {', '.join(stale)}"))
    for unit in units:
        program = program_of(unit.installed)
        if program is not None and not unit.programs_there:
            found.append(NO_PROGRAM.found(f"{unit.name} starts {program}, which is not there"))
    found += _elsewhere(units, bindir)
    for name, state in (states or {}).items():
        found += _state(name, state)
    running = ", ".join(f"{name} {state.active}" for name, state in (states or {}).items() if state.active)
    return found or [ok(CHECK, running or ", ".join(unit.name for unit in units))]


def _elsewhere(units: Sequence[Unit], bindir: str) -> list[Result]:
    folders = {
        program.rpartition("/")[0]: unit.name
        for unit in units
        if unit.programs_there and (program := program_of(unit.installed)) is not None
    }
    return [
        OTHER_PROGRAM.found(f"{name} starts the programs in {folder}, and this one is in {bindir}")
        for folder, name in folders.items()
        if folder != bindir
    ]


def _state(name: str, state: State) -> list[Result]:
    found = []
    if state.reload_needed:
        found.append(NOT_RELOADED.found(f"{name} was changed since systemd read it"))
    if state.active == "failed":
        mend = (
            f"journalctl --user -u {name} -n 50 says why; then: systemctl --user reset-failed {name}; "
            f"systemctl --user start {name}"
        )
        found.append(FAILED.found(f"{name} has failed ({state.result or 'no reason told'})", mend))
    elif state.restarts >= MANY_RESTARTS:
        text = f"systemd started {name} {state.restarts} times again"
        found.append(RESTARTING.found(text, f"journalctl --user -u {name} -n 100 says why"))
    return found


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", ";"))]


def _same_line(ours: str, theirs: str) -> bool:
    before, mark, after = ours.partition(BINDIR)
    if not mark:
        return ours == theirs
    return theirs.startswith(before) and theirs.endswith(after) and len(theirs) > len(before) + len(after)

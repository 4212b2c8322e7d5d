"""The installed units: of this version, loaded as they are, for programs that are there, and none of them failed.

Decides what is told of it. Whose a file is, ``llama_orch.units`` decides; ``llama-orch units`` installs them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok, skipped
from llama_orch.units.files import Standing
from llama_orch.units.state import UnitState, state_text

CHECK = "units"
INSTALL = "llama-orch units install"

OUT_OF_DATE = Kind(
    id="units.out-of-date",
    what="an installed unit is not that of the installed llama-orch",
    why="an upgrade brought other units: limits, sandbox and order of the old ones may not fit the new daemons",
    mend=f"{INSTALL}; then: systemctl --user restart llama-orch.target",
    note=True,
)
EDITED = Kind(
    id="units.edited",
    what="an installed unit was changed by hand, or is somebody else's",
    why="an upgrade leaves it as it is, so it may not fit the daemons any more",
    mend=f"put the changes into a drop-in (systemctl --user edit UNIT), then: {INSTALL} --force",
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
_STALE = frozenset({Standing.OLDER, Standing.MISSING})
_CHANGED = frozenset({Standing.EDITED, Standing.FOREIGN, Standing.LINK})


class Unit(Message, frozen=True, kw_only=True):
    """One unit of this version, as it lies there."""

    name: str
    standing: Standing
    program: str | None = None
    """What it starts."""
    program_there: bool = True


def program_of(text: str) -> str | None:
    """The program that a unit starts, with systemd's %% read."""
    found = _PROGRAM.search(text)
    return found["path"].replace("%%", "%") if found else None


def judge(
    units: Sequence[Unit], states: Sequence[UnitState] | None, bindir: str, problem: str | None = None
) -> list[Result]:
    """``states`` is None where no service manager answers; ``bindir`` is where this installation's programs are."""
    if problem is not None:
        return [skipped(CHECK, problem)]
    if all(unit.standing is Standing.MISSING for unit in units):
        return [skipped(CHECK, f"no unit of llama-orch is installed; {INSTALL} does it, and llama-orch up needs none")]
    elsewhere = [unit for unit in units if unit.program is not None and unit.program.rpartition("/")[0] != bindir]
    stale = [unit.name for unit in units if unit.standing in _STALE and unit not in elsewhere]
    changed = [unit.name for unit in units if unit.standing in _CHANGED]
    found = [OUT_OF_DATE.found(f"not those of this version: {', '.join(stale)}")] if stale else []
    if changed:
        found.append(EDITED.found(f"changed by hand, or not ours: {', '.join(changed)}"))
    found += [
        NO_PROGRAM.found(f"{unit.name} starts {unit.program}, which is not there")
        for unit in units
        if not unit.program_there
    ]
    found += _elsewhere([unit for unit in elsewhere if unit.program_there], bindir)
    for state in states or ():
        found += _state(state)
    running = ", ".join(f"{state.name} {state_text(state)}" for state in states or ())
    return found or [ok(CHECK, running or ", ".join(unit.name for unit in units))]


def _elsewhere(units: Sequence[Unit], bindir: str) -> list[Result]:
    folders = {str(unit.program).rpartition("/")[0]: unit.name for unit in units}
    return [
        OTHER_PROGRAM.found(f"{name} starts the programs in {folder}, and this one is in {bindir}")
        for folder, name in folders.items()
    ]


def _state(state: UnitState) -> list[Result]:
    found = []
    if state.needs_reload:
        found.append(NOT_RELOADED.found(f"{state.name} was changed since systemd read it"))
    if state.failed:
        mend = (
            f"journalctl --user -u {state.name} -n 50 says why; then: systemctl --user reset-failed {state.name}; "
            f"systemctl --user start {state.name}"
        )
        found.append(FAILED.found(f"{state.name} {state_text(state)}", mend))
    elif state.restarts is not None and state.restarts >= MANY_RESTARTS:
        text = f"systemd started {state.name} {state.restarts} times again"
        found.append(RESTARTING.found(text, f"journalctl --user -u {state.name} -n 100 says why"))
    return found

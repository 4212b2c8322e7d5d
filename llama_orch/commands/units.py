"""``llama-orch units``: the daemons as services of this user.

Decides the order, and what is never done: a file that is not ours, or that somebody changed, is not replaced; drop-ins
are never touched. Nothing needs root.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from contracts.base import Message
from daemon_core.errors import EXIT_CONFIG, EXIT_FAILURE, StartupError
from daemon_core.paths import default_config_path
from daemon_core.version import version
from llama_orch.commands.options import JsonOption
from llama_orch.doctor.base import Result
from llama_orch.doctor.before_start import refusals
from llama_orch.doctor.checks.clock import installed_s
from llama_orch.doctor.report import exit_status
from llama_orch.output import Output
from llama_orch.units.files import Found, Standing, ownership, stale, standing, version_of
from llama_orch.units.folder import PROGRAMS, Folder, wanted_units
from llama_orch.units.manager import ServiceManager
from llama_orch.units.state import PROPERTIES, UnitState, engines_of, read_states, row, state_text

TARGET = "llama-orch.target"
DAEMONS = tuple(f"{program}.service" for program in reversed(PROGRAMS))
"""In the order of their start."""
SLICE = "llama-orch.slice"
"""systemd makes it for the units' Slice= and leaves it, as llama.slice above it, which stays: others' may be in it."""
COLUMNS = ("UNIT", "STATE", "SINCE", "PID", "MEMORY", "RESTARTS", "WATCHDOG")
ENGINE_COLUMNS = ("ENGINE", "STATE", "SINCE", "MEMORY")
_REFUSED = {
    Standing.FOREIGN: "is not one of ours",
    Standing.EDITED: "is ours, and somebody has changed it",
    Standing.LINK: "is a link",
}


class UnitReport(UnitState, frozen=True, kw_only=True):
    """A unit, what its file is to us, and the operator's changes to it."""

    file: Standing
    drop_ins: tuple[str, ...] = ()


class StatusReport(Message, frozen=True, kw_only=True):
    """All that ``units status --json`` says."""

    version: str
    folder: str
    units: tuple[UnitReport, ...]
    engines: tuple[UnitState, ...]
    at_login: bool
    at_boot: bool

    @property
    def good(self) -> bool:
        """Whether both daemons run."""
        active = {unit.name for unit in self.units if unit.active in {"active", "reloading"}}
        return active.issuperset(DAEMONS)


def install(
    *,
    enable: Annotated[bool, typer.Option("--enable", help="Start them whenever you log in.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Start them now; after an upgrade restart them.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace files that are not ours or were changed; they are kept as NAME.old."),
    ] = False,
    bindir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the daemons' programs are (default: where this one is)."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Write the units into ~/.config/systemd/user, or bring them up to this version. Drop-ins stay."""
    manager, folder, out = ServiceManager(os.environ), Folder(os.environ), Output(as_json=as_json)
    wanted = wanted_units(None if bindir is None else bindir.absolute())
    manager.check()
    _check_place(manager, folder)
    found = folder.found()
    judged = {name: standing(found.get(name), text) for name, text in wanted.items()}
    kept = [] if not force else [name for name, each in judged.items() if each in _REFUSED]
    _refuse(folder, found, {name: each for name, each in judged.items() if name not in kept})
    old = stale(found, wanted)
    written = [name for name, each in judged.items() if each is not Standing.CURRENT]
    set_aside = []
    for name in written:
        aside = folder.write(name, wanted[name], keep=name in kept)
        if aside is not None:
            set_aside.append(aside.name)
            out.line(f"kept the old {name} as {aside}")
        out.line(f"{'updated' if name in found else 'wrote'} {folder.path / name}{_from(found.get(name))}")
    for name in old:
        manager.tried("stop", name)
        folder.remove(name)
        out.line(f"removed {folder.path / name}, which this version does not have")
    if not written and not old:
        out.line(f"the units in {folder.path} are those of this version already")
    drop_ins = [path for name in wanted for path in folder.drop_ins(name)]
    for path in drop_ins:
        out.line(f"your own changes hold on: {path}")
    manager.ask("daemon-reload")
    _check_winner(manager, folder)
    if enable:
        manager.ask("enable", TARGET)
        out.line(f"{TARGET} starts whenever you log in")
    states = _start(manager, folder, out, changed=bool(written or old)) if now else _states(manager, DAEMONS)
    if not now:
        _what_next(out, states, changed=bool(written or old))
    if not manager.lingers:
        out.line(f"to have them at boot, and after you log out: loginctl enable-linger {manager.user}")
    failed = [state for state in states if now and state.active != "active"]
    out.data(
        {
            "folder": str(folder.path),
            "written": written,
            "removed": old,
            "unchanged": [name for name in wanted if name not in written],
            "set_aside": set_aside,
            "drop_ins": [str(path) for path in drop_ins],
            "enabled": enable,
            "linger": manager.lingers,
            "units": states,
        }
    )
    for state in failed:
        out.note(f"llama-orch: {state.name}: {state_text(state)}")
        for line in manager.last_lines(state.name):
            out.note(f"  {line}")
    return _status_of(failed)


def remove(*, as_json: JsonOption = False) -> None:
    """Stop the daemons and their engines, and take the units away. Configuration, models and drop-ins stay."""
    manager, folder, out = ServiceManager(os.environ), Folder(os.environ), Output(as_json=as_json)
    manager.check()
    _check_place(manager, folder)
    found = folder.found()
    ours = _ours(found)
    if not ours:
        out.line(f"there are no units of ours in {folder.path}")
        out.data({"folder": str(folder.path), "removed": [], "set_aside": [], "drop_ins": []})
        return
    out.note("stopping: tasks that run may end first" if out.notes_are_read else "stopping")
    manager.tried("disable", TARGET)
    manager.act("stop", TARGET, *(name for name in ours if name != TARGET))
    manager.tried("stop", SLICE)
    kept, drop_ins = [], []
    for name, each in ours.items():
        if each is Standing.EDITED:
            kept.append(str(folder.set_aside(name)))
            out.line(f"kept what somebody had changed as {kept[-1]}")
        else:
            folder.remove(name)
            out.line(f"removed {folder.path / name}")
        drop_ins += [str(path) for path in folder.drop_ins(name)]
    drop_ins += [str(path) for path in folder.drop_ins(SLICE)]
    for path in drop_ins:
        out.line(f"left your own changes: {path}")
    for old in folder.set_aside_before(ours):
        if str(old) not in kept:
            out.line(f"left what was kept before: {old}")
    manager.ask("daemon-reload")
    for name in ours:
        manager.tried("reset-failed", name)
    out.data({"folder": str(folder.path), "removed": list(ours), "set_aside": kept, "drop_ins": drop_ins})


def status(*, as_json: JsonOption = False) -> int:
    """Show daemons and engines as the service manager has them; status 0 where both daemons run, else 1."""
    manager, folder, out = ServiceManager(os.environ), Folder(os.environ), Output(as_json=as_json)
    manager.check()
    report = _report(manager, folder)
    out.data(report)
    installed = [unit for unit in report.units if unit.loaded != "not-found" or unit.file is not Standing.MISSING]
    if not installed:
        out.line(f"there are no units of ours in {folder.path}; llama-orch units install writes them")
        return EXIT_FAILURE
    out.table(COLUMNS, [row(unit) for unit in sorted(installed, key=_rank)], "")
    said = [unit for unit in installed if unit.status]
    if said:
        out.line("")
    for unit in said:
        out.line(f"{unit.name.removesuffix('.service')}: {unit.status}")
    for unit in report.units:
        if unit.name in DAEMONS and (unit.failed or unit.sub.startswith("auto-restart")):
            _why(manager, out, unit)
    if report.engines:
        out.line("")
        rows = [(state.name, row(state)[1], row(state)[2], row(state)[4]) for state in report.engines]
        out.table(ENGINE_COLUMNS, rows, "")
    out.line("")
    old = [unit.name for unit in report.units if unit.name in DAEMONS and unit.active == "active" and _is_older(unit)]
    for line in remarks(report, manager.user, old):
        out.line(line)
    return 0 if report.good else EXIT_FAILURE


def group() -> typer.Typer:
    """The commands as a group of their own."""
    app = typer.Typer(help="Run the daemons as services of this user.", no_args_is_help=True, rich_markup_mode=None)
    for command in (install, remove, status):
        app.command(command.__name__)(command)
    return app


# --- inside -----------------------------------------------------------------------------------------------------------


def _why(manager: ServiceManager, out: Output, unit: UnitState) -> None:
    """What a daemon said before it ended, which its state does not tell."""
    lines = manager.last_lines(unit.name)
    said = "; it said last:" if lines else ""
    out.line("")
    out.line(f"{unit.name.removesuffix('.service')} does not run: {state_text(unit)}{said}")
    for line in lines:
        out.line(f"  {line}")
    out.line(f"more: llama-orch doctor; journalctl --user -u {unit.name} -n 50")


def _refuse(folder: Folder, found: Mapping[str, Found], judged: Mapping[str, Standing]) -> None:
    """Raises StartupError where something lies there that is not to be replaced. Nothing is written before."""
    for name, each in judged.items():
        if each not in _REFUSED:
            continue
        link = found[name].link
        if link == os.devnull:
            raise StartupError(f"{name} is masked", f"systemctl --user unmask {name}")
        where = "" if link is None else f" to {link}"
        hint = f"put changes into a drop-in (systemctl --user edit {name}); --force replaces it and keeps {name}.old"
        raise StartupError(f"{folder.path / name} {_REFUSED[each]}{where}", hint)


def _from(found: Found | None) -> str:
    before = None if found is None else version_of(found)
    return f" (it was of {before})" if before not in {None, version()} else ""


def _check_place(manager: ServiceManager, folder: Folder) -> None:
    """Raises StartupError where the service manager reads its units somewhere else. Nothing is done before."""
    if not manager.reads(folder.path):
        hint = (
            "HOME or XDG_CONFIG_HOME is another here than for it: systemctl --user show-environment; "
            "set it as there, or for it in ~/.config/environment.d and log in again"
        )
        raise StartupError(f"the service manager does not read {folder.path}", hint)


def _check_winner(manager: ServiceManager, folder: Folder) -> None:
    """Raises StartupError where a unit of the same name in another folder goes before the one that we wrote."""
    (state,) = _states(manager, [TARGET])
    if state.path is None or os.path.realpath(state.path) != os.path.realpath(folder.path / TARGET):
        found = f"it has {state.path}" if state.path else "it has none of that name"
        hint = "remove or rename what goes before, then: llama-orch units install"
        raise StartupError(f"the service manager does not take {folder.path / TARGET}: {found}", hint)


def _start(manager: ServiceManager, folder: Folder, out: Output, *, changed: bool) -> tuple[UnitState, ...]:
    """Start the target; what ran before is restarted when its unit is another now.

    Raises StartupError, before anything is started, where a daemon would refuse to.
    """
    config = default_config_path(os.environ)
    if not config.exists():
        hint = "llama-orch init writes one; then: systemctl --user start llama-orch.target"
        raise StartupError(f"the units are there, and there is no {config}", hint, EXIT_CONFIG)
    known = _states(manager, DAEMONS)
    before = [state for state in known if state.active == "active"]
    ran = [state.name for state in before if changed or _is_older(state)]
    if ran or len(before) < len(known):
        own = {state.pid for state in known if state.pid}
        found = refusals(config, os.environ, own, token_elsewhere=bool(folder.drop_ins("orchestratord.service")))
        _check(found, out, restarted=bool(ran))
    for name in DAEMONS:
        manager.tried("reset-failed", name)
    manager.act("start", TARGET)
    if ran:
        refused = None
        try:
            manager.act("restart", *ran)
        except StartupError as error:
            refused = error
        if refused is None:
            out.line(f"restarted {', '.join(ran)}: engines and accepted tasks live on")
        elif all(state.active == "active" for state in _states(manager, DAEMONS)):
            raise refused  # otherwise what the daemons said tells more
    states = _states(manager, DAEMONS)
    for state in states:
        if state.active == "active":
            out.line(f"{state.name} runs")
    return states


def _check(found: Sequence[Result], out: Output, *, restarted: bool) -> None:
    """Raises StartupError where something is in the way of the daemons: what runs goes on then."""
    if not found:
        return
    first, *others = found
    for result in others:
        out.note(f"llama-orch: {result.check}: {result.what}\n  hint: {result.mend}")
    what = "nothing was restarted, what runs is still the old" if restarted else "the units are there, none was started"
    then = "restart pool-managerd orchestratord" if restarted else f"start {TARGET}"
    hint = f"{first.mend or 'mend it'}; then: systemctl --user {then}"
    raise StartupError(f"{what}: {first.what}", hint, exit_status(found))


def _is_older(state: UnitState) -> bool:
    """Whether a daemon runs since before this llama-orch was installed, whose version may be the same."""
    now = time.time()  # noqa: TID251 - files have the time of the wall clock
    return state.since_ms is not None and now - state.since_ms / 1000 < installed_s() - 1


def _what_next(out: Output, states: tuple[UnitState, ...], *, changed: bool) -> None:
    if any(state.active == "active" for state in states):
        if changed or any(state.active == "active" and _is_older(state) for state in states):
            out.line("what runs is still the old: systemctl --user restart pool-managerd orchestratord")
        return
    if not default_config_path(os.environ).exists():
        out.line("next: llama-orch init writes the configuration")
    out.line(f"next: systemctl --user start {TARGET}")


def _status_of(failed: list[UnitState]) -> int:
    if not failed:
        return 0
    return EXIT_CONFIG if any(state.exit_status == EXIT_CONFIG for state in failed) else EXIT_FAILURE


def _ours(found: Mapping[str, Found]) -> dict[str, Standing]:
    """The units in the folder that we wrote."""
    try:
        wanted = wanted_units()
    except StartupError:  # the programs are gone already: what lies there says itself whose it is
        wanted = {}
    judged = {name: standing(file, wanted[name]) if name in wanted else ownership(file) for name, file in found.items()}
    return {name: each for name, each in judged.items() if each in {Standing.CURRENT, Standing.OLDER, Standing.EDITED}}


def _states(manager: ServiceManager, names: tuple[str, ...] | list[str]) -> tuple[UnitState, ...]:
    return read_states(manager.show(names, PROPERTIES), time.monotonic_ns() // 1000)


def _report(manager: ServiceManager, folder: Folder) -> StatusReport:
    wanted, found = wanted_units(), folder.found()
    names = [*wanted, *(name for name in stale(found, wanted))]
    states = {state.name: state for state in _states(manager, [*names, "*.scope"])}
    units = []
    for name in names:
        state = states.get(name) or UnitState(name=name, loaded="not-found", active="inactive", sub="dead")
        file = standing(found.get(name), wanted.get(name, ""))
        fields = {field: getattr(state, field) for field in UnitState.__struct_fields__}
        units.append(UnitReport(**fields, file=file, drop_ins=tuple(str(path) for path in folder.drop_ins(name))))
    return StatusReport(
        version=version(),
        folder=str(folder.path),
        units=tuple(units),
        engines=engines_of(tuple(states.values())),
        at_login=any(unit.name == TARGET and unit.enabled == "enabled" for unit in units),
        at_boot=manager.lingers,
    )


def _rank(unit: UnitReport) -> tuple[int, str]:
    """The target first, then the daemons, then the rest."""
    order = (TARGET, *DAEMONS)
    return (order.index(unit.name) if unit.name in order else len(order), unit.name)


def remarks(report: StatusReport, user: str, old: Sequence[str]) -> list[str]:
    """What is to be known beside the table; ``old`` are the daemons that run since before this installation."""
    login = "yes" if report.at_login else f"no (systemctl --user enable {TARGET})"
    linger = "yes" if report.at_boot else f"no (loginctl enable-linger {user})"
    boot = linger if report.at_login else "no"
    lines = [f"starts when you log in: {login}; at boot: {boot}"]
    words = {Standing.OLDER: "is of another version", Standing.MISSING: "is missing"} | _REFUSED
    lines += [
        f"{unit.name} {words[unit.file]}: llama-orch units install" for unit in report.units if unit.file in words
    ]
    lines += [
        f"{unit.name} was changed since it was read: systemctl --user daemon-reload"
        for unit in report.units
        if unit.needs_reload
    ]
    lines += [f"{name} runs since before this version was installed: systemctl --user restart {name}" for name in old]
    lines += [f"changed by {path}" for unit in report.units for path in unit.drop_ins]
    return lines

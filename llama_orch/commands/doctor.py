"""``llama-orch doctor``: everything that must hold on this machine, each with its mend."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated

import typer

from daemon_core.errors import EXIT_USAGE, StartupError
from daemon_core.paths import default_config_path
from daemon_core.version import version
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.doctor.checks import CHECKS
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.examine import examine_bounded
from llama_orch.doctor.machine import Machine, with_home
from llama_orch.doctor.report import exit_status, journal_line, lines, report_of, summary
from llama_orch.output import Output

CheckOption = Annotated[
    list[str] | None, typer.Option("--check", metavar="NAME", help="Only this check; may be given again.")
]
ListOption = Annotated[bool, typer.Option("--list", help="Name the checks, and look at nothing.")]
JournalOption = Annotated[
    bool, typer.Option("--journal", help="Lines with priorities, as a unit writes them to the journal.")
]


def doctor(
    *,
    check: CheckOption = None,
    only_list: ListOption = False,
    journal: JournalOption = False,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check everything that llama-orch needs of this machine; exit status 1 or 78 when a check fails."""
    out = Output(as_json=as_json)
    chosen = _chosen(check or [])
    if only_list:
        out.table(("CHECK", "ABOUT"), [(each.name, each.about) for each in chosen], "")
        out.data([{"check": each.name, "about": each.about} for each in chosen])
        return 0
    environ = with_home(os.environ)
    machine = Machine(config_path=config or default_config_path(environ), url=url, environ=environ)
    results = asyncio.run(examine_bounded(machine, chosen))
    out.data(report_of(results, version()))
    for result in results:
        for line in [journal_line(result)] if journal else lines(result):
            out.line(line)
    status = exit_status(results)
    out.line(f"<{4 if status else 5}>{summary(results)}: llama-orch doctor" if journal else summary(results))
    return status


def _chosen(names: list[str]) -> tuple[Check, ...]:
    """The checks of these names, in their own order. Raises StartupError for a name that is none."""
    known = {each.name: each for each in CHECKS}
    for name in names:
        if name not in known:
            raise StartupError(f"there is no check {name!r}", _meant(name, known), EXIT_USAGE)
    return tuple(each for each in CHECKS if not names or each.name in names)


def _meant(name: str, known: Iterable[str]) -> str:
    several = [each for each in (part.strip() for part in name.split(",")) if each]
    if len(several) > 1:
        return f"--check is given once for each: {' '.join(f'--check {each}' for each in several)}"
    near = get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else "llama-orch doctor --list names them"

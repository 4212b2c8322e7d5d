"""Puts the tables of ``adapters.parameters`` into docs/engines.md, between its markers.

Decides how they are laid out. What stands around them is written by hand, and stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from adapters.parameters import TABLES, WORKLOADS, Honoured, Parameter, Unable, Verdict
from contracts.config import Engine
from contracts.tasks import Workload

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "engines.md"
BEGIN, END = "<!-- begin: {name} -->", "<!-- end: {name} -->"


def documents() -> dict[Path, str]:
    """The page with its tables as the code has them now."""
    return {PAGE: filled(PAGE.read_text(encoding="utf-8"))}


def filled(page: str) -> str:
    """The page with every table between its markers. ValueError where a marker is missing."""
    for name, table in tables().items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE.name} has no {begin} with its {end}")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


def tables() -> dict[str, str]:
    """Every table by its name."""
    return {
        "workloads": "\n".join(_workloads()),
        "completion": "\n".join(_parameters(Workload.COMPLETION)),
        "chat": "\n".join(_parameters(Workload.CHAT)),
        "embedding": "\n".join(_parameters(Workload.EMBEDDING)),
        "reasons": "\n".join(_reasons()),
    }


def _workloads() -> Iterator[str]:
    yield _row("engine", *Workload)
    yield _rule(len(Workload) + 1)
    for engine, able in WORKLOADS.items():
        yield _row(engine, *("if it serves it" if workload in able else "no" for workload in Workload))


def _parameters(workload: Workload) -> Iterator[str]:
    engines = [engine for engine in Engine if workload in TABLES[engine]]
    yield _row("", *engines)
    yield _rule(len(engines) + 1)
    for parameter in Parameter:
        verdicts = [TABLES[engine][workload].get(parameter) for engine in engines]
        if any(verdicts):
            yield _row(f"`{parameter}`", *(_cell(verdict) for verdict in verdicts))


def _cell(verdict: Verdict | None) -> str:
    match verdict:
        case None:
            return ""
        case Unable():
            return "**no**"
        case Honoured():
            conditions = [f"shows `{verdict.needs}`"] if verdict.needs is not None else []
            conditions += [f"above {verdict.above:g}"] if verdict.above is not None else []
            conditions += [f"at most {verdict.most}"] if verdict.most is not None else []
            conditions += [f"0 is sent as {verdict.zero:g}"] if verdict.zero is not None else []
            conditions += [verdict.note] if verdict.note else []
            return _code(verdict.name) + (f" ({'; '.join(conditions)})" if conditions else "")


def _reasons() -> Iterator[str]:
    for engine, by_workload in TABLES.items():
        reasons: dict[tuple[str, str], list[str]] = {}
        for workload, table in by_workload.items():
            for parameter, verdict in table.items():
                if isinstance(verdict, Unable):
                    about = f"`{parameter}`"
                    if sum(isinstance(other.get(parameter), Unable) for other in by_workload.values()) == 1:
                        about += f" of a {workload}" if len(by_workload) > 1 else ""
                    listed = reasons.setdefault((verdict.why, verdict.mend), [])
                    listed += [about] if about not in listed else []
        for (why, mend), parameters in reasons.items():
            yield f"- **{engine}**, {', '.join(parameters)}: {why}. Instead: {mend}."


def _code(name: str) -> str:
    """A name on the wire as code, with the words that qualify it as text."""
    return re.sub(r"^[\w.: ]*?(?= left out$)|^[\w.: ]+$", lambda found: f"`{found[0]}`", name, count=1)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return f"|{'---|' * columns}"

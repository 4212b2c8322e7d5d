"""Everything that the doctor can find, in the order of its checks: docs/doctor.md is made of it.

Decides the order and the table. A new kind is found here by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from llama_orch.doctor.base import Kind
from llama_orch.doctor.judge import (
    clock,
    compute_capability,
    configuration,
    containers,
    cuda,
    daemons,
    disk,
    driver,
    engine,
    environment,
    filesystem,
    gpus,
    lan,
    linger,
    model,
    paths,
    permissions,
    ports,
    session,
    subuid,
    toolkit_cdi,
    units,
    versions,
)

_MODULES: tuple[ModuleType, ...] = (
    *(configuration, session, paths, filesystem, disk, permissions, clock),
    *(driver, gpus, compute_capability, cuda, containers, subuid, toolkit_cdi),
    *(engine, model, units, environment, linger, lan, ports, versions, daemons),
)


def kinds() -> tuple[Kind, ...]:
    """Every kind."""
    return tuple(value for module in _MODULES for value in vars(module).values() if isinstance(value, Kind))


def table(checks: Iterable[tuple[str, str]]) -> str:
    """A section for each check, by its name and what it is about, with a row for each kind; in Markdown."""
    known = kinds()
    return "\n".join(_section(name, about, [kind for kind in known if kind.check == name]) for name, about in checks)


def _section(name: str, about: str, found: list[Kind]) -> str:
    rows = [
        f"| `{kind.id}`{' (note)' if kind.note else ''} | {_cell(kind.what)} | {_cell(kind.why)} | {_cell(kind.mend)} |"
        for kind in found
    ]
    head = ["| id | what | why | mend |", "|---|---|---|---|"]
    return "\n".join([f"### {name}", "", f"{about[0].upper()}{about[1:]}.", "", *head, *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

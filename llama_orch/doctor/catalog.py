"""Everything that the doctor can find, as a document: docs/doctor.md is made of it.

Decides how it is set. What there is, the checks say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llama_orch.doctor.base import Kind


def table(checks: Iterable[tuple[str, str, Sequence[Kind]]]) -> str:
    """A section for each check: its name, what it is about, and a row for each thing that it may find; in Markdown."""
    return "\n".join(_section(name, about, kinds) for name, about, kinds in checks)


def _section(name: str, about: str, found: Sequence[Kind]) -> str:
    rows = [
        f"| `{kind.id}`{' (note)' if kind.note else ''} | {_cell(kind.what)} | {_cell(kind.why)} | {_cell(kind.mend)} |"
        for kind in found
    ]
    head = ["| id | what | why | mend |", "|---|---|---|---|"]
    return "\n".join([f"### {name}", "", f"{about[0].upper()}{about[1:]}.", "", *head, *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

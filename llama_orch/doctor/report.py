"""The whole answer of ``llama-orch doctor``, for programs, for a terminal and for the journal.

Decides the document, the lines and the exit status. Never prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from contracts.base import Message
from daemon_core.errors import EXIT_CONFIG, EXIT_FAILURE
from llama_orch.doctor.base import Result, Status

FORMAT = 1
"""Raised when a program that reads the document would have to be changed."""

CONFIGURATION = frozenset({"config", "token"})
"""Checks of what the operator wrote down: with a failure of theirs the daemons end with status 78, too."""

_MARKS = MappingProxyType(
    {Status.OK: "ok     ", Status.NOTE: "note   ", Status.FAILED: "FAILED ", Status.SKIPPED: "skipped"}
)
_PRIORITIES = MappingProxyType({Status.OK: 6, Status.NOTE: 5, Status.FAILED: 3, Status.SKIPPED: 7})
"""syslog's: info, notice, err, debug."""


class Report(Message, frozen=True, kw_only=True):
    """The document of ``--json``."""

    format: int = FORMAT
    version: str
    """Of this program."""
    ok: bool
    """No check failed."""
    checks: tuple[Result, ...]


def report_of(results: Sequence[Result], version: str) -> Report:
    """The document about these results."""
    good = all(result.status is not Status.FAILED for result in results)
    return Report(version=version, ok=good, checks=tuple(results))


def exit_status(results: Sequence[Result]) -> int:
    """0 where nothing failed, 78 where the configuration is at fault, else 1."""
    failed = {result.check for result in results if result.status is Status.FAILED}
    if not failed:
        return 0
    return EXIT_CONFIG if failed & CONFIGURATION else EXIT_FAILURE


def lines(result: Result) -> list[str]:
    """One result for a person."""
    shown = [f"{_MARKS[result.status]}  {result.check}: {result.what}"]
    if result.why:
        shown.append(f"           why:  {result.why}")
    if result.mend:
        shown.append(f"           {'next' if result.status is Status.NOTE else 'mend'}: {result.mend}")
    return shown


def journal_line(result: Result) -> str:
    """One result as a line with the priority that the journal reads from its beginning."""
    why = f"; why: {result.why}" if result.why else ""
    mend = f"; mend: {result.mend}" if result.mend else ""
    text = f"{result.check}: {result.what}{why}{mend}".replace("\n", " ")
    return f"<{_PRIORITIES[result.status]}>{result.status} {text}"


def summary(results: Sequence[Result]) -> str:
    """All of it in one sentence."""
    failed = [result for result in results if result.status is Status.FAILED]
    notes = sum(result.status is Status.NOTE for result in results)
    aside = f", {notes} to know" if notes else ""
    if not failed:
        return f"nothing is wrong here{aside}"
    names = ", ".join(dict.fromkeys(result.check for result in failed))
    return f"{len(failed)} {'thing is' if len(failed) == 1 else 'things are'} wrong here ({names}){aside}"

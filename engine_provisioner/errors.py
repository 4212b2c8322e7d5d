"""What ends a preparation: a cause that a pool can report, one line, and the mend.

Decides how such an error reads. Never decides when one is raised.
"""

from __future__ import annotations

from collections.abc import Iterable

from contracts.engines import Finding
from contracts.pools import Cause


class ProvisionError(Exception):
    """The engine of a pool cannot be prepared. ``message`` and ``hint`` hold no secret.

    ``findings`` are all the problems that were found, where there is more to say than one line. ``retriable`` where the
    same may succeed later with nothing changed here: a network, or the server behind it.
    """

    def __init__(
        self, cause: Cause, message: str, hint: str, findings: Iterable[Finding] = (), *, retriable: bool = False
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.hint = hint
        self.findings = tuple(findings)
        self.retriable = retriable

    def render(self) -> str:
        """The text for a terminal: every finding, or the one thing that is wrong, with what mends it."""
        if self.findings:
            return "\n".join(render(finding) for finding in self.findings)
        return f"{self.cause}: {self.message}\n  mend: {self.hint}"


def render(finding: Finding) -> str:
    """A finding for a terminal: what is wrong, why it matters, what mends it."""
    return f"{finding.check}: {finding.message}\n  why: {finding.why}\n  mend: {finding.hint}"


def error_of(cause: Cause, findings: tuple[Finding, ...]) -> ProvisionError:
    """The error for one or more findings; the first one gives the line and the hint."""
    first, *others = findings
    more = f" (and {len(others)} more)" if others else ""
    return ProvisionError(cause, f"{first.message}{more}", first.hint, findings)

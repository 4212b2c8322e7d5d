"""What a check answers, and what it may answer with.

Decides the shape of a result, and that everything that can be wrong is written down once, as a kind with a stable id, a
reason and a mend: docs/doctor.md is made of them. Never looks at a machine.
"""

from __future__ import annotations

from enum import StrEnum

from contracts.base import Message


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    """Nothing is in the way, and something is worth knowing."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It cannot be told, or does not matter here; ``what`` says why."""


class Result(Message, frozen=True, kw_only=True):
    """What a check found. A failure and a note say why it matters and what mends it."""

    check: str
    id: str
    """Stable: the check and the kind of what was found, such as ``driver.mismatch``; also ``driver.ok``."""
    status: Status
    what: str
    why: str | None = None
    mend: str | None = None


class Kind(Message, frozen=True, kw_only=True):
    """One thing that can be wrong, as the documentation tells it."""

    id: str
    what: str
    why: str
    mend: str
    note: bool = False
    """It is a note, not a failure."""

    @property
    def check(self) -> str:
        """The check that finds it."""
        return self.id.partition(".")[0]

    @property
    def status(self) -> Status:
        """How the check ends that finds it."""
        return Status.NOTE if self.note else Status.FAILED

    def found(self, what: str, mend: str | None = None, *, why: str | None = None) -> Result:
        """It is the case: what it is here, and its mend on this machine where that is not the usual one."""
        return Result(
            check=self.check,
            id=self.id,
            status=self.status,
            what=what,
            why=why or self.why,
            mend=mend or self.mend,
        )


NO_CONFIG = "needs a usable configuration"


def ok(check: str, what: str) -> Result:
    """It holds."""
    return Result(check=check, id=f"{check}.ok", status=Status.OK, what=what)


def skipped(check: str, what: str = NO_CONFIG) -> Result:
    """It cannot be told, or does not matter here."""
    return Result(check=check, id=f"{check}.skipped", status=Status.SKIPPED, what=what)

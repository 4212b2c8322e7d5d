"""What a check is told and what it answers.

Decides their shape, and that a file is read once. Never checks anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from contracts.base import Message
from contracts.config import Config
from daemon_core import config_file
from daemon_core.errors import ConfigFileError, StartupError
from daemon_core.paths import Paths


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong, and something is still to come."""
    FAILED = "failed"
    SKIPPED = "skipped"


class Result(Message, frozen=True, kw_only=True):
    """What a check found; a failure says why it matters and what mends it."""

    check: str
    status: Status
    what: str
    why: str | None = None
    mend: str | None = None


class Machine:
    """What the checks look at."""

    def __init__(self, *, config_path: Path, url: str | None, environ: Mapping[str, str]) -> None:
        self.config_path = config_path
        self.url = url
        self.environ = environ
        self.config: Config | None = None
        """None where the file cannot be used; ``config_error`` says why."""
        self.config_error: StartupError | None = None
        self.paths: Paths | None = None
        try:
            self.config = config_file.load(config_path)
            self.paths = Paths.resolve(self.config.paths, environ)
        except ConfigFileError as error:
            self.config_error = error
        except StartupError as error:
            self.config, self.config_error = None, error


Check = Callable[[Machine], Awaitable[Sequence[Result]]]


def ok(check: str, what: str) -> Result:
    """It holds."""
    return Result(check=check, status=Status.OK, what=what)


def note(check: str, what: str, mend: str) -> Result:
    """It does not hold yet, and will by itself; ``mend`` brings it about now."""
    return Result(check=check, status=Status.NOTE, what=what, mend=mend)


def failed(check: str, what: str, why: str, mend: str) -> Result:
    """It does not hold."""
    return Result(check=check, status=Status.FAILED, what=what, why=why, mend=mend)


def skipped(check: str, what: str = "needs a usable configuration") -> Result:
    """It cannot be told, or does not matter here."""
    return Result(check=check, status=Status.SKIPPED, what=what)

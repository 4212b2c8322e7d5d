"""What stops a program before it works: one line, one hint, one exit status.

Decides the exit statuses and how such an error reads. Never prints, never logs.
"""

from __future__ import annotations

from contracts.base import Message

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_RETRY = 75
"""sysexits.h EX_TEMPFAIL: the same command may succeed later."""
EXIT_CONFIG = 78
"""sysexits.h EX_CONFIG: the same command fails until somebody changes a file or the environment."""


class StartupError(Exception):
    """A program cannot start or go on, and the operator can mend it. Shown without a traceback.

    ``exit_code`` is 1, or 78 where the configuration is at fault: systemd then does not try again.
    """

    def __init__(self, message: str, hint: str | None = None, exit_code: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def render(self) -> str:
        """The error and its mend, for a terminal or a journal."""
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class PathsError(StartupError):
    """A directory that cannot be used as configured."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint, EXIT_CONFIG)


class TokenError(StartupError):
    """A token that must not or cannot be used."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint, EXIT_CONFIG)


class LocatedProblem(Message, frozen=True, kw_only=True):
    """One thing that is wrong with a configuration file, and where. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    path: str
    """The key or value in question (``pools[0].engine``); empty for the file itself."""
    message: str
    value: str | None = None
    """The offending value as it stands in the file, where there is one."""
    hint: str | None = None

    def render(self) -> str:
        """``config.yaml:12: pools[0].engine: 'llamacp' is not one of: ...``, and a line with the hint."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        shown = self.value is None or repr(self.value) in self.message or self.value in self.message
        found = "" if shown else f", found {self.value!r}"
        text = ": ".join(part for part in (where, self.path, self.message) if part) + found
        return text if self.hint is None else f"{text}\n  hint: {self.hint}"


class ConfigFileError(StartupError):
    """A configuration file that cannot be used: everything that is wrong with it, in the order of its lines."""

    def __init__(self, problems: tuple[LocatedProblem, ...]) -> None:
        super().__init__(problems[0].message, problems[0].hint, EXIT_CONFIG)
        self.problems = problems

    def render(self) -> str:
        """One block per problem."""
        return "\n".join(problem.render() for problem in self.problems)

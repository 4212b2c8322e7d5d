"""How the preparation of an engine is shown while it runs.

Decides the form: a spinner over finished steps on a terminal, and a line for each step anywhere else. What a program
printed never drives the terminal, and is shown without what looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.status import Status
from rich.text import Text

from contracts.engines import Plan
from daemon_core.redaction import Redactor

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_FIGURE = re.compile(r"\d+ ?%|\[\d+/\d+\]|^downloaded |^Copying |^[0-9a-f]{12}: ")
"""How far something has come: worth a look and not a line of its own. The last two are podman's and docker's."""


class Shown(Protocol):
    """Where the progress of one pool goes."""

    def say(self, line: str) -> None:
        """A line of a provider: the next step, or something beside it."""


@contextmanager
def shown(pool_id: str, plan: Plan, stream: TextIO) -> Iterator[Shown]:
    """Show the progress of one pool on a stream, until the block ends.

    An exception marks the step that was under way as failed, an interruption as ended.
    """
    if not stream.isatty():
        yield _Lines(pool_id, stream)
        return
    spinner = _Spinner(pool_id, plan, stream)
    try:
        with spinner.status:
            yield spinner
    except BaseException as error:
        spinner.end("failed" if isinstance(error, Exception) else "ended")
        raise
    spinner.end("done")


def _clean(line: str) -> str:
    return _CONTROL.sub(" ", Redactor().text(line)).strip()


class _Lines:
    """For a pipe or a file."""

    def __init__(self, pool_id: str, stream: TextIO) -> None:
        self._pool_id = pool_id
        self._stream = stream

    def say(self, line: str) -> None:
        """See Shown."""
        self._stream.write(f"{self._pool_id}: {_clean(line)}\n")
        self._stream.flush()


class _Spinner:
    """For a terminal: the step that runs turns, the ones before it stand above."""

    def __init__(self, pool_id: str, plan: Plan, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._pool_id = pool_id
        self._steps = [step.detail for step in plan.steps]
        self._step = 0
        self.status = Status(Text(pool_id), console=self._console)

    def say(self, line: str) -> None:
        """See Shown."""
        if self._step < len(self._steps) and line == self._steps[self._step]:
            self.end("done")
            self._step += 1
            self.status.update(self._text(self._steps[self._step - 1]))
        elif _FIGURE.search(line) and self._step:
            self.status.update(self._text(f"{self._steps[self._step - 1]}: {_clean(line)}"))
        else:
            self._print(f"{self._pool_id}: {_clean(line)}")

    def end(self, how: str) -> None:
        """Put down how the step ended that was under way."""
        if self._step:
            self._print(f"{self._pool_id}: {how:<6} {_clean(self._steps[self._step - 1])}")

    def _text(self, what: str) -> Text:
        return Text(
            f"{self._pool_id}: {self._step}/{len(self._steps)} {_clean(what)}", overflow="ellipsis", no_wrap=True
        )

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

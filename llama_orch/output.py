"""How results reach the operator: a table on a terminal, plain columns in a pipe, one JSON document with ``--json``.

Decides the form alone. Text that comes from a model or an engine is never allowed to drive the terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec
from rich.console import Console
from rich.table import Table

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Output:
    """Standard output and standard error of one command."""

    def __init__(self, *, as_json: bool, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads standard output."""
        return self._stdout.isatty()

    @property
    def width(self) -> int:
        """The columns of the terminal that standard output is, as it is now."""
        return Console(file=self._stdout).width

    @property
    def notes_are_read(self) -> bool:
        """Whether a person reads standard error."""
        return self._stderr.isatty()

    def line(self, text: str) -> None:
        """A line of result, for people; ``--json`` leaves it out."""
        if not self.as_json:
            self._write(self._stdout, f"{self.safe(text)}\n")

    def piece(self, text: str) -> None:
        """A piece of an answer as it comes, at once."""
        if not self.as_json:
            self._write(self._stdout, self.safe(text))

    def note(self, text: str) -> None:
        """A line beside the result, on standard error."""
        self._write(self._stderr, f"{clean(text) if self._stderr.isatty() else text}\n")

    def ask(self, question: str) -> bool:
        """Whether the person at the terminal says yes; no answer is none."""
        self._write(self._stderr, f"{clean(question)} [y/N] ")
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            self._write(self._stderr, "\n")
        return answer.strip().lower() in {"y", "yes"}

    def data(self, value: object) -> None:
        """The result for programs; only ``--json`` shows it."""
        if self.as_json:
            self._write(self._stdout, msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")

    def document(self, value: object) -> None:
        """One of many results for programs, on a line of its own; only ``--json`` shows it."""
        if self.as_json:
            self._write(self._stdout, msgspec.json.encode(value).decode() + "\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
        """Rows under their headings; ``empty`` is said where there is none. ``--json`` leaves it out."""
        if self.as_json:
            return
        cells = [[clean("-" if cell is None else str(cell)) for cell in row] for row in rows]
        if not cells:
            self.line(empty)
        elif self.is_terminal:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for number, column in enumerate(columns):
                # What names a row is typed into the next command: it is never cut or broken.
                table.add_column(column, no_wrap=number == 0, overflow="fold")
            for row in cells:
                table.add_row(*row)
            Console(file=self._stdout, highlight=False, markup=False).print(table)
        else:
            for row in [list(columns), *cells]:
                self._write(self._stdout, "\t".join(row) + "\n")

    def safe(self, text: str) -> str:
        """Text without what a terminal would obey; a pipe gets it as it is."""
        return clean(text) if self.is_terminal else text

    @staticmethod
    def _write(stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()


def clean(text: str) -> str:
    """Text without control characters but line breaks and tabs."""
    return _CONTROL.sub("", text)

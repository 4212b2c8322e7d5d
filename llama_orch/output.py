"""How results reach the operator: a table on a terminal, plain columns in a pipe, one JSON document with ``--json``.

Decides the form alone. Text that comes from a model or an engine is never allowed to drive the terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_SHORT = 16
"""Columns of text that are never cut are at most so wide."""
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
            console = Console(file=self._stdout, highlight=False, markup=False)
            widths = columns_that_fit(_widths(columns, cells), console.width)
            console.print(_blocks(columns, cells, console.width) if widths is None else _grid(columns, cells, widths))
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


def columns_that_fit(natural: Sequence[int], room: int) -> list[int] | None:
    """The widths of columns with two blanks between them; None where a table would be no use in this room.

    The first column is typed into the next command, and one of few signs is not worth cutting: those keep their
    widths. The others share what is left, and get about two lines.
    """
    room -= 2 * (len(natural) - 1)
    if sum(natural) <= room:
        return list(natural)
    long = [number for number, width in enumerate(natural) if number and width > _SHORT]
    left = room - sum(width for number, width in enumerate(natural) if number not in long)
    wanted = sum(natural[number] for number in long)
    if not long or 2 * left < wanted + len(long):
        return None
    return [left * width // wanted if number in long else width for number, width in enumerate(natural)]


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(cell_len(line) for cell in column for line in cell.split("\n"))
        for column in zip(columns, *cells, strict=True)
    ]


def _grid(columns: Sequence[str], cells: Sequence[Sequence[str]], widths: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, (column, width) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(column, no_wrap=number == 0, overflow="fold", width=width)
    for row in cells:
        table.add_row(*row)
    return table


def _blocks(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> Group:
    """Each row as a few lines of its own: what names it, and below that the rest, broken between its parts."""
    lines: list[RenderableType] = []
    for row in cells:
        lines.append(Text(row[0], style="bold", overflow="fold"))
        parts = [f"{column.lower()} {cell}" for column, cell in zip(columns[1:], row[1:], strict=True) if cell != "-"]
        filled = ""
        for number, part in enumerate(parts):
            text = part if number == len(parts) - 1 else f"{part},"
            if filled and cell_len(f"{filled} {text}") > width - 2:
                lines.append(_indented(filled))
                filled = text
            else:
                filled = f"{filled} {text}".strip()
        lines.append(_indented(filled))
    return Group(*lines)


def _indented(text: str) -> RenderableType:
    return Padding(Text(text, overflow="fold"), (0, 0, 0, 2))


def clean(text: str) -> str:
    """Text without control characters but line breaks and tabs."""
    return _CONTROL.sub("", text)

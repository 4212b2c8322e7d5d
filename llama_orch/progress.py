"""How far transfers have come, while they run: a bar for each file on a terminal, some lines anywhere else.

Decides the form: what fits into the terminal as it is now, and how few lines will do in a log. What a server calls its
files never drives the terminal. Never decides when something is done: it shows what it is told.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console, JustifyMethod, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from llama_orch.amounts import amount_text, percent, rate_text, shortened, size_text, span_text
from llama_orch.output import clean
from model_provisioner.sources.base import Transferred

LARGE_BYTES = 16 << 20
"""A smaller file is told when it is here, and not on its way."""
STEP_PERCENT = 10
ROWS = 8
"""So many files are shown at once; those that are here give way to others first."""
_BARS_WIDTH, _SPEED_WIDTH = 70, 50
"""Columns from which on there is room for bars, and for the speed."""
_ECHO_WIDTH = 3
"""Columns that stay free, for the ``^C`` that a terminal adds: a row that it breaks would be drawn twice."""
_REDRAW_HZ = 8
_MOVED = re.compile(r"^downloaded ")
"""What a transfer says of its bytes, which ``moved`` is told as well."""
_FIGURE = re.compile(r"\b\d+ %( |$)")
"""How far something else has come: worth a look, and on a terminal not a line of its own."""


class Shown(Protocol):
    """Where the progress of one command goes. To be called from one thread."""

    def say(self, line: str) -> None:
        """A sentence beside the figures."""

    def moved(self, at: Transferred) -> None:
        """How far one file is."""


@contextmanager
def shown(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Iterator[Shown]:
    """Show progress on a stream until the block ends; ``clock`` gives seconds."""
    console = Console(file=stream, highlight=False)
    if not stream.isatty() or console.is_dumb_terminal:
        yield Lines(stream, clock)
        return
    bars = Bars(console, clock)
    with bars.display:
        yield bars


class Unseen:
    """For whoever wants the result alone."""

    def say(self, line: str) -> None:
        """See Shown."""

    def moved(self, at: Transferred) -> None:
        """See Shown."""


class Lines:
    """For a pipe or a file: of each file its beginning, every tenth part, and its end."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._files: dict[str, _File] = {}

    def say(self, line: str) -> None:
        """See Shown."""
        if not _MOVED.search(line):
            self._stream.write(f"{clean(line)}\n")
            self._stream.flush()

    def moved(self, at: Transferred) -> None:
        """See Shown."""
        file = self._files.get(at.name)
        if file is None or at.done_bytes < file.told.done_bytes:  # the latter: it starts anew
            file = self._files[at.name] = _File(at, self._clock())
            text = _first(at)
        else:
            text = _next(file.told, at, file.speed(at, self._clock()))
        if text is not None:
            file.told = at
            self.say(f"{at.name}: {text}")


class _File:
    """One file on its way: where it began and what was told of it last."""

    def __init__(self, at: Transferred, now_s: float) -> None:
        self.told = at
        self._began_at = at.done_bytes
        self._began_s = now_s

    def speed(self, at: Transferred, now_s: float) -> float | None:
        """Bytes in a second since it began; None where that cannot be told yet."""
        passed = now_s - self._began_s
        return (at.done_bytes - self._began_at) / passed if passed > 0 and at.done_bytes > self._began_at else None


def _first(at: Transferred) -> str | None:
    total, done = at.total_bytes, at.done_bytes
    if total is not None and done >= total:
        return f"{size_text(total)}, all of it"
    return amount_text(done, total) if total is None or total >= LARGE_BYTES else None


def _next(told: Transferred, at: Transferred, speed: float | None) -> str | None:
    """The line that a new figure is worth, if it is worth one."""
    total, done = at.total_bytes, at.done_bytes
    at_speed = "" if speed is None else f", {rate_text(speed)}"
    if total is None:
        return f"{size_text(done)}{at_speed}" if done >= max(LARGE_BYTES, 2 * told.done_bytes) else None
    if done >= total:
        return None if told.done_bytes >= total else f"{size_text(total)}, all of it{at_speed}"
    now, before = percent(done, total) or 0, percent(told.done_bytes, total) or 0
    if total < LARGE_BYTES or now // STEP_PERCENT == before // STEP_PERCENT:
        return None
    left = "" if speed is None else f", {span_text((total - done) / speed)} left"
    return f"{now} % of {size_text(total)}{at_speed}{left}"


class Bars:
    """For a terminal: a row for each file, as wide as the terminal is now."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self.display = _Table(console, clock)
        self._console = console
        self._rows: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        """See Shown."""
        if _MOVED.search(line):
            return
        if _FIGURE.search(line):
            self.display.beside = _flat(line)
        else:
            self.display.beside = ""
            self._console.print(Text(clean(line)), soft_wrap=True)

    def moved(self, at: Transferred) -> None:
        """See Shown."""
        row = self._rows.get(at.name)
        if row is None:
            self._rows[at.name] = self.display.add_task(_flat(at.name), total=at.total_bytes, completed=at.done_bytes)
        else:
            self.display.update(row, total=at.total_bytes, completed=at.done_bytes)
        self._make_room()

    def _make_room(self) -> None:
        shown = [task for task in self.display.tasks if task.visible]
        finished = [task for task in shown if task.finished]
        for task in finished[: max(len(shown) - ROWS, 0)]:
            self.display.update(task.id, visible=False)


class _Table(Progress):
    """The rows, with the columns that there is room for."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._screen = console
        self.beside = ""
        """How far something is that is no file."""
        self._rates = (_Cell(_amount, 13), _Cell(_speed, 11), _Cell(_left, 5))
        self._bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
        super().__init__(console=console, get_time=clock, refresh_per_second=_REDRAW_HZ)

    def get_renderables(self) -> Iterable[RenderableType]:
        """All that is drawn; asked for at each redraw, as the terminal may have another width by then."""
        width = max(self._screen.width - _ECHO_WIDTH, 1)
        if width >= _BARS_WIDTH:
            self.columns = (_Cell(_name(width - 44)), self._bar, *self._rates)
        elif width >= _SPEED_WIDTH:
            self.columns = (_Cell(_name(width - 33)), *self._rates)
        else:
            self.columns = (_Cell(_name(width - 17)), _Cell(_percent, 5), self._rates[2])
        self.expand = width >= _BARS_WIDTH
        yield from self._uncounted()
        yield Constrain(self.make_tasks_table([task for task in self.tasks if task.visible][:ROWS]), width)

    def _uncounted(self) -> Iterator[RenderableType]:
        """How many files have no row, and how far something is that is no file."""
        here = sum(not task.visible for task in self.tasks)
        waiting = len(self.tasks) - here - ROWS
        words = [f"{here} more are here"] * (here > 0) + [f"{waiting} more are on their way"] * (waiting > 0)
        if words:
            yield Text(", ".join(words), no_wrap=True, overflow="ellipsis")
        if self.beside:
            yield Text(self.beside, no_wrap=True, overflow="ellipsis")


class _Cell(ProgressColumn):
    """A column of text, which is never broken into two lines."""

    def __init__(self, text: Callable[[Task], str], least: int | None = None) -> None:
        """With ``least`` columns, figures stand still under each other."""
        justify: JustifyMethod = "left" if least is None else "right"
        super().__init__(table_column=Column(no_wrap=True, overflow="ellipsis", min_width=least, justify=justify))
        self._text = text

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        return Text(self._text(task))


def _flat(text: str) -> str:
    return clean(text).replace("\n", " ").replace("\t", " ")


def _name(width: int) -> Callable[[Task], str]:
    return lambda task: shortened(task.description, width)


def _amount(task: Task) -> str:
    return amount_text(int(task.completed), None if task.total is None else int(task.total))


def _percent(task: Task) -> str:
    share = percent(int(task.completed), None if task.total is None else int(task.total))
    return size_text(int(task.completed)) if share is None else f"{share:3} %"


def _speed(task: Task) -> str:
    speed = task.finished_speed or task.speed
    return "" if not speed else rate_text(speed)


def _left(task: Task) -> str:
    """The time that is left, or that it took."""
    seconds = task.finished_time if task.finished else task.time_remaining
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

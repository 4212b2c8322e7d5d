"""How the preparation of an engine is shown while it runs.

Decides the form: a bar below finished steps on a terminal, and a line for each step and each tenth of it anywhere else.
What a program printed never drives the terminal, and is shown without what looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.table import Column
from rich.text import Text

from contracts.engines import Plan
from daemon_core.redaction import Redactor
from engine_provisioner.figures import Meter

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_BAR_WIDTH = 60
"""Columns from which on there is room for a bar."""
_BAR_COLUMNS = 20
_ECHO_WIDTH = 3
"""Columns that stay free, for the ``^C`` that a terminal adds: a row that it breaks would be drawn twice."""
_REDRAW_HZ = 8


class Shown(Protocol):
    """Where the progress of one pool goes."""

    def say(self, line: str) -> None:
        """A line of a provider: the next step, or something beside it."""


@contextmanager
def shown(pool_id: str, plan: Plan, stream: TextIO) -> Iterator[Shown]:
    """Show the progress of one pool on a stream, until the block ends.

    An exception marks the step that was under way as failed, an interruption as ended.
    """
    console = Console(file=stream, highlight=False)
    if not stream.isatty() or console.is_dumb_terminal:
        yield _Lines(pool_id, plan, stream)
        return
    steps = _Steps(pool_id, plan, console)
    try:
        with steps.display:
            yield steps
    except BaseException as error:
        steps.end("failed" if isinstance(error, Exception) else "ended")
        raise
    steps.end("done")


def _clean(line: str) -> str:
    return _CONTROL.sub(" ", Redactor().text(line)).strip()


class _Lines:
    """For a pipe or a file."""

    def __init__(self, pool_id: str, plan: Plan, stream: TextIO) -> None:
        self._pool_id = pool_id
        self._steps = {step.detail for step in plan.steps}
        self._stream = stream
        self._meter = Meter()

    def say(self, line: str) -> None:
        """See Shown."""
        if line in self._steps:
            self._meter = Meter()
        elif self._meter.take(_clean(line)):
            if not self._meter.is_worth_a_line():
                return
            line = _layers_text(self._meter) or line
        self._stream.write(f"{self._pool_id}: {_clean(line)}\n")
        self._stream.flush()


class _Steps:
    """For a terminal: the step that runs has a bar, the ones before it stand above."""

    def __init__(self, pool_id: str, plan: Plan, console: Console) -> None:
        self.display = _Display(console)
        self._console = console
        self._pool_id = pool_id
        self._steps = [step.detail for step in plan.steps]
        self._step = 0
        self._meter = Meter()
        self._row = self.display.add_task(pool_id, total=None, figure="")

    def say(self, line: str) -> None:
        """See Shown."""
        if self._step < len(self._steps) and line == self._steps[self._step]:
            self.end("done")
            self._step += 1
            self._meter = Meter()
            self.display.reset(self._row, total=None, description=self._text(line), figure="")
        elif self._step and self._meter.take(_clean(line)):
            share = self._meter.share
            what = self._steps[self._step - 1] + ("" if share is not None else f": {_clean(line)}")
            self.display.update(
                self._row,
                description=self._text(what),
                total=None if share is None else 1.0,
                completed=share or 0.0,
                figure=_layers_text(self._meter) or ("" if share is None else f"{share:.0%}".replace("%", " %")),
            )
        else:
            self._print(f"{self._pool_id}: {_clean(line)}")

    def end(self, how: str) -> None:
        """Put down how the step ended that was under way."""
        if self._step:
            self._print(f"{self._pool_id}: {how:<6} {_clean(self._steps[self._step - 1])}")

    def _text(self, what: str) -> str:
        return f"{self._pool_id}: {self._step}/{len(self._steps)} {_clean(what)}"

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


class _Display(Progress):
    """The row, with a bar where there is room for one and somebody has said how far it is."""

    def __init__(self, console: Console) -> None:
        self._screen = console
        super().__init__(console=console, refresh_per_second=_REDRAW_HZ, transient=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        """All that is drawn; asked for at each redraw, as the terminal may have another width by then."""
        room = max(self._screen.width - _ECHO_WIDTH, 1)
        figure = max((len(_figure(task)) for task in self.tasks), default=0)
        bar = room >= _BAR_WIDTH and any(task.total is not None for task in self.tasks)
        taken = 2 + figure + 1 + 8 + (_BAR_COLUMNS + 1 if bar else 0)
        text = Column(no_wrap=True, overflow="ellipsis", max_width=max(room - taken, 1))
        self.columns = (
            SpinnerColumn(finished_text=" "),
            _Cell(_description, text),
            *((BarColumn(bar_width=_BAR_COLUMNS),) if bar else ()),
            _Cell(_figure, Column(no_wrap=True)),
            _Cell(_elapsed, Column(no_wrap=True)),
        )
        yield self.make_tasks_table(self.tasks)


class _Cell(ProgressColumn):
    """A column of text that a program's words cannot colour."""

    def __init__(self, text: Callable[[Task], str], column: Column) -> None:
        super().__init__(table_column=column)
        self._text = text

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        return Text(self._text(task))


def _description(task: Task) -> str:
    return task.description


def _figure(task: Task) -> str:
    return str(task.fields["figure"])


def _elapsed(task: Task) -> str:
    minutes, seconds = divmod(int(task.elapsed or 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _layers_text(meter: Meter) -> str | None:
    return None if meter.layers is None else "{} of {} layers".format(*meter.layers)

"""Notes which tasks run while orchestratord keeps ending, so that the next start knows which of them it was.

Decides nothing: ``crash_loop`` does. It is one small file beside the task store, there from a start to the stop that
was asked for; while nothing is amiss it is written at the start alone, and a task costs nothing. A file that cannot be
read or written is a warning: then nothing is known, and every task is taken up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from adapters.base import Adapter
from contracts.events import Metrics
from orchestratord import crash_loop
from orchestratord.crash_loop import Starts
from orchestratord.pools import PoolEntry
from orchestratord.runs import Account, Listener, Seat
from orchestratord.task import Task

log = logging.getLogger(__name__)

CALM_S = 300.0
"""After so long the row of starts is over: whatever runs then has not ended the daemon."""
_BEGINS, _ENDS = "+", "-"


class Vigil:
    """The file of one start. Without a path nothing is known, and nothing noted."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.starts = Starts()

    @classmethod
    def opened(cls, path: Path) -> Vigil:
        """Read what the former run has left, and begin anew."""
        vigil = cls(path)
        vigil.starts = crash_loop.next_start(*_left(path))
        vigil._write(msgspec.json.encode(vigil.starts).decode() + "\n", "w")
        if vigil.starts.careful:
            text = (
                "this is start %d since orchestratord last ran for %d s or was stopped in order: what begins is noted"
            )
            log.warning(text, vigil.starts.in_a_row, CALM_S)
        return vigil

    @property
    def careful(self) -> bool:
        """Whether it is noted what begins."""
        return self._path is not None and self.starts.careful

    def condemns(self, task_id: str) -> bool:
        """Whether a task is not begun again."""
        return task_id in self.starts.condemned

    def begins(self, task_id: str) -> None:
        """From now on it may be this task that ends the daemon."""
        if self.careful:
            self._write(f"{_BEGINS}{task_id}\n", "a")

    def ends(self, task_id: str) -> None:
        """It did not."""
        if self.careful:
            self._write(f"{_ENDS}{task_id}\n", "a")

    @contextmanager
    def watching(self, task_id: str) -> Iterator[None]:
        """A task may end the daemon for the length of this block."""
        self.begins(task_id)
        yield
        self.ends(task_id)

    def close(self) -> None:
        """All is well: the daemon was stopped in order, or has run for long."""
        if self._path is None:
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot remove %s: %s", self._path, error.strerror)
        self._path = None

    def _write(self, text: str, mode: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open(mode) as file:  # not synced: it is to outlive the process, not the machine
                file.write(text)
        except OSError as error:
            log.warning("cannot write %s, so a task that ends the daemon is not found: %s", self._path, error.strerror)
            self._path = None


@contextmanager
def vigil_at(path: Path | None) -> Iterator[Vigil]:
    """The vigil for the length of the block, in a running loop; it stays on the disk where the block raises."""
    vigil = Vigil() if path is None else Vigil.opened(path)
    calm = asyncio.get_running_loop().call_later(CALM_S, vigil.close)
    try:
        yield vigil
    finally:
        calm.cancel()
    vigil.close()


class Watched:
    """A ``Listener`` whose runs are watched."""

    def __init__(self, listener: Listener, vigil: Vigil) -> None:
        self._listener = listener
        self._vigil = vigil

    def seat(self, task: Task, entry: PoolEntry, adapter: Adapter) -> Seat:
        """See ``Listener``."""
        self._vigil.begins(task.id)
        return self._listener.seat(task, entry, adapter)

    def ended(self, task: Task, account: Account) -> Metrics | None:
        """See ``Listener``."""
        self._vigil.ends(task.id)
        return self._listener.ended(task, account)

    def freed(self, pool_id: str, adapter: Adapter, seat: Seat) -> None:
        """See ``Listener``."""
        self._listener.freed(pool_id, adapter, seat)


def _left(path: Path) -> tuple[Starts, set[str]]:
    """What the former run knew at its start, and the tasks that were running at its end."""
    try:
        head, *notes = path.read_text().splitlines()
        former = msgspec.json.decode(head, type=Starts)
    except FileNotFoundError:
        return Starts(), set()
    except (OSError, ValueError) as error:  # also what is no JSON, or of another shape
        log.warning("%s is of no use: %s", path, error)
        return Starts(), set()
    running: set[str] = set()
    for note in notes:
        (running.add if note[:1] == _BEGINS else running.discard)(note[1:])
    return former, running

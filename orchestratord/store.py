"""The tasks that can still be asked for: all that wait or run, and the latest that ended.

Decides which finished tasks are forgotten: the oldest beyond a count, and beyond a total of bytes
of requests and streams. Never forgets
a task that has not ended.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from contracts.tasks import TaskState
from orchestratord.task import Task

MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Finished tasks kept for late readers, their requests and their streams, hold at most this many bytes together."""


class TaskStore:
    """In memory: a restart of the daemon forgets them."""

    def __init__(self, keep_finished: int, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._keep_finished = keep_finished
        self._max_kept_bytes = max_kept_bytes
        self._live: dict[str, Task] = {}
        self._finished: OrderedDict[str, Task] = OrderedDict()
        self._finished_bytes = 0
        self.settled = 0
        """How many tasks have had their terminal event."""

    def __iter__(self) -> Iterator[Task]:
        """Every known task, newest first."""
        return iter(sorted([*self._live.values(), *self._finished.values()], key=_newest_first))

    @property
    def live(self) -> list[Task]:
        """The tasks that wait or run."""
        return list(self._live.values())

    def get(self, task_id: str) -> Task | None:
        """A task by its id, while it is known."""
        return self._live.get(task_id) or self._finished.get(task_id)

    def add(self, task: Task) -> None:
        """Remember an admitted task."""
        self._live[task.id] = task

    def settle(self, task: Task) -> None:
        """The task has had its terminal event: keep it among the latest, and forget the oldest beyond the bounds."""
        if self._live.pop(task.id, None) is None:
            return
        self.settled += 1
        self._finished[task.id] = task
        self._finished_bytes += task.kept_bytes
        while len(self._finished) > self._keep_finished or self._finished_bytes > self._max_kept_bytes:
            _, oldest = self._finished.popitem(last=False)
            self._finished_bytes -= oldest.kept_bytes

    def select(self, state: TaskState | None, limit: int) -> list[Task]:
        """The newest tasks, of one state where that is asked for."""
        chosen = (task for task in self if state is None or task.state is state)
        return [task for task, _ in zip(chosen, range(limit), strict=False)]


def _newest_first(task: Task) -> float:
    return -task.admission.at_ms

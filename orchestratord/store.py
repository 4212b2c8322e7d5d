"""The tasks that can be asked for: all that wait or run, the latest that ended, and behind them those that are kept.

Decides which ended tasks stay at hand: the latest, up to a count and a total of bytes. Never forgets a task that has
not ended. What is kept for longer, and how, is the ``keeper``'s.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from contracts.tasks import TaskState
from daemon_core.steps import Steps
from orchestratord.task import Task

AT_HAND = 256
"""So many ended tasks need not be read again for readers that are late by a little."""
BYTES_AT_HAND = 8 * 1024 * 1024
"""Their requests and streams together hold at most this many bytes."""


class Past(Protocol):
    """The tasks that have ended."""

    def task(self, task_id: str) -> Task | None:
        """One of them, with its stream."""

    def newest(self, state: TaskState | None, limit: int) -> Steps[list[Task]]:
        """The newest, of one state where that is asked for; without their streams."""


class TaskStore:
    """Every task of this daemon."""

    def __init__(self, past: Past, at_hand: int = AT_HAND, bytes_at_hand: int = BYTES_AT_HAND) -> None:
        self._past = past
        self._most = at_hand
        self._most_bytes = bytes_at_hand
        self._live: dict[str, Task] = {}
        self._latest: OrderedDict[str, tuple[Task, int]] = OrderedDict()
        """Each with the bytes that it counts for: its terminal event may come later."""
        self._latest_bytes = 0
        self.settled = 0
        """How many tasks have had their terminal event."""

    @property
    def live(self) -> list[Task]:
        """The tasks that wait or run."""
        return list(self._live.values())

    def at_hand(self, task_id: str) -> Task | None:
        """A task that waits, runs or has just ended."""
        task = self._live.get(task_id)
        return self._latest.get(task_id, (None,))[0] if task is None else task

    def get(self, task_id: str) -> Task | None:
        """A task by its id, while it is known."""
        return self.at_hand(task_id) or self._past.task(task_id)

    def add(self, task: Task) -> None:
        """Remember an admitted task."""
        self._live[task.id] = task

    def settle(self, task: Task) -> None:
        """The task has had its terminal event: it stays at hand, and the oldest beyond the bounds do not."""
        if self._live.pop(task.id, None) is None:
            return
        self.settled += 1
        size = task.kept_bytes
        self._latest[task.id] = task, size
        self._latest_bytes += size
        while len(self._latest) > self._most or self._latest_bytes > self._most_bytes:
            _, (_, size) = self._latest.popitem(last=False)
            self._latest_bytes -= size

    def select(self, state: TaskState | None, limit: int) -> Steps[list[Task]]:
        """The newest tasks, of one state where that is asked for."""
        lived = self._live.copy()  # those of them that end meanwhile were not read with the ended ones
        past = yield from self._past.newest(state, limit)
        known = {task.id: task for task in past}
        known |= lived | {task.id: task for task in (*self._at_hand(), *self._live.values())}
        chosen = [task for task in known.values() if state is None or task.state is state]
        return sorted(chosen, key=_newest_first)[:limit]

    def _at_hand(self) -> list[Task]:
        return [task for task, _ in self._latest.values()]


def _newest_first(task: Task) -> float:
    return -task.admission.at_ms

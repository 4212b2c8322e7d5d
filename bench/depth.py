"""``python -m bench.depth``: what a task costs the queue, by how many others wait.

Queues of every depth are kept full and take turns, round by round, so that a machine whose speed drifts touches all
alike. Each operation is timed by itself and leaves its queue as deep as it was; figures are medians over the rounds.
Read the ratios: flat means that a deep queue costs a task no more than a short one.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from contracts.config import Queue
from contracts.tasks import Priority
from orchestratord.backlog import Backlog
from orchestratord.dispatch import next_assignment
from orchestratord.placement import Replica

DEPTHS = (10, 1_000, 100_000)
OPERATIONS = ("enqueue", "dequeue", "cancel", "position")
ROUNDS = 15
REPEATS = 400
"""Of each operation, per depth and round."""

POOLS = ("gpu0", "gpu1")
SEED = 20_261_130


class Row(msgspec.Struct, frozen=True):
    """One operation: nanoseconds at each depth, and what the deepest costs beside the shortest."""

    operation: str
    nanoseconds: dict[int, float]

    @property
    def ratio(self) -> float:
        """1 is flat."""
        return self.nanoseconds[max(self.nanoseconds)] / self.nanoseconds[min(self.nanoseconds)]


class FullQueue:
    """A backlog that stays as deep as it was made: both priorities, tasks of one pool and of two, some of them held."""

    def __init__(self, depth: int, first: int = 0) -> None:
        self._random = random.Random(SEED)  # noqa: S311 - the same load every time, no secret
        self._number = 0
        self._waiting: list[str] = []
        self.backlog = Backlog({pool: Queue(capacity=1_000_000) for pool in POOLS}, first)
        self._replicas = [
            Replica(pool_id=pool, replica_id=f"{pool}-0", usable=True, free_slots=1, active=0) for pool in POOLS
        ]
        for _ in range(depth):
            self.enqueue()()
            self.backlog.let_go(self._number)

    def enqueue(self) -> Callable[[], Any]:
        """One more comes in; as the other three a preparation, and the operation itself."""
        self._number += 1
        number, choice = self._number, self._random.random()
        task_id = f"task-{number}"
        priority = Priority.BATCH if choice < 0.5 else Priority.INTERACTIVE
        pools = POOLS if number % 4 else POOLS[:1]
        home = POOLS[0] if number % 10 == 0 else None
        until = None if home is None else number + 100.0
        self._waiting.append(task_id)
        return lambda: self.backlog.offer(task_id, priority, pools, home=home, hold_until_ms=until)

    def dequeue(self) -> Callable[[], Any]:
        """The next one starts."""
        return lambda: next_assignment(self.backlog, self._replicas, self._number)

    def cancel(self) -> Callable[[], Any]:
        """One leaves from anywhere."""
        task_id = self._any()
        return lambda: self.backlog.remove(task_id)

    def position(self) -> Callable[[], Any]:
        """One asks where it stands."""
        task_id = self._any()
        return lambda: self.backlog.position(task_id)

    def _any(self) -> str:
        while True:
            place = self._random.randrange(len(self._waiting))
            self._waiting[place], self._waiting[-1] = self._waiting[-1], self._waiting[place]
            if self._waiting[-1] in self.backlog:
                return self._waiting[-1]
            self._waiting.pop()


def measure(rounds: int = ROUNDS, repeats: int = REPEATS) -> list[Row]:
    """A row for each operation."""
    queues = {depth: FullQueue(depth) for depth in DEPTHS}
    seen: dict[str, dict[int, list[float]]] = {name: {depth: [] for depth in DEPTHS} for name in OPERATIONS}
    for _ in range(rounds):
        for depth, queue in queues.items():
            spent = dict.fromkeys(OPERATIONS, 0)
            for _ in range(repeats):
                spent["position"] += _timed(queue.position())
                spent["cancel"] += _timed(queue.cancel())
                queue.enqueue()()
                spent["enqueue"] += _timed(queue.enqueue())
                spent["dequeue"] += _timed(queue.dequeue())
            for name, nanoseconds in spent.items():
                seen[name][depth].append(nanoseconds / repeats)
    return [
        Row(name, {depth: statistics.median(values) for depth, values in by_depth.items()})
        for name, by_depth in seen.items()
    ]


def table(rows: list[Row]) -> Table:
    """The rows beside each other."""
    answer = Table(title="what one operation of the queue takes, by how many wait", title_justify="left")
    for name in ("operation, us", *(f"{depth:,} wait" for depth in DEPTHS), "deepest / shortest"):
        answer.add_column(name, justify="left" if name.startswith("operation") else "right", no_wrap=True)
    for row in rows:
        times = [f"{nanoseconds / 1000:.2f}" for nanoseconds in row.nanoseconds.values()]
        answer.add_row(row.operation, *times, f"{row.ratio:.2f}")
    return answer


def _timed(operation: Callable[[], Any]) -> int:
    began = time.perf_counter_ns()
    operation()
    return time.perf_counter_ns() - began


if __name__ == "__main__":
    Console().print(table(measure()))

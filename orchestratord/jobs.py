"""Tells pool-managerd whose work each engine does, so that the engine's own log lines carry correlation ids.

Decides when it is told: behind the request to the engine, so that nobody's first token waits for it; at most once in
``GATHER_S`` for each pool, so that many short tasks do not keep both daemons busy with it; and that a job is named for
a moment after its end, since an engine says some of it late.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable

from contracts.rpc import MAX_JOBS, JobsParams

GATHER_S = 0.005
LINGER_S = 0.2


class Jobs:
    """The jobs of every pool. ``tell`` sends, where there is somebody to send to."""

    def __init__(self, tell: Callable[[JobsParams], object]) -> None:
        self._tell = tell
        self._places: dict[str, str] = {}
        """Where each running task is."""
        self._jobs: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """The correlation ids of each pool's tasks, the oldest first."""
        self._leaving: deque[tuple[float, str, str]] = deque()
        """(moment, pool, task) of those that have ended."""
        self._sweep: asyncio.TimerHandle | None = None
        self._due: set[str] = set()
        self._told_at: dict[str, float] = {}

    def started(self, pool_id: str, task_id: str, correlation_id: str) -> None:
        """A pool's engine works for a job from now on."""
        self.ended(task_id)  # elsewhere, where it ran elsewhere before
        self._places[task_id] = pool_id
        self._jobs[pool_id][task_id] = correlation_id
        self._changed(pool_id)

    def ended(self, task_id: str) -> None:
        """No engine works for the job any more."""
        pool_id = self._places.pop(task_id, None)
        if pool_id is None:
            return
        loop = asyncio.get_running_loop()
        self._leaving.append((loop.time() + LINGER_S, pool_id, task_id))
        if self._sweep is None:
            self._sweep = loop.call_later(LINGER_S, self._forget)

    def tell_all(self) -> None:
        """pool-managerd is back: it knows nothing."""
        for pool_id in self._jobs:
            self._changed(pool_id)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        while self._leaving and self._leaving[0][0] <= loop.time():
            _, pool_id, task_id = self._leaving.popleft()
            if self._places.get(task_id) != pool_id:
                self._jobs[pool_id].pop(task_id, None)
                self._changed(pool_id)
        if self._leaving:
            self._sweep = loop.call_at(self._leaving[0][0], self._forget)

    def _changed(self, pool_id: str) -> None:
        if pool_id in self._due:
            return
        self._due.add(pool_id)
        loop = asyncio.get_running_loop()
        earliest = self._told_at.get(pool_id, -GATHER_S) + GATHER_S
        if loop.time() < earliest:
            loop.call_at(earliest, self._say, pool_id)
        else:
            # The turn after the next: the task that was just launched sends its request in the next one.
            loop.call_soon(loop.call_soon, self._say, pool_id)

    def _say(self, pool_id: str) -> None:
        self._due.discard(pool_id)
        self._told_at[pool_id] = asyncio.get_running_loop().time()
        ids = list(dict.fromkeys(self._jobs[pool_id].values()))
        shown = tuple(ids[-MAX_JOBS:])  # the newest: most of what is said is about them
        self._tell(JobsParams(pool_id=pool_id, correlation_ids=shown, more=len(ids) - len(shown)))

"""Looks after the tasks that wait: tells those who listen where they stand, and ends those that wait in vain.

Decides nothing that ``standing`` (what is worth telling), ``deadlines`` (what can no longer be in time) and the
configuration (how long a pool may be out of service) do not. Takes a few tasks at a time, so that however many wait,
no token is late because of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice

from daemon_core.heartbeat import Heartbeats
from orchestratord import admission, deadlines
from orchestratord.admission import Refusal
from orchestratord.backlog import Backlog, Lane
from orchestratord.clock import Clock
from orchestratord.outlook import Outlook
from orchestratord.pools import PoolDirectory
from orchestratord.standing import Standing, notable
from orchestratord.task import Task

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
AT_A_TIME = 8
"""So many tasks are looked at before others have their turn in the loop."""
MANY = 512
"""So many of those with a deadline, and of those with listeners, in one round; the others come in the next ones."""


class Attendant:
    """Goes through the waiting tasks, round after round."""

    def __init__(
        self,
        pools: PoolDirectory,
        backlog: Backlog,
        outlook: Outlook,
        clock: Clock,
        *,
        find: Callable[[str], Task | None],
        refuse: Callable[[Task, Refusal], None],
    ) -> None:
        self._pools = pools
        self._backlog = backlog
        self._outlook = outlook
        self._clock = clock
        self._find = find
        self._refuse = refuse
        self._concerned: dict[str, Task] = {}
        """Who has listeners or a deadline; the one that was looked at last is the last."""

    def concern(self, task: Task) -> None:
        """Somebody listens to this task, or it has a deadline."""
        if not task.finished:
            self._concerned.setdefault(task.id, task)

    async def run(self, heartbeats: Heartbeats) -> None:
        """Until it is cancelled."""
        heart = heartbeats.owner("attendant", LOOK_EVERY_S)
        while True:
            heart.beat()
            try:
                await self._round()
            except (
                Exception
            ):  # as with a generation: a mistake of ours about one that waits must not end all the others
                log.exception("waiting tasks could not be looked after")
            await asyncio.sleep(LOOK_EVERY_S)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _round(self) -> None:
        self._outlook.look()
        self._end_of_patience()
        chosen = list(islice(self._concerned.values(), MANY))
        for number, task in enumerate(chosen, start=1):
            self._attend(task)
            if number % AT_A_TIME == 0:
                await asyncio.sleep(0)

    def _attend(self, task: Task) -> None:
        deadline_ms = task.request.deadline_ms
        del self._concerned[task.id]
        if task.finished or (deadline_ms is None and not task.log.readers):
            return  # a listener who comes back says so
        self._concerned[task.id] = task
        if task.id not in self._backlog:
            return  # it runs, and may have to wait again
        forecast = self._outlook.of_waiting(task.id)
        now_ms = self._clock.monotonic_ms()
        on_time = None
        if deadline_ms is not None:
            left_ms = task.admission.at_ms + deadline_ms - now_ms
            on_time = forecast.on_time(left_ms)
            refusal = deadlines.hopeless(task.request, forecast, left_ms)
            if refusal is not None:
                self._refuse(task, refusal)
                return
        now = Standing(
            at_ms=now_ms,
            position=self._backlog.position(task.id),
            queue_depth=len(self._backlog),
            start_ms=forecast.start_ms,
            low_ms=forecast.low_ms,
            high_ms=forecast.high_ms,
            on_time_probability=on_time,
        )
        if task.log.readers and notable(task.standing, now):
            task.moved(now)

    def _end_of_patience(self) -> None:
        """End the tasks all of whose pools have been out of service for longer than an engine may take to start."""
        for lane in list(self._backlog.lanes):
            since_ms = self._outlook.unready_since(lane.pools)
            limit_ms = max(entry.config.timeouts.start_ms for entry in self._pools.of(lane.pools))
            if since_ms is not None and self._clock.monotonic_ms() - since_ms >= limit_ms:
                for task in self._patient(lane, limit_ms):
                    self._refuse(task, admission.outage(self._views(lane.pools), limit_ms))

    def _patient(self, lane: Lane, limit_ms: float) -> list[Task]:
        """Those of a lane that came so long ago; they are its oldest."""
        tasks = []
        for task_id in self._backlog.waiting_in(lane):
            task = self._find(task_id)
            if task is None or self._clock.monotonic_ms() - task.admission.at_ms < limit_ms:
                break
            tasks.append(task)
        return tasks

    def _views(self, pool_ids: Iterable[str]) -> list[admission.PoolView]:
        return [entry.view for entry in self._pools.of(pool_ids)]

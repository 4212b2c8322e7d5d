"""Takes up what a former run of the daemon has left.

Decides nothing: ``recovery`` says what becomes of each task. It happens before anything else comes in, so that the
queue is as it was; which engines serve by now is found out as always, when they report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from orchestratord import crash_loop, kept, recovery
from orchestratord.admission import Refusal
from orchestratord.backlog import Backlog, Queued
from orchestratord.clock import Clock
from orchestratord.database import Row
from orchestratord.keeper import Keeper
from orchestratord.kept import Entered, Moment, Past
from orchestratord.outlook import Outlook
from orchestratord.pools import PoolDirectory
from orchestratord.recovery import EndNow, RunAgain
from orchestratord.task import Task
from orchestratord.turns import Turns
from orchestratord.vigil import Vigil

log = logging.getLogger(__name__)


class Restart:
    """One start of the daemon. ``enter`` takes a task that waits again, ``end`` one that cannot."""

    def __init__(
        self,
        keeper: Keeper,
        pools: PoolDirectory,
        backlog: Backlog,
        turns: Turns,
        outlook: Outlook,
        *,
        clock: Clock,
        vigil: Vigil,
        enter: Callable[[Task, Queued], None],
        end: Callable[[Task, Refusal], None],
    ) -> None:
        self._keeper = keeper
        self._pools = pools
        self._backlog = backlog
        self._turns = turns
        self._outlook = outlook
        self._clock = clock
        self._vigil = vigil
        self._enter = enter
        self._end = end

    def take_up(self) -> None:
        """Every task that has had no end waits again, or ends."""
        rows = self._keeper.unended()
        for row in rows:
            with self._vigil.watching(row.id):
                self._take_up_unless_condemned(row)
        if rows:
            log.info("%d tasks of the former run taken up: %d wait again", len(rows), len(self._backlog))

    def _take_up_unless_condemned(self, row: Row) -> None:
        """What cannot even be read without ending the daemon must not do so for ever."""
        try:
            self._take_up(row)
        except Exception:
            if not self._vigil.condemns(row.id):
                raise
            text = "the task %s has ended orchestratord each time it was taken up, and is lost"
            log.exception(text, row.id, extra={"task_id": row.id})
            self._keeper.forget(row.id)

    def _take_up(self, row: Row) -> None:
        now = Moment(self._clock.monotonic_ms(), self._clock.unix_ms())
        try:
            entered = kept.read_entered(row.entered, now)
            past = Past() if row.past is None else kept.read_past(row.past)
        except msgspec.MsgspecError as error:
            text = "the task %s cannot be read from the task store, and is lost: %s"
            log.warning(text, row.id, error, extra={"task_id": row.id})
            self._keeper.forget(row.id)
            return
        frames = self._keeper.journal(row.id)
        admission = entered.admission
        fate = recovery.fate(
            admission.request,
            pools=entered.pools,
            known_pools=[entry.id for entry in self._pools],
            age_ms=max(0, now.unix_ms - admission.created_ms),
            ran_on=None if past.run is None else past.run.served,
            sent=row.past is not None,
            journaled=bool(frames),
            veiled=entered.veil is not None,
        )
        sent = row.past is not None
        task = kept.open_task(admission, past, frames, self._keeper) if sent else Task(admission, self._keeper)
        task.veil, task.followed = entered.veil, bool(row.followed)
        self._keeper.adopt(task, entered, row)
        if self._vigil.condemns(task.id):
            refusal = crash_loop.refusal(self._vigil.starts)
            log.error("task %s: %s", task.id, refusal.message)
            self._end(task, refusal)
            return
        if isinstance(fate, EndNow):
            self._end(task, fate.refusal)
            return
        if isinstance(fate, RunAgain):
            task.run_again()
        elif frames:
            self._keeper.unsay(task.id)
        self._queue(task, entered, fate.pools)

    def _queue(self, task: Task, entered: Entered, pools: frozenset[str]) -> None:
        request = entered.admission.request
        views = [entry.view for entry in self._pools.of(pools)]
        bid = self._turns.bid(request, views, None)
        demand = entered.admission.demand
        place = self._backlog.take_up(
            task.id, request.priority, pools, request.placement, demand=demand, parked=bid.parked
        )
        self._turns.enter(task.id, bid)
        self._outlook.arrived(task, pools)
        self._enter(task, place)

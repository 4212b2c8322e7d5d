"""Starts waiting tasks in free slots, sees each through to its end, and gives it to another replica where it may.

Decides nothing: ``dispatch`` says which task goes where, ``relay`` when to give up, ``retry`` whether a failed run is
followed by another, ``occupancy`` when a slot is free. It keeps count of what a task takes and sends nothing to a
replica that may be dead until ``looks`` trusts it. A slot is taken until the engine has let go of its run: where it
ended the run itself, at once; otherwise when it says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from types import TracebackType
from typing import Self

from adapters.base import Adapter, Finished
from contracts.config import Config, Mode
from contracts.errors import ErrorCode
from contracts.events import Metrics
from orchestratord import admission, asking, determinism, retry
from orchestratord.attempt import Attempt
from orchestratord.backlog import Backlog
from orchestratord.clock import Clock
from orchestratord.dispatch import Assignment, next_assignment, next_expiry
from orchestratord.idle import Idle
from orchestratord.looks import Looks
from orchestratord.manager import Manager, NoManager
from orchestratord.observer import Observer
from orchestratord.occupancy import Occupancy
from orchestratord.placement import Replica
from orchestratord.pools import PoolDirectory, PoolEntry
from orchestratord.relay import Cut, Limits, relay
from orchestratord.release import PATIENCE_MS, SHARED_PATIENCE_MS, Leave, Releases
from orchestratord.retry import Failed
from orchestratord.runs import Listener, Nobody, Seat
from orchestratord.task import Run, Task
from orchestratord.vouched import Vouching

log = logging.getLogger(__name__)


class Runner:
    """The runs of every pool. Leaving its async context waits for every generation to close.

    ``seating`` chooses slots and is told of each run's start and end.
    """

    def __init__(
        self,
        config: Config,
        pools: PoolDirectory,
        backlog: Backlog,
        *,
        find: Callable[[str], Task | None],
        settled: Callable[[Task], None],
        learned: Callable[[PoolEntry], None],
        clock: Clock,
        observer: Observer,
        seating: Listener | None = None,
        manager: Manager | None = None,
    ) -> None:
        self._profile = config.profile
        self._pools = pools
        self._backlog = backlog
        self._find = find
        self._settled = settled
        self._clock = clock
        self._observer = observer
        self._seating = seating or Nobody()
        manager = manager or NoManager()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._occupancy = Occupancy()
        self._releases = Releases(self._occupancy, clock)
        self._idle = Idle(self._occupancy, manager)
        self._alarm: asyncio.TimerHandle | None = None
        """Fires when the next hold ends."""
        self._group = asyncio.TaskGroup()
        self._open = False
        self._held = False
        """Nothing starts any more."""
        self._beside: set[asyncio.Task[None]] = set()
        """What looks at engines and waits for them; it ends with us, whatever it has seen."""
        self._vouching = Vouching(self._start_beside)
        self._looks = Looks(learned=learned, usable=self.pump, restart=manager.restart, start=self._start_beside)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._open = True
        self._looks.open()
        for entry in self._pools:
            self.reported(entry)
        self.pump()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._looks.close()
        self._ring_at(None)
        for work in self._beside:
            work.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            self._releases.close()

    def pump(self) -> None:
        """Start everything that can start."""
        if not self._open or self._held:
            return
        now_ms = self._clock.monotonic_ms()
        while self._backlog and (assignment := next_assignment(self._backlog, self._replicas(), now_ms)):
            task = self._find(assignment.task_id)
            entry = self._pools[assignment.replica.pool_id]
            if task is not None and entry.adapter is not None:
                self._launch(task, assignment, entry, entry.adapter)
        self._ring_at(next_expiry(self._backlog, self._replicas()) if self._backlog else None)

    def hold(self) -> None:
        """Start nothing more: what waits is the next run's."""
        self._held = True
        self._ring_at(None)

    async def finished(self) -> bool:
        """Wait until nothing runs; True then. Call ``hold`` first."""
        while self._running:
            await asyncio.wait(set(self._running.values()))
        return True

    @property
    def running(self) -> int:
        """How many tasks run."""
        return len(self._running)

    def reported(self, entry: PoolEntry) -> None:
        """pool-managerd has said how a pool is: ask an engine that has just started what it is."""
        self._looks.learn(entry)
        self._idle.reported(entry)

    def stop(self, task: Task) -> None:
        """Close the task's connection to its engine, if it has one."""
        running = self._running.pop(task.id, None)
        if running is not None:
            running.cancel()

    def occupy(self, pool_id: str, adapter: Adapter) -> Callable[[], None]:
        """Take a slot for something that is no task; what is answered gives it back."""
        hold = self._occupancy.take(pool_id, adapter, self._clock.monotonic_ms())
        hold.leaving = True  # the engine does not count it among its generations

        def give_back() -> None:
            if self._occupancy.free(hold):
                self._idle.look(self._pools[pool_id])
                self.pump()

        return give_back

    def beside(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Do something that ends with the tasks, whatever it has come to."""
        running = self._group.create_task(work, name=name)
        self._beside.add(running)
        running.add_done_callback(self._beside.discard)
        return running

    def active(self, pool_id: str) -> int:
        """How many slots of a pool are busy."""
        return self._occupancy.of(pool_id)

    def taken(self, pool_id: str) -> int:
        """How many slots are busy of the engine that serves a pool now."""
        return self._taken(self._pools[pool_id])

    # --- the start of a run -------------------------------------------------------------------------------------------

    def _taken(self, entry: PoolEntry) -> int:
        return self._occupancy.on(entry.adapter)

    def _replicas(self) -> list[Replica]:
        return [
            Replica(
                pool_id=entry.id,
                replica_id=entry.snapshot.replica_id,
                usable=entry.usable,
                free_slots=entry.slots - self._taken(entry),
                active=self._taken(entry),
                vram_free_bytes=entry.snapshot.vram_free_bytes,
            )
            for entry in self._pools
        ]

    def _ring_at(self, moment_ms: float | None) -> None:
        """Look again when a hold ends: a task may start then though nothing else happens."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if moment_ms is not None:
            delay_s = max(0.0, moment_ms - self._clock.monotonic_ms()) / 1000
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self.pump)

    def _launch(self, task: Task, assignment: Assignment, entry: PoolEntry, adapter: Adapter) -> None:
        now_ms = self._clock.monotonic_ms()
        hold = self._occupancy.take(entry.id, adapter, now_ms)
        try:
            seat = self._seating.seat(task, entry, adapter)
            run = self._begin(task, entry, seat, now_ms)
        except Exception:  # as with a generation; nothing was sent, and nobody else would end it
            log.exception("task %s could not be started", task.id, extra=task.known_by | {"pool_id": entry.id})
            self._occupancy.free(hold)
            self._end_badly(task)
            return
        attempt = Attempt(task, assignment.entry, entry, adapter, hold=hold, seat=seat, run=run)
        running = self._group.create_task(self._generate(attempt), name=task.id)
        self._running[task.id] = running
        # Not a ``finally`` in the coroutine: one that is cancelled before its first step never gets there.
        running.add_done_callback(lambda _: self._left(attempt))

    def _begin(self, task: Task, entry: PoolEntry, seat: Seat, now_ms: float) -> Run:
        """Tell the client where its task runs: in full at first, and what is different when it runs elsewhere."""
        run = asking.run_on(entry, task.request, seat, now_ms)
        if task.attempts:
            task.start_again(run, asking.started_again(task, run, entry, seat))
            self._observer.started_again(task)
        else:
            task.start(run, asking.started(task, run, entry, seat, self._profile))
            self._observer.started(task)
        return run

    async def _generate(self, attempt: Attempt) -> None:
        task, timeouts = attempt.task, attempt.entry.config.timeouts
        limits = Limits(wall_ms=timeouts.wall_ms, idle_ms=timeouts.idle_ms)
        hopeless = attempt.hopeless
        attempt.sent = hopeless is None
        try:
            entered = task.admission
            name = entered.caller.correlation_id
            drawn = asking.drawn_on(attempt.entry, task.request)
            generation = asking.generation_of(
                task.request, entered.seed, attempt.seat, name, asked=task.asked, drawn=drawn
            )
            source = attempt.source(self._vouching)
            outcome = hopeless or await relay(task, source, generation, limits, self._clock, begun=attempt.begun)
        except Exception:  # a mistake of ours in one task must not end all the others
            log.exception("task %s failed", task.id, extra=task.known_by)
            outcome = Failed(code=ErrorCode.INTERNAL, message="internal error; the log has the details")
        self._running.pop(task.id, None)  # it has ended by itself: there is no connection left to close
        if task.finished:  # it was cancelled while its connection closed
            return
        now_ms = self._clock.monotonic_ms()
        attempt.outcome, attempt.ended_ms = outcome, now_ms
        try:
            change = self._report(attempt, now_ms)
            if isinstance(outcome, Finished) and not attempt.may_go_on:
                self._free(attempt, None)  # the engine itself has ended it: the next one need not wait for the books
            if change is not None:
                task.tell(change)
            self._conclude(attempt, outcome, now_ms)
        except Exception:  # the same
            log.exception("the end of task %s could not be carried out", task.id, extra=task.known_by)
            self._end_badly(task)

    def _end_badly(self, task: Task) -> None:
        """Our own mistake ends a task, where it has no end yet."""
        if not task.finished:
            task.fail(ErrorCode.INTERNAL, "internal error; the log has the details")
            self._settled(task)

    # --- its end ------------------------------------------------------------------------------------------------------

    def _conclude(self, attempt: Attempt, outcome: Finished | Failed, now_ms: float) -> None:
        """Give the task its terminal event, or another run."""
        task = attempt.task
        if isinstance(outcome, Finished):
            self._looks.worked(attempt.adapter)
            if isinstance(outcome, Cut):
                self._observer.cut(task)
            task.done(outcome, now_ms)
            try:
                self._observer.done(task)
            finally:
                self._settled(task)
            return
        self._suspect(attempt, outcome)
        early = task.log.tokens == 0
        if early and retry.tries_again(outcome, task.attempts) and self._give_back(attempt, outcome):
            return
        verdict = retry.verdict(outcome, task.replicas) if early else outcome
        retry_ms = 0 if verdict is outcome and outcome.code is ErrorCode.WORKER_RESET else None
        task.fail(verdict.code, verdict.message, verdict.hint, retry_ms)
        try:
            self._observer.failed(task, verdict.code)
        finally:
            self._settled(task)

    def _suspect(self, attempt: Attempt, failed: Failed) -> None:
        """Draw the conclusions about the engine; what was lost with a former one says nothing about this one."""
        entry, adapter = attempt.entry, attempt.adapter
        if failed.engine_suspect:
            self._looks.suspect(entry, adapter)
        if failed.hung:
            self._looks.hung(entry, adapter)
        if failed.unknown:
            self._looks.doubt(entry, adapter)

    def _give_back(self, attempt: Attempt, failed: Failed) -> bool:
        """Let the task wait at its old place for a replica that has not failed it; False where there is none."""
        task = attempt.task
        task.tried.add((attempt.entry.id, attempt.start))
        lane = attempt.place.lane.pools
        if not self._backlog.give_back(attempt.place, lane - self._open_to(task, lane)):
            return False
        task.wait_again()
        self._observer.retried(task, failed.message)
        self.pump()
        return True

    def _open_to(self, task: Task, pool_ids: Collection[str]) -> frozenset[str]:
        """The pools that may run a task once more: as a new task could, and not the very engine that has failed it.

        A pool whose engine is in doubt counts: before it gets anything it is another engine, or was asked anew.
        """
        fit = []
        for entry in self._pools.of(pool_ids):
            view = entry.view
            same = retry.seen_before(task.tried, entry.id, entry.start)
            serves = admission.serves(view.snapshot, task.request.model_ref)
            fits = serves and determinism.may_stay(task.replica_set, view.snapshot)
            if view.accepts and fits and not (same and entry.usable) and not admission.obstacle(task.request, view):
                fit.append(entry.id)
        return frozenset(fit)

    def _report(self, attempt: Attempt, now_ms: float) -> Metrics | None:
        """Tell who listens what the run came to."""
        try:
            return self._seating.ended(attempt.task, attempt.account(now_ms))
        except Exception:  # as with a generation
            task = attempt.task
            log.exception("what came of task %s could not be noted", task.id, extra=task.known_by)
            return None

    # --- its slot -----------------------------------------------------------------------------------------------------

    def _left(self, attempt: Attempt) -> None:
        """The connection to the engine is closed."""
        now_ms = self._clock.monotonic_ms()
        if attempt.outcome is None:
            attempt.ended_ms = now_ms
            self._report(attempt, now_ms)
        if attempt.hold.freed:
            return
        if not self._open or not attempt.may_go_on:
            self._free(attempt, None)
            return
        entry, adapter = attempt.entry, attempt.adapter
        shared = entry.snapshot.provisioning_mode is Mode.EXTERNAL
        patience = SHARED_PATIENCE_MS if shared else PATIENCE_MS
        # A prompt that it works on, it may have to finish; that is as much its right as if somebody waited for it.
        whole = 0 if attempt.hold.begun or shared else attempt.run.at_ms + entry.config.timeouts.wall_ms
        leave = Leave(
            hold=attempt.hold,
            since_ms=now_ms,
            until_ms=max(now_ms + patience, whole),
            shared=shared,
            freed=lambda took_ms: self._free(attempt, took_ms),
            stuck=lambda: self._stuck(attempt),
        )
        if self._releases.add(adapter, leave):
            watching = self._releases.watch(adapter, lambda: self._open and self._occupancy.on(adapter) > 0)
            self._start_beside(watching, f"release-{entry.id}")

    def _free(self, attempt: Attempt, took_ms: float | None) -> None:
        """The slot is free; ``took_ms`` by the engine's own word, where it had to be asked."""
        if not self._occupancy.free(attempt.hold):
            return
        self._seating.freed(attempt.entry.id, attempt.adapter, attempt.seat)
        if took_ms is not None:
            attempt.task.let_go(took_ms)
            self._observer.slot_freed(attempt.task, took_ms)
        self._idle.look(attempt.entry)
        self.pump()

    def _stuck(self, attempt: Attempt) -> None:
        """The engine works on for nobody. Its slot stays taken; an engine without another one is worth nothing."""
        entry, adapter = attempt.entry, attempt.adapter
        self._looks.suspect(entry, adapter)
        if entry.adapter is adapter and self._occupancy.stuck(adapter) >= entry.slots:
            self._looks.lost(entry, "it works on in every slot for tasks that have ended")

    def _start_beside(self, work: Coroutine[None, None, None], name: str) -> None:
        _ = self.beside(work, name)

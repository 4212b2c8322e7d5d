"""The middle of the daemon: tasks are looked up, cancelled and listened to; pools report how they are.

Decides nothing that a deciding module can (``admission``, ``backlog`` and ``prediction`` do): it gives them the present
state, carries out their answer and keeps the books. It changes that state only between two awaits, so a cancel and a
token cannot race. Never speaks HTTP, never speaks to pool-managerd; tasks come in by the ``entrance``, and run in the
``runner``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contracts.config import Config
from contracts.errors import ErrorCode
from contracts.pools import PoolSnapshot
from contracts.tasks import Determinism, OnDisconnect, TaskForecast, TaskRequest, TaskState
from daemon_core.deadline import in_time
from daemon_core.heartbeat import Heartbeats
from daemon_core.steps import Steps
from orchestratord import admission, determinism, recovery, retry
from orchestratord.admission import FAILING, Refusal
from orchestratord.attendant import Attendant
from orchestratord.backlog import Backlog, Queued
from orchestratord.clock import Clock
from orchestratord.determinism import ReplicaSet
from orchestratord.entrance import Entrance, Sources
from orchestratord.errors import ApiError, api_error
from orchestratord.keeper import Keeper
from orchestratord.manager import Manager
from orchestratord.observer import Observer
from orchestratord.outlook import Learning, Outlook
from orchestratord.pools import PoolDirectory, PoolEntry
from orchestratord.rates import Rates
from orchestratord.restart import Restart
from orchestratord.runner import Runner
from orchestratord.store import TaskStore
from orchestratord.task import Caller, Task
from orchestratord.turns import Turns
from orchestratord.vigil import Vigil, Watched

log = logging.getLogger(__name__)

RETURN_MS = 60_000
"""So long at least whoever has read a stream before a restart has to come back: they have to notice it first."""


class Orchestrator:
    """Admission to last token, for all tasks of this daemon."""

    def __init__(
        self,
        config: Config,
        pools: PoolDirectory,
        clock: Clock,
        sources: Sources,
        observer: Observer,
        *,
        keeper: Keeper,
        manager: Manager | None = None,
        vigil: Vigil | None = None,
    ) -> None:
        self.config = config
        self.draining = False
        self._pools = pools
        self._clock = clock
        self._observer = observer
        self._keeper = keeper
        self._vigil = vigil or Vigil()
        self._store = TaskStore(keeper)
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._graces: dict[str, asyncio.TimerHandle] = {}
        self._served: dict[str, tuple[str | None, ...]] = {}
        self._sets: dict[str, ReplicaSet | None] = {}
        """The replica set of each pool that is ready."""
        self._offers: dict[str, object] = {}
        """What each pool had to offer when it was last looked at who may run there."""
        self.backlog = Backlog({pool.id: pool.queue for pool in config.pools})
        self.turns = Turns(config.sessions, pools, self.backlog, clock=clock, find=self._store.get, fail=self._fail)
        self.outlook = Outlook(config, pools, self.backlog, clock, taken=self._taken, find=self._store.get)
        learning = Learning(self.outlook, self.turns)
        self.runner = Runner(
            config,
            pools,
            self.backlog,
            find=self._store.get,
            settled=self._settled,
            learned=self._learned,
            clock=clock,
            observer=observer,
            seating=Watched(learning, self._vigil) if self._vigil.careful else learning,
            manager=manager,
        )
        self.turns.floor = self.runner
        self.attendant = Attendant(pools, self.backlog, self.outlook, clock, find=self._store.get, refuse=self._refuse)
        self.entrance = Entrance(
            pools,
            self.backlog,
            self.outlook,
            Rates(config.limits),
            self._store,
            keeper=keeper,
            turns=self.turns,
            entered=self._enter,
            clock=clock,
            sources=sources,
            observer=observer,
        )

    @property
    def rested(self) -> int | None:
        """How many tasks have ended; None while one waits or runs."""
        return None if self._store.live else self._store.settled

    @property
    def trouble(self) -> str | None:
        """Why nothing can be kept right now, and so nobody comes in."""
        return self._keeper.trouble

    def take_up(self) -> None:
        """Go on with what a former run of the daemon has left; before anything else comes in."""
        Restart(
            self._keeper,
            self._pools,
            self.backlog,
            self.turns,
            self.outlook,
            clock=self._clock,
            vigil=self._vigil,
            enter=self._enter,
            end=self._end_found,
        ).take_up()
        grace_ms = max(self.config.server.disconnect_grace_ms, RETURN_MS)
        for task in self._store.live:
            if task.followed:
                self._grace(task, grace_ms)

    async def run(
        self, stopping: asyncio.Event, hurry: asyncio.Event | None = None, heartbeats: Heartbeats | None = None
    ) -> None:
        """Serve until ``stopping`` is set, and drain: let what runs end by itself, for as long as is configured.

        Then end what the next run cannot go on with, and leave it the rest. ``hurry`` cuts the wait short.
        """
        heartbeats = heartbeats or Heartbeats()
        async with self.runner, asyncio.TaskGroup() as group:
            attending = group.create_task(self.attendant.run(heartbeats), name="attendant")
            with heartbeats.while_serving():
                await stopping.wait()
            await self._drain(hurry or asyncio.Event())
            attending.cancel()
            for task in self._store.live:
                self._leave(task)

    async def _drain(self, hurry: asyncio.Event) -> None:
        """Nothing comes in or starts any more. What waits is kept for the next run, where there is a store for it."""
        limit_ms = self.config.server.drain_ms
        self.draining = True
        self.entrance.close("orchestratord is stopping", self._clock.monotonic_ms() + limit_ms)
        self.runner.hold()
        if not self._keeper.durable:
            for task in self._store.live:
                if task.state is TaskState.QUEUED:
                    self._leave(task)
        running = self.runner.running
        if running:
            log.info("%d running tasks have %d ms to end (server.drain_ms)", running, limit_ms)
        if not await in_time(self.runner.finished(), hurry, limit_ms / 1000):
            log.warning("%d tasks have not ended in time, and are cut off", self.runner.running)

    def _leave(self, task: Task) -> None:
        """This run does nothing more for a task."""
        if self._keeper.durable and recovery.outlives_a_stop(task.request, task.first_text_ms, task.run):
            task.log.part()
            self.runner.stop(task)
            return
        self._fail(task, ErrorCode.POOL_UNAVAILABLE, "orchestratord is stopping", "send the task again later")

    def reconfigure(self, config: Config) -> None:
        """A changed configuration runs from now on; what cannot change meanwhile is in it as it was."""
        self.config = config
        self._pools.reconfigure(config)
        self.backlog.rebound({pool.id: pool.queue for pool in config.pools})
        self.outlook.reconfigure(config)
        self.entrance.rates.change(config.limits)
        self.turns.reconfigure(config.sessions)

    # --- tasks --------------------------------------------------------------------------------------------------------

    async def submit(self, request: TaskRequest, caller: Caller) -> Task:
        """Admit a task, or answer with the one that the same id and body made earlier.

        Raises ApiError with the refusal.
        """
        task = await self.entrance.submit(request, caller)
        try:
            await self._keeper.admitted()
        except ApiError:
            if task.admission.caller is caller:  # and not a task that was told of before
                self.cancel(task, "disk")
            raise
        except asyncio.CancelledError:  # the client has gone, and nobody may ever read what it asked for
            if not task.log.readers:
                self._grace(task, self.config.server.disconnect_grace_ms)
            raise
        return task

    async def foretell(self, request: TaskRequest, caller: Caller) -> TaskForecast:
        """What would become of a task. Raises ApiError with the refusal that it would get."""
        return await self.entrance.foretell(request, caller)

    def get(self, task_id: str) -> Task:
        """A task by its id. Raises ApiError NOT_FOUND."""
        task = self._store.get(task_id)
        if task is None:
            hint = f"the last {self.config.server.keep_finished} finished tasks are kept (server.keep_finished)"
            raise api_error(ErrorCode.NOT_FOUND, f"there is no task {task_id!r}", hint)
        self._locate(task)
        return task

    def select(self, state: TaskState | None, limit: int) -> Steps[list[Task]]:
        """The newest tasks."""
        chosen = yield from self._store.select(state, limit)
        for task in chosen:
            self._locate(task)
        return chosen

    async def settled(self) -> None:
        """Return when all that can be told by now is as durable as was configured."""
        await self._keeper.settled()

    def held_back(self, refusal: Refusal, caller: Caller) -> None:
        """A client may not open one more stream."""
        self._observer.held_back(refusal, caller)

    def cancel(self, task: Task, reason: str) -> None:
        """End a task now, wherever it stands; of one that has ended nothing changes. No token follows."""
        if not task.finished:
            task.cancel(self._clock.monotonic_ms())
            self._observer.canceled(task, reason)
            self._settled(task)

    @contextmanager
    def reading(self, task: Task, wake: Callable[[], None]) -> Iterator[None]:
        """Somebody reads the task's stream for the length of this block; ``wake`` is called when there is more."""
        unsubscribe = task.log.subscribe(wake)
        _drop(self._graces, task.id)
        self.attendant.concern(task)
        if not task.followed and not task.finished:
            self._keeper.follows(task)
        try:
            yield
        finally:
            unsubscribe()
            if not task.log.readers:
                self._grace(task, self.config.server.disconnect_grace_ms)

    def _grace(self, task: Task, grace_ms: float) -> None:
        """Nobody reads the task's stream: whoever did has so long to come back."""
        if task.on_disconnect is OnDisconnect.CANCEL and not task.finished and not task.log.over:
            _drop(self._graces, task.id)
            loop = asyncio.get_running_loop()
            self._graces[task.id] = loop.call_later(grace_ms / 1000, self.cancel, task, "disconnect")

    # --- pools --------------------------------------------------------------------------------------------------------

    def report(self, snapshot: PoolSnapshot) -> None:
        """pool-managerd says how a pool is."""
        entry = self._pools.report(snapshot)
        if entry is None:
            text = "pool-managerd reports pool %r, which this configuration does not have"
            log.warning(text, snapshot.pool_id, extra={"pool_id": snapshot.pool_id})
            return
        self._observer.pool_changed(entry)
        error = snapshot.last_error if snapshot.state in FAILING else None
        text = f"no pool is left that could run this task: pool {entry.id!r} is {snapshot.state}"
        hint, retriable = error.hint if error else None, admission.lasting([entry.view])
        self._strand(Refusal(code=ErrorCode.POOL_UNAVAILABLE, message=text, hint=hint, retriable=retriable))
        self._turn_away(entry)
        self._hold_to_sets(entry)
        self._take_in(entry)
        self.runner.reported(entry)
        self.runner.pump()

    def _strand(self, refusal: Refusal) -> None:
        """End the tasks that wait for pools of which none is left: nobody would ever answer them.

        After a restart a pool that was not seen yet may still come; ``attendant`` loses its patience where none does.
        """
        hopeful = [each.id for each in self._pools if each.view.accepts or not each.seen]
        for task_id in self.backlog.unserved(hopeful):
            self._refuse(self.get(task_id), refusal)

    def _turn_away(self, entry: PoolEntry) -> None:
        """A reloaded pool may serve another model: what waits for the old one must not get the new one's answer."""
        snapshot = entry.snapshot
        served = (snapshot.model_ref, snapshot.model_id, snapshot.model_digest)
        if not snapshot.ready or self._served.get(entry.id) == served:
            return
        self._served[entry.id] = served
        waiting = {task_id: self.get(task_id).request.model_ref for task_id in self.backlog.waiting_for(entry.id)}
        misled = [task_id for task_id, wanted in waiting.items() if not admission.serves(snapshot, wanted)]
        for task_id in self.backlog.withdraw(entry.id, misled):
            text = f"pool {entry.id!r} serves {snapshot.model_ref!r} now, and no other pool may run this task"
            self._fail(
                self.get(task_id), ErrorCode.MODEL_UNAVAILABLE, text, "GET /v1/capabilities lists what is served"
            )

    def _take_in(self, entry: PoolEntry) -> None:
        """A pool is in service again: what came meanwhile may run there too, as what comes from now on may."""
        view, snapshot = entry.view, entry.snapshot
        served = (snapshot.model_ref, snapshot.model_id, snapshot.model_digest)
        offer = (view.accepts, served, determinism.replica_set(view.snapshot), entry.start, entry.props is None)
        if self._offers.get(entry.id) == offer:
            return
        self._offers[entry.id] = offer
        others = [self.get(task_id) for task_id in self.backlog.barred_from(entry.id)] if view.accepts else []
        joining = [
            task
            for task in others
            if task.continues is None  # what goes on where it was can do so there alone
            and determinism.may_join(task.request, task.replica_set, view.snapshot)
            and not retry.seen_before(task.tried, entry.id, entry.start)
        ]
        self.backlog.extend(entry.id, [task.id for task in joining if admission.joins(task.request, view)])

    def _hold_to_sets(self, entry: PoolEntry) -> None:
        """A pool is ready: strict tasks of another replica set wait for it no more; those of none yet have theirs.

        One that goes on after a restart is held to more than that, when it is its turn.
        """
        snapshot = entry.view.snapshot
        found = determinism.replica_set(snapshot)
        if not snapshot.ready or self._sets.get(entry.id, snapshot) == found:
            if not snapshot.ready:
                self._sets.pop(entry.id, None)
            return
        self._sets[entry.id] = found
        waiting = [self.get(task_id) for task_id in self.backlog.waiting_for(entry.id)]
        strict = [each for each in waiting if each.request.determinism is Determinism.STRICT and each.continues is None]
        for task in strict:
            task.replica_set = task.replica_set or found
        leaving = [task.id for task in strict if not determinism.may_stay(task.replica_set, snapshot)]
        for task_id in self.backlog.withdraw(entry.id, leaving):
            task = self.get(task_id)
            if task.replica_set is not None:
                why = determinism.departure(task.replica_set, snapshot)
                text = f"no pool is left of the replica set that this strict task waited for; pool {entry.id!r}: {why}"
                hint = "send the task again: it is queued for what is served now"
                self._fail(task, ErrorCode.POOL_UNAVAILABLE, text, hint)

    def _learned(self, entry: PoolEntry) -> None:
        """An engine has said what it serves, or that it will not: what waits for something else is not sent to it."""
        view = entry.view
        silent = admission.silence(view)
        if silent is not None:
            self._strand(silent)
            return
        waiting = {task_id: self.get(task_id).request for task_id in self.backlog.waiting_for(entry.id)}
        obstacles = {task_id: admission.obstacle(request, view) for task_id, request in waiting.items()}
        for task_id in self.backlog.withdraw(entry.id, [each for each, found in obstacles.items() if found]):
            found = obstacles[task_id]
            if found is not None:
                self._refuse(self.get(task_id), found)
        self._hold_to_sets(entry)
        self._take_in(entry)

    def _enter(self, task: Task, place: Queued) -> None:
        """The task is in the queue: note it, end the one that gave way, set the deadline, and start what can start."""
        self._store.add(task)
        self._observer.admitted(task, self._pools[place.charged_to])
        if place.evicted is not None:
            engine = self._pools[place.charged_to].config.engine
            pools = frozenset({place.charged_to})
            refusal = admission.evicted(place.charged_to, engine, self.outlook.place_ms(pools, told=True))
            self._refuse(self.get(place.evicted), refusal)
        if task.request.deadline_ms is not None:
            loop = asyncio.get_running_loop()
            self.attendant.concern(task)
            left_ms = task.admission.at_ms + task.request.deadline_ms - self._clock.monotonic_ms()
            self._deadlines[task.id] = loop.call_later(left_ms / 1000, self._overdue, task)
        self.runner.pump()

    # --- the ends of tasks --------------------------------------------------------------------------------------------

    def _taken(self, pool_id: str) -> int:
        return self.runner.taken(pool_id)

    def _fail(self, task: Task, code: ErrorCode, message: str, hint: str | None) -> None:
        self._refuse(task, Refusal(code=code, message=message, hint=hint))

    def _end_found(self, task: Task, refusal: Refusal) -> None:
        """A task that a former run has left cannot be gone on with."""
        self._store.add(task)
        self._refuse(task, refusal)

    def _refuse(self, task: Task, refusal: Refusal) -> None:
        """A task that was let in is refused after all."""
        after_ms, retriable = refusal.retry_after_ms, refusal.retriable
        task.fail(refusal.code, refusal.message, refusal.hint, after_ms, retriable=retriable)
        self._observer.failed(task, refusal.code)
        self._settled(task)

    def _overdue(self, task: Task) -> None:
        """The deadline has passed: of a waiting task nothing can come any more, and a running one has had its time."""
        running = task.state is TaskState.RUNNING
        code = ErrorCode.DECODE_TIMEOUT if running else ErrorCode.ADMISSION_REJECT
        where = "before its answer was complete" if running else "while it waited"
        text = f"the deadline of {task.request.deadline_ms} ms passed {where}"
        self._fail(task, code, text, "allow a later deadline_ms, or send it when less is queued")

    def _settled(self, task: Task) -> None:
        """A task has had its terminal event: nothing waits for it or works on it any more."""
        self.backlog.remove(task.id)
        self.runner.stop(task)
        self.turns.settled(task)
        self.outlook.settled(task)
        _drop(self._deadlines, task.id)
        _drop(self._graces, task.id)
        self._store.settle(task)
        self.entrance.left(task)
        self._observer.settled(task)

    # --- where waiting tasks stand ------------------------------------------------------------------------------------

    def _locate(self, task: Task) -> None:
        """Know where a waiting task stands right now."""
        if task.state is TaskState.QUEUED and task.id in self.backlog:
            task.queue_position = self.backlog.position(task.id)


def _drop(timers: dict[str, asyncio.TimerHandle], task_id: str) -> None:
    timer = timers.pop(task_id, None)
    if timer is not None:
        timer.cancel()

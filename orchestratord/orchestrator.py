"""The front of the daemon: tasks come in, are looked up, cancelled and listened to; pools report how they are.

Decides nothing that a deciding module can (``admission``, ``backlog`` and ``prediction`` do): it gives them the present
state, carries out their answer and keeps the books. It changes that state only between two awaits, so a cancel and a
token cannot race. Never speaks HTTP, never speaks to pool-managerd, and leaves running tasks to the ``runner``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from adapters.base import EngineError
from contracts.config import Config, FullPolicy
from contracts.errors import ErrorCode
from contracts.pools import PoolSnapshot
from contracts.tasks import OnDisconnect, TaskRequest, TaskState
from orchestratord import admission, prediction
from orchestratord.admission import FAILING, Eligible, PoolView, Refusal
from orchestratord.backlog import Backlog, Full, Queued
from orchestratord.clock import Clock
from orchestratord.errors import ApiError, api_error
from orchestratord.observer import Observer
from orchestratord.pools import PoolDirectory, PoolEntry
from orchestratord.runner import Runner, generation_of
from orchestratord.store import TaskStore
from orchestratord.task import Admission, Caller, Task

log = logging.getLogger(__name__)

INTRODUCTION_S = 2.0
"""How long a task waits at the door for an engine that has just started to say what it serves."""
REPORT_EVERY_S = 0.5
"""How often waiting tasks are told where they stand, when that has changed."""


class Sources(msgspec.Struct, frozen=True):
    """Where randomness comes from."""

    new_id: Callable[[], str]
    new_seed: Callable[[], int]


class Orchestrator:
    """Admission to last token, for all tasks of this daemon."""

    def __init__(
        self, config: Config, pools: PoolDirectory, clock: Clock, sources: Sources, observer: Observer
    ) -> None:
        self._config = config
        self._pools = pools
        self._clock = clock
        self._sources = sources
        self._observer = observer
        self._store = TaskStore(config.server.keep_finished)
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._graces: dict[str, asyncio.TimerHandle] = {}
        self._served: dict[str, tuple[str | None, ...]] = {}
        self._stopping = False
        self.backlog = Backlog({pool.id: pool.queue for pool in config.pools})
        self.runner = Runner(
            config,
            pools,
            self.backlog,
            find=self._store.get,
            settled=self._settled,
            learned=self._learned,
            clock=clock,
            observer=observer,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until ``stopping`` is set, then end every task that has not ended."""
        async with self.runner, asyncio.TaskGroup() as group:
            reporter = group.create_task(self._report_positions(), name="report-positions")
            await stopping.wait()
            self._stopping = True
            reporter.cancel()
            for task in self._store.live:
                self._fail(task, ErrorCode.POOL_UNAVAILABLE, "orchestratord is stopping", "send the task again later")

    # --- tasks --------------------------------------------------------------------------------------------------------

    async def submit(self, request: TaskRequest, caller: Caller) -> Task:
        """Admit a task, or answer with the one that the same id and body made earlier.

        Raises ApiError with the refusal.
        """
        try:
            known = self._known(request)
            if known is not None:
                return known
            fitting = await self._fitting(request)
            # While its tokens were counted, a twin of this request may have come in.
            return self._known(request) or self._admit(request, fitting, caller)
        except ApiError as error:
            self._observer.rejected(error.refusal, caller)
            raise

    def get(self, task_id: str) -> Task:
        """A task by its id. Raises ApiError NOT_FOUND."""
        task = self._store.get(task_id)
        if task is None:
            hint = f"the last {self._config.server.keep_finished} finished tasks are kept (server.keep_finished)"
            raise api_error(ErrorCode.NOT_FOUND, f"there is no task {task_id!r}", hint)
        return task

    def select(self, state: TaskState | None, limit: int) -> list[Task]:
        """The newest tasks."""
        return self._store.select(state, limit)

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
        try:
            yield
        finally:
            unsubscribe()
            if not task.finished and not task.log.readers and task.on_disconnect is OnDisconnect.CANCEL:
                grace_s = self._config.server.disconnect_grace_ms / 1000
                loop = asyncio.get_running_loop()
                self._graces[task.id] = loop.call_later(grace_s, self.cancel, task, "disconnect")

    # --- pools --------------------------------------------------------------------------------------------------------

    def report(self, snapshot: PoolSnapshot) -> None:
        """pool-managerd says how a pool is."""
        entry = self._pools.report(snapshot)
        if entry is None:
            log.warning("pool-managerd reports pool %r, which this configuration does not have", snapshot.pool_id)
            return
        self._observer.pool_changed(entry)
        error = snapshot.last_error if snapshot.state in FAILING else None
        text = f"no pool is left that could run this task: pool {entry.id!r} is {snapshot.state}"
        self._strand(ErrorCode.POOL_UNAVAILABLE, text, error.hint if error else None)
        self._turn_away(entry)
        self.runner.learn(entry)
        self.runner.pump()

    def _strand(self, code: ErrorCode, message: str, hint: str | None) -> None:
        """End the tasks that wait for pools of which none is left: nobody would ever answer them."""
        for task_id in self.backlog.unserved([each.id for each in self._pools if each.view.accepts]):
            self._fail(self.get(task_id), code, message, hint)

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

    def _learned(self, entry: PoolEntry) -> None:
        """An engine has said what it serves, or that it will not: what waits for something else is not sent to it."""
        view = entry.view
        silent = admission.silence(view)
        if silent is not None:
            self._strand(silent.code, silent.message, silent.hint)
            return
        waiting = {task_id: self.get(task_id).request for task_id in self.backlog.waiting_for(entry.id)}
        obstacles = {task_id: admission.obstacle(request, view) for task_id, request in waiting.items()}
        for task_id in self.backlog.withdraw(entry.id, [each for each, found in obstacles.items() if found]):
            found = obstacles[task_id]
            if found is not None:
                self._fail(self.get(task_id), found.code, found.message, found.hint)

    # --- admission ----------------------------------------------------------------------------------------------------

    def _known(self, request: TaskRequest) -> Task | None:
        task = None if request.task_id is None else self._store.get(request.task_id)
        if task is not None and task.request != request:
            hint = "use a new task_id for a new request"
            raise api_error(ErrorCode.CONFLICT, f"task {task.id!r} exists with another body", hint, field="task_id")
        return task

    async def _fitting(self, request: TaskRequest) -> tuple[PoolView, ...]:
        """The eligible pools whose context holds prompt and answer."""
        found = self._eligible(request)  # what is refused whatever the engines may say is refused at once
        if await self._introductions(found):
            found = self._eligible(request)
        if all(admission.certainly_fits(request, view.snapshot.ctx_max) for view in found.pools):
            return found.pools
        tokens = await self._count(request, found)
        found = self._eligible(request)  # while they were counted, a pool may have gone
        if tokens is None:  # nobody can count right now: the engine itself will refuse what does not fit
            return found.pools
        fitting = [view for view in found.pools if admission.fits(request, tokens, view.snapshot.ctx_max)]
        if not fitting:
            widest = max(view.snapshot.ctx_max for view in found.pools)
            raise ApiError(admission.context_refusal(request, tokens, widest))
        return tuple(fitting)

    async def _introductions(self, found: Eligible) -> bool:
        """Let those engines that are just being asked say what they serve, rather than queue for a surprise.

        Where another one can run the task already there is none, and nobody waits. Whether there was a wait.
        """
        entries = self._pools.of(found.ids)
        if any(entry.usable for entry in entries):
            return False
        asking = [entry for entry in entries if entry.introducible and entry.asked and not entry.heard.is_set()]
        if asking:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTRODUCTION_S):
                    for entry in asking:
                        await entry.heard.wait()
        return bool(asking)

    def _eligible(self, request: TaskRequest) -> Eligible:
        if self._stopping:
            raise api_error(ErrorCode.POOL_UNAVAILABLE, "orchestratord is stopping", "send the task again later")
        found = admission.eligible(request, self._pools.views(), self._clock.unix_ms())
        if isinstance(found, Refusal):
            raise ApiError(self._unmanaged(found))
        return found

    async def _count(self, request: TaskRequest, found: Eligible) -> int | None:
        """By the first engine that can, for all of these pools: what may not fit into the narrowest is counted."""
        wanted = admission.to_count(request, min(view.snapshot.ctx_max for view in found.pools))
        for entry in self._pools.of(found.ids):
            if entry.usable and entry.adapter is not None:
                try:
                    return await entry.adapter.count_tokens(generation_of(wanted, seed=0))
                except EngineError as error:
                    log.warning("pool %s could not count tokens: %s", entry.id, error.message)
        return None

    def _admit(self, request: TaskRequest, views: tuple[PoolView, ...], caller: Caller) -> Task:
        ids = Eligible(views).ids
        loads = self.runner.loads(ids)
        predicted = prediction.start_ms(self.backlog.ahead_of_new(request.priority, ids), loads)
        too_late = admission.deadline_refusal(request, predicted)
        if too_late is not None:
            raise ApiError(too_late)
        task_id = request.task_id or f"task-{self._sources.new_id()}"
        place = self.backlog.offer(task_id, request.priority, ids, request.placement)
        if isinstance(place, Full):
            raise ApiError(_queue_full(place, self._pools[place.pool_id].config.engine, prediction.place_ms(loads)))
        task = Task(
            Admission(
                task_id=task_id,
                job_id=f"job-{self._sources.new_id()}",
                request=request,
                seed=self._sources.new_seed() if request.seed is None else request.seed,
                caller=caller,
                created_ms=self._clock.unix_ms(),
                at_ms=self._clock.monotonic_ms(),
                queue_position=place.position,
                predicted_start_ms=predicted,
                backoff_ms=0 if self._has_room(ids) else round(prediction.place_ms(loads)),
            )
        )
        self._enter(task, place)
        return task

    def _enter(self, task: Task, place: Queued) -> None:
        """The task is in the queue: note it, end the one that gave way, set the deadline, and start what can start."""
        self._store.add(task)
        self._observer.admitted(task, self._pools[place.charged_to])
        if place.evicted is not None:
            text = "a newer task took this one's place in the full queue"
            self._fail(self.get(place.evicted), ErrorCode.QUEUE_FULL_DROP_LRU, text, "send the task again later")
        if task.request.deadline_ms is not None:
            loop = asyncio.get_running_loop()
            self._deadlines[task.id] = loop.call_later(task.request.deadline_ms / 1000, self._overdue, task)
        self.runner.pump()

    def _has_room(self, ids: frozenset[str]) -> bool:
        return any(self.backlog.depth(pool_id) < self.backlog.capacity(pool_id) for pool_id in ids)

    def _unmanaged(self, refusal: Refusal) -> Refusal:
        """Say so when a pool is out of service only because nobody has reported on it."""
        if self._pools.ever_managed or refusal.code is not ErrorCode.POOL_UNREADY:
            return refusal
        hint = "is pool-managerd running? systemctl --user status pool-managerd"
        text = "pool-managerd has not reported any pool yet"
        return msgspec.structs.replace(refusal, code=ErrorCode.POOL_UNAVAILABLE, message=text, hint=hint)

    # --- the ends of tasks --------------------------------------------------------------------------------------------

    def _fail(self, task: Task, code: ErrorCode, message: str, hint: str | None) -> None:
        task.fail(code, message, hint)
        self._observer.failed(task, code)
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
        _drop(self._deadlines, task.id)
        _drop(self._graces, task.id)
        self._store.settle(task)
        self._observer.settled(task)

    async def _report_positions(self) -> None:
        """Tell the readers of waiting tasks when their place has changed."""
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            depth = len(self.backlog)
            for task_id, position in list(self.backlog.positions()):
                task = self.get(task_id)
                if position != task.queue_position:
                    loads = self.runner.loads(self.backlog.pools_of(task_id))
                    task.moved(position, prediction.start_ms(position, loads), depth)


def _drop(timers: dict[str, asyncio.TimerHandle], task_id: str) -> None:
    timer = timers.pop(task_id, None)
    if timer is not None:
        timer.cancel()


def _queue_full(place: Full, engine: str, place_ms: float) -> Refusal:
    """429: what the pool's policy is called, and when a place comes free."""
    dropping = place.policy is FullPolicy.DROP_LRU
    return Refusal(
        code=ErrorCode.QUEUE_FULL_DROP_LRU if dropping else ErrorCode.ADMISSION_REJECT,
        message=f"the queue of pool {place.pool_id!r} is full",
        hint="send it again after retry_after_ms; queue.capacity of the pool sets the bound",
        pool_id=place.pool_id,
        engine=engine,
        retry_after_ms=max(1, round(place_ms)),
        policy_label=place.policy,
    )

"""Where tasks come in: looked at, counted, given a place in the queue, or refused.

Decides nothing that a deciding module can (``admission``, ``backlog`` and ``prediction`` do): it gives them the present
state and carries out their answer. A task that it lets in is the ``orchestrator``'s from then on. Between the last look
at the state and the place in the queue there is no await.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import msgspec

from adapters.base import EngineError
from contracts.config import FullPolicy
from contracts.errors import ErrorCode
from contracts.tasks import TaskRequest
from orchestratord import admission, prediction
from orchestratord.admission import Eligible, PoolView, Refusal
from orchestratord.backlog import Backlog, Full, Queued
from orchestratord.clock import Clock
from orchestratord.errors import ApiError, api_error
from orchestratord.observer import Observer
from orchestratord.pools import PoolDirectory
from orchestratord.runner import Runner, generation_of
from orchestratord.store import TaskStore
from orchestratord.task import Admission, Caller, Task

log = logging.getLogger(__name__)

INTRODUCTION_S = 2.0
"""How long a task waits at the door for an engine that has just started to say what it serves."""


class Sources(msgspec.Struct, frozen=True):
    """Where randomness comes from."""

    new_id: Callable[[], str]
    new_seed: Callable[[], int]


class Entrance:
    """The door of this daemon: every request passes it once."""

    def __init__(
        self,
        pools: PoolDirectory,
        backlog: Backlog,
        runner: Runner,
        store: TaskStore,
        *,
        entered: Callable[[Task, Queued], None],
        clock: Clock,
        sources: Sources,
        observer: Observer,
    ) -> None:
        self._pools = pools
        self._backlog = backlog
        self._runner = runner
        self._store = store
        self._entered = entered
        self._clock = clock
        self._sources = sources
        self._observer = observer
        self.closed = False
        """Nobody comes in any more: the daemon is stopping."""

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

    # --- inside -------------------------------------------------------------------------------------------------------

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
        if self.closed:
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
        loads = self._runner.loads(ids)
        predicted = prediction.start_ms(self._backlog.ahead_of_new(request.priority, ids), loads)
        too_late = admission.deadline_refusal(request, predicted)
        if too_late is not None:
            raise ApiError(too_late)
        task_id = request.task_id or f"task-{self._sources.new_id()}"
        place = self._backlog.offer(task_id, request.priority, ids, request.placement)
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
            ),
            self._observer.seal,
        )
        self._entered(task, place)
        return task

    def _has_room(self, ids: frozenset[str]) -> bool:
        return any(self._backlog.depth(pool_id) < self._backlog.capacity(pool_id) for pool_id in ids)

    def _unmanaged(self, refusal: Refusal) -> Refusal:
        """Say so when a pool is out of service only because nobody has reported on it."""
        if self._pools.ever_managed or refusal.code is not ErrorCode.POOL_UNREADY:
            return refusal
        hint = "is pool-managerd running? systemctl --user status pool-managerd"
        text = "pool-managerd has not reported any pool yet"
        return msgspec.structs.replace(refusal, code=ErrorCode.POOL_UNAVAILABLE, message=text, hint=hint)


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

"""Starts waiting tasks in free slots, and sees each through to its end.

Decides nothing: ``dispatch`` says which task goes where, ``relay`` when to give up. It keeps count of busy slots and of
what a task takes, and holds back from a replica that may be dead until it is known to live. A slot counts as busy until
the connection to the engine is closed, so an engine never gets more than it has slots.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Self

from msgspec import UNSET, UnsetType

from adapters.base import Adapter, EngineError, Failure, Finished, Generation, Health, Props
from adapters.parameters import asked_by, unheeded
from contracts.config import Config
from contracts.errors import ErrorCode
from contracts.events import Started
from contracts.tasks import Determinism, KvHint, TaskRequest, TaskState
from orchestratord.backlog import Backlog
from orchestratord.clock import Clock
from orchestratord.dispatch import next_assignment
from orchestratord.observer import Observer
from orchestratord.placement import Replica
from orchestratord.pools import PoolDirectory, PoolEntry
from orchestratord.prediction import Load, ServiceTime
from orchestratord.relay import Failed, Limits, relay
from orchestratord.task import Run, Task

log = logging.getLogger(__name__)

MUTE = frozenset({Failure.INVALID, Failure.UNAUTHORIZED, Failure.PROTOCOL})
"""What an engine that will not say what it is does not recover from by itself: its configuration is wrong, or ours."""

RECHECK_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between looks at an engine that is under suspicion or does not say what it is; the last one repeats."""


class Runner:
    """The busy slots of every pool. Leaving its async context waits for every generation to close."""

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
    ) -> None:
        self._profile = config.profile
        self._pools = pools
        self._backlog = backlog
        self._find = find
        self._settled = settled
        self._learned = learned
        self._clock = clock
        self._observer = observer
        self._active = dict.fromkeys((pool.id for pool in config.pools), 0)
        self._service = dict.fromkeys((pool.id for pool in config.pools), ServiceTime())
        self._running: dict[str, asyncio.Task[None]] = {}
        self._looks: set[asyncio.Task[None]] = set()
        """What looks at engines, and ends with us whatever it has seen."""
        self._group = asyncio.TaskGroup()
        self._open = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._open = True
        for entry in self._pools:
            self.learn(entry)
        self.pump()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        for look in self._looks:
            look.cancel()
        await self._group.__aexit__(kind, error, trace)

    def pump(self) -> None:
        """Start everything that can start."""
        while self._open and (assignment := next_assignment(self._backlog, self._replicas())):
            task = self._find(assignment.task_id)
            entry = self._pools[assignment.replica.pool_id]
            if task is not None and entry.adapter is not None:
                self._launch(task, entry, entry.adapter)

    def learn(self, entry: PoolEntry) -> None:
        """Ask a running engine, once in each of its starts, what it is and what it serves."""
        if self._open and entry.introducible and entry.adapter is not None and not entry.asked:
            entry.asked = True
            self._look(self._learn(entry, entry.adapter, entry.start), f"props-{entry.id}")

    def stop(self, task: Task) -> None:
        """Close the task's connection to its engine, if it has one."""
        running = self._running.pop(task.id, None)
        if running is not None:
            running.cancel()

    def active(self, pool_id: str) -> int:
        """How many slots of a pool are busy."""
        return self._active[pool_id]

    def loads(self, pool_ids: frozenset[str]) -> list[Load]:
        """How busy some pools are, for predictions."""
        return [
            Load(
                slots=entry.slots,
                active=self._active[entry.id] if entry.usable else entry.slots,  # no slot is free before then
                service=self._service[entry.id],
            )
            for entry in self._pools.of(pool_ids)
        ]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _replicas(self) -> list[Replica]:
        return [
            Replica(
                pool_id=entry.id,
                replica_id=entry.snapshot.replica_id,
                usable=entry.usable,
                slots=entry.slots,
                active=self._active[entry.id],
                vram_free_bytes=entry.snapshot.vram_free_bytes,
            )
            for entry in self._pools
        ]

    def _begin(self, task: Task, entry: PoolEntry) -> None:
        run = Run(
            pool_id=entry.id,
            replica_id=entry.snapshot.replica_id,
            engine=entry.snapshot.engine,
            engine_version=entry.engine_version or "unknown",
            at_ms=self._clock.monotonic_ms(),
            served=entry.snapshot,
        )
        entered = task.admission
        event = Started(
            task_id=task.id,
            job_id=entered.job_id,
            queue_position=entered.queue_position,
            predicted_start_ms=entered.predicted_start_ms,
            engine=run.engine,
            engine_version=run.engine_version,
            model_digest=entry.snapshot.model_digest or "unknown",
            pool_id=run.pool_id,
            replica_id=run.replica_id,
            profile=self._profile,
            seed=entered.seed,
            kv_warmth=False,
            unheeded=_unheeded(task.request, entry),
        )
        task.start(run, event)
        self._observer.started(task)

    def _launch(self, task: Task, entry: PoolEntry, adapter: Adapter) -> None:
        self._active[entry.id] += 1
        self._begin(task, entry)
        began_ms = self._clock.monotonic_ms()
        running = self._group.create_task(self._generate(task, entry, adapter), name=task.id)
        self._running[task.id] = running
        # Not a ``finally`` in the coroutine: one that is cancelled before its first step never gets there.
        running.add_done_callback(lambda _: self._released(task, entry, began_ms))

    def _released(self, task: Task, entry: PoolEntry, began_ms: float) -> None:
        """The connection to the engine is closed: the slot is free."""
        self._active[entry.id] -= 1
        if task.state is TaskState.DONE:
            self._service[entry.id] = self._service[entry.id].observed(self._clock.monotonic_ms() - began_ms)
        self.pump()

    async def _generate(self, task: Task, entry: PoolEntry, adapter: Adapter) -> None:
        timeouts = entry.config.timeouts
        limits = Limits(wall_ms=timeouts.wall_ms, idle_ms=timeouts.idle_ms)
        try:
            outcome = await relay(task, adapter, generation_of(task.request, task.admission.seed), limits, self._clock)
        except Exception:  # a mistake of ours in one task must not end all the others
            log.exception("task %s failed", task.id)
            outcome = Failed(code=ErrorCode.INTERNAL, message="internal error; the log has the details")
        self._running.pop(task.id, None)  # it has ended by itself: there is no connection left to close
        self._conclude(task, entry, adapter, outcome)

    def _conclude(self, task: Task, entry: PoolEntry, adapter: Adapter, outcome: Finished | Failed) -> None:
        """Give the task its terminal event; of a task that has had one (a cancel came first) nothing changes."""
        # A stream that broke with an engine which was replaced meanwhile says nothing about its successor.
        current = entry.adapter is adapter and not entry.suspect
        if isinstance(outcome, Failed) and outcome.engine_suspect and current:
            entry.suspect = True
            self._look(self._recheck(entry, adapter), f"recheck-{entry.id}")
        if task.finished:
            return
        if isinstance(outcome, Finished):
            task.done(outcome, self._clock.monotonic_ms())
            self._observer.done(task)
        else:
            retry_ms = 0 if outcome.code is ErrorCode.WORKER_RESET else None
            task.fail(outcome.code, outcome.message, outcome.hint, retry_ms)
            self._observer.failed(task, outcome.code)
        self._settled(task)

    def _look(self, looking: Coroutine[None, None, None], name: str) -> None:
        look = self._group.create_task(looking, name=name)
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _learn(self, entry: PoolEntry, adapter: Adapter, start: int) -> None:
        """Ask until it says what it is, or until it is started anew; nothing is sent to it before."""
        said = ""
        for pause in itertools.chain(RECHECK_S, itertools.repeat(RECHECK_S[-1])):
            answer = await _introduction(entry, adapter)
            if entry.start != start:
                return
            if not isinstance(answer, EngineError):
                entry.props, entry.mute = answer, None
                break
            if answer.message != said:
                log.warning("pool %s does not say what it is: %s", entry.id, answer.message)
            said = answer.message
            if answer.failure in MUTE:
                entry.mute = answer.message
                entry.heard.set()
                self._learned(entry)
            await asyncio.sleep(pause)
            if entry.start != start:
                return
        entry.heard.set()
        self._learned(entry)
        self.pump()

    async def _recheck(self, entry: PoolEntry, adapter: Adapter) -> None:
        """Look at an engine under suspicion until it answers well, or until pool-managerd reports a change."""
        pauses = iter(RECHECK_S)
        pause = RECHECK_S[0]
        while self._open and entry.suspect and entry.adapter is adapter:
            pause = next(pauses, pause)
            await asyncio.sleep(pause)
            if await _answers_well(entry, adapter) and entry.adapter is adapter:
                entry.suspect = False
                self.pump()


async def _answers_well(entry: PoolEntry, adapter: Adapter) -> bool:
    try:
        return await adapter.health() is Health.OK
    except Exception:  # as with a generation: a mistake of ours about one pool must not end all the others
        log.exception("pool %s could not be looked at", entry.id)
        return False


async def _introduction(entry: PoolEntry, adapter: Adapter) -> Props | EngineError:
    try:
        return await adapter.props()
    except EngineError as error:
        return error
    except Exception:  # as with a generation
        log.exception("pool %s could not be asked what it is", entry.id)
        return EngineError(Failure.PROTOCOL, "internal error; the log has the details")


def _unheeded(request: TaskRequest, entry: PoolEntry) -> tuple[str, ...] | UnsetType:
    left = unheeded(entry.snapshot.engine, request.workload, asked_by(request), entry.features)
    return left or UNSET


def generation_of(request: TaskRequest, seed: int) -> Generation:
    """What an engine is asked for, from what the client asked for."""
    cold = request.determinism is Determinism.STRICT or request.kv_hint is KvHint.COLD
    return Generation(
        workload=request.workload,
        prompt=request.prompt,
        messages=request.messages,
        inputs=request.inputs,
        max_tokens=request.max_tokens,
        seed=seed,
        sampling=request.sampling,
        cache_prompt=not cold,
    )

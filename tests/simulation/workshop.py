"""A real orchestrator and runner over simulated engines that can die, on a clock that jumps.

The engines hold the orchestrator to their slots; the workshop holds every start and every pause to the rules.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from adapters.base import Batch, EngineError, Failure, Finished, Generation, Health
from contracts.config import Config, FullPolicy, Queue, Timeouts
from contracts.events import FinishReason
from contracts.pools import Cause, Endpoint, PoolError, PoolState
from contracts.tasks import OnDisconnect, Placement, PlacementMode, Priority, TaskState
from orchestratord.errors import ApiError
from orchestratord.pools import PoolEntry
from orchestratord.task import Task
from tests.simulation.house import PLAYED
from tests.support.virtual_loop import pass_time
from tests.unit.orchestratord.frames import frames_of, text_of
from tests.unit.orchestratord.world import MODEL, ScriptedAdapter, World, config, pool, snapshot

OTHER_MODEL = "file:/models/other.gguf"


class Engine(ScriptedAdapter):
    """One start of an engine. A prompt says what it does: tokens, seconds before the first, seconds between two."""

    def __init__(self, slots: int, lingers: float) -> None:
        super().__init__()
        self.slots = slots
        self.lingers = lingers
        self.died = asyncio.Event()

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        return _Connection(self, generation)

    async def health(self) -> Health:
        return Health.DOWN if self.died.is_set() else Health.OK

    async def busy(self) -> int | None:
        if self.died.is_set():
            raise EngineError(Failure.REFUSED, "connection refused")
        return await super().busy()

    async def work(self, seconds: float) -> None:
        """So much of a generation, unless the engine dies meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self.died.wait()
        except TimeoutError:
            return
        raise EngineError(Failure.BROKEN, "the connection was reset")


class _Connection:
    """One generation."""

    def __init__(self, engine: Engine, generation: Generation) -> None:
        tokens, first, between = (generation.prompt or "").split()
        self._engine = engine
        self._tokens, self._first, self._between = int(tokens), float(first), float(between)
        self._sent = 0
        self._ended = False

    async def __aenter__(self) -> AsyncIterator[Batch]:
        engine = self._engine
        if engine.died.is_set():
            raise EngineError(Failure.REFUSED, "connection refused")
        engine.open += 1
        assert engine.open + engine.lingering <= engine.slots, "more generations than slots"
        return self

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if self._ended:
            raise StopAsyncIteration
        await self._engine.work(self._between if self._sent else self._first)
        if self._sent == self._tokens:
            self._ended = True
            tokens = {"tokens_in": 4, "tokens_out": self._sent, "cached_tokens": 2}
            return Batch([], Finished(reason=FinishReason.STOP, decode_ms=1.0, **tokens))
        self._sent += 1
        return Batch([f"{self._sent} "])

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.open -= 1
        if not self._ended and not self._engine.died.is_set():
            self._engine.linger()


class Workshop:
    """Clients, operators and bad luck around one orchestrator."""

    def __init__(self, here: World, chance: random.Random) -> None:
        self.here = here
        self.tasks: list[Task] = []
        self.refused = Counter[str]()
        self._chance = chance
        self._starts = Counter[str]()
        self._reading: dict[str, Callable[[], None]] = {}
        here.orchestrator.runner.pump = self._pumped(here.orchestrator.runner.pump)  # type: ignore[method-assign]
        observer = here.orchestrator.runner._observer  # noqa: SLF001 - every start passes it
        observer.started = self._checked(observer.started)  # type: ignore[method-assign, assignment]
        observer.started_again = self._checked(observer.started_again)  # type: ignore[method-assign, assignment]
        for entry in here.pools:
            self.start(entry.id)

    # --- the rules ----------------------------------------------------------------------------------------------------

    def _pumped(self, pump: Callable[[], None]) -> Callable[[], None]:
        """Whoever looks for work has found all there is."""

        def pumped() -> None:
            pump()
            PLAYED["pump"] += 1
            free = {entry.id for entry in self.here.pools if entry.usable and self._free(entry) > 0}
            backlog = self.here.orchestrator.backlog
            assert all((task.id in backlog) == (task.state is TaskState.QUEUED) for task in self.tasks)
            waiting = [task for task in self.tasks if task.state is TaskState.QUEUED]
            if free and not self.here.stopping.is_set():
                idle = {task.id: free & self._eligible(task) for task in waiting}
                assert not any(idle.values()), idle

        return pumped

    def _checked(self, started: Callable[[Task], None]) -> Callable[[Task], None]:
        """Nobody starts before one who came earlier and could have started there, nor batch before interactive."""

        def checked(task: Task) -> None:
            started(task)
            PLAYED["real start"] += 1
            assert task.run is not None
            mine = self.tasks.index(task) if task in self.tasks else len(self.tasks)
            for number, other in enumerate(self.tasks):
                passed = number < mine and other.request.priority is task.request.priority
                overtaken = other.request.priority is Priority.INTERACTIVE and task.request.priority is Priority.BATCH
                if other.state is TaskState.QUEUED and (passed or overtaken):
                    assert task.run.pool_id not in self._eligible(other), (task.id, "passed", other.id)
            request, placement = task.request, task.request.placement
            assert task.run.pool_id not in placement.avoid
            assert placement.pool_id in {None, task.run.pool_id}
            assert self.here.pools[task.run.pool_id].snapshot.model_ref == request.model_ref

        return checked

    def _eligible(self, task: Task) -> frozenset[str]:
        """Where a task may start now: nowhere while an earlier turn runs, at home while it is held."""
        backlog = self.here.orchestrator.backlog
        if task.id not in backlog:
            return frozenset()
        entry = backlog.entry(task.id)
        if entry.hold_until_ms is not None:
            now_ms = asyncio.get_running_loop().time() * 1000
            assert entry.hold_until_ms <= now_ms + self.here.config.sessions.affinity_wait_ms
            assert entry.lane.open_to == {entry.home}
            PLAYED["real hold seen"] += 1
        PLAYED["real wait for an earlier turn seen"] += entry.parked
        return entry.lane.open_to

    def _free(self, entry: PoolEntry) -> int:
        return entry.slots - self.here.orchestrator.runner._taken(entry)  # noqa: SLF001 - of the present engine alone

    # --- what happens -------------------------------------------------------------------------------------------------

    async def client(self) -> None:
        """Somebody sends a task, and perhaps leaves, returns, or cancels it."""
        chance = self._chance
        fields: dict[str, Any] = {
            "prompt": f"{chance.randrange(12)} {chance.choice((0.0, 0.01, 0.2))} {chance.choice((0.0, 0.01, 0.05))}",
            "priority": chance.choices(list(Priority), (1, 2))[0],
            "model_ref": chance.choices((MODEL, OTHER_MODEL), (9, 1))[0],
            "placement": self._wish(),
            "session_id": f"s{chance.randrange(5)}" if chance.random() < 0.2 else None,
            "deadline_ms": chance.choice((None, None, None, 100, 2_000)),
            "on_disconnect": chance.choice((None, OnDisconnect.CANCEL, OnDisconnect.CONTINUE)),
        }
        try:
            task = await self.here.submit(**fields)
        except ApiError as error:
            self.refused[error.refusal.code] += 1
            return
        self.tasks.append(task)
        PLAYED["real task"] += 1
        if chance.random() < 0.5:
            with self.here.orchestrator.reading(task, lambda: None):
                await pass_time(chance.choice((0.0, 0.1, 3.0)))
        if chance.random() < 0.1:
            await pass_time(chance.choice((0.0, 0.01, 0.3)))
            tokens = task.log.tokens
            self.here.orchestrator.cancel(task, "client")
            assert task.log.tokens == tokens

    def _wish(self) -> Placement:
        ids = [entry.id for entry in self.here.pools]
        match self._chance.randrange(8):
            case 0:
                return Placement(mode=PlacementMode.PIN, pool_id=self._chance.choice(ids))
            case 1:
                return Placement(avoid=(self._chance.choice(ids),))
            case 2:
                return Placement(prefer=(self._chance.choice(ids),))
            case _:
                return Placement()

    def start(self, pool_id: str, model: str = MODEL) -> None:
        """A new engine of this pool is ready; a former one that lives ends with its last task."""
        self._starts[pool_id] += 1
        number = self._starts[pool_id]
        engine = Engine(self.here.pools[pool_id].config.slots, self._chance.choice((0.0, 0.0, 0.05)))
        self.here.engines[pool_id] = engine
        self._report(
            pool_id,
            PoolState.READY,
            model_ref=model,
            model_id=None,
            endpoint=Endpoint(url=f"http://{pool_id}/{number}"),
        )

    def crash(self, pool_id: str) -> None:
        """The engine dies, and pool-managerd sees it a little later."""
        engine = self.here.engines[pool_id]
        assert isinstance(engine, Engine)
        engine.died.set()
        PLAYED["real crash"] += 1

    def report_crash(self, pool_id: str) -> None:
        """pool-managerd has seen it."""
        error = PoolError(cause=Cause.ENGINE_EXIT, message="it died", hint="it comes back by itself", at_ms=0)
        self._report(pool_id, PoolState.BACKOFF, last_error=error, endpoint=None)

    def drain(self, pool_id: str) -> None:
        """An operator takes a pool out of service."""
        PLAYED["real drain"] += 1
        self._report(pool_id, PoolState.DRAINING, endpoint=self.here.pools[pool_id].snapshot.endpoint)

    def _report(self, pool_id: str, state: PoolState, **changes: Any) -> None:  # noqa: ANN401 - any field of the snapshot
        before = self.here.pools[pool_id].snapshot
        fields: dict[str, Any] = {
            "revision": before.revision + 1,
            "restarts": self._starts[pool_id],
            "model_ref": before.model_ref,
            "model_id": None,
            "slots": self.here.pools[pool_id].config.slots,
        }
        self.here.orchestrator.report(snapshot(pool_id, state, **(fields | changes)))

    async def bad_luck(self) -> None:
        """Something happens to one of the pools, and is over soon."""
        chance = self._chance
        pool_id = chance.choice([entry.id for entry in self.here.pools])
        model = self.here.pools[pool_id].snapshot.model_ref
        match chance.randrange(5):
            case 0 | 1:
                self.crash(pool_id)
                await pass_time(chance.choice((0.0, 0.01, 0.2)))
                self.report_crash(pool_id)
                await pass_time(chance.choice((0.0, 0.5)))
                self.start(pool_id, model)
            case 2:
                self.crash(pool_id)
                await pass_time(chance.choice((0.0, 0.3)))
                self.start(pool_id, model)
            case 3:
                self.drain(pool_id)
                await pass_time(chance.choice((0.0, 0.3)))
                self.start(pool_id, model)
            case _:
                self.start(pool_id, chance.choices((MODEL, OTHER_MODEL), (3, 1))[0])

    # --- the end ------------------------------------------------------------------------------------------------------

    def ended_once(self, task: Task) -> str:
        """How a task ended: its stream is whole, numbered, hashed, and has one terminal event, the last one."""
        frames = frames_of(task.log.read(0))
        names = [frame.event for frame in frames]
        assert sum(name in {"end", "error"} for name in names) == 1, names
        assert names[-1] in {"end", "error"}
        assert names.count("started") <= 1
        assert names.index("token") > names.index("started") if "token" in names else True
        numbers = [frame.number for frame in frames if frame.event == "token"]
        assert numbers == list(range(len(numbers)))
        if names[-1] == "error":
            return str(frames[-1].data["code"])
        text = text_of(task.log.read(0))
        assert frames[-1].data["stream_sha256"] == hashlib.sha256(text.encode()).hexdigest()
        if frames[-1].data["finish_reason"] == "stop":
            tokens = int((task.request.prompt or "").split()[0])
            assert text == "".join(f"{number + 1} " for number in range(tokens))
        return str(frames[-1].data["finish_reason"])


def installation(chance: random.Random) -> Config:
    """Three pools with queues that fill."""
    return config(
        *(
            pool(
                pool_id,
                slots=chance.randrange(1, 5),
                queue=Queue(capacity=chance.choice((4, 12, 60)), full_policy=chance.choice(list(FullPolicy))),
                timeouts=Timeouts(wall_ms=60_000, idle_ms=5_000),
            )
            for pool_id in ("a", "b", "c")
        ),
        disconnect_grace_ms=200,
        keep_finished=100_000,
    )

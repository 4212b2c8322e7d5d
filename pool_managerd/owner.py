"""Owns one pool: takes events one at a time, asks the table what becomes of them, and has the effects done.

The only writer of the pool's state, and nobody else decides on it. Every effect that takes time is a task that posts an
event when it is over; when a run ends, all its tasks are cancelled, and its engine is ended only after they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, assert_never

from contracts.engines import PreparedEngine, ResolvedModel
from contracts.pools import Cause, Endpoint, PoolState
from pool_managerd import life as l
from pool_managerd.errors import StepError
from pool_managerd.lifecycle import IllegalTransition, step

_log = logging.getLogger(__name__)

STOP_AGAIN_MS = 2_000
"""The pause before another try to end processes that the kernel does not let go."""


class Effects(Protocol):
    """Everything that a pool does to the world. What fails raises StepError; every wait can be cancelled."""

    def now(self) -> int:
        """The owner's clock, in milliseconds."""

    def draw(self) -> float:
        """A random number in [0, 1)."""

    async def sleep_until(self, due: int) -> None:
        """Wait for a moment of the owner's clock."""

    async def stage_model(self, model_ref: str) -> ResolvedModel | None:
        """Check the devices, then see that the model is on disk; None where no model of ours is needed."""

    async def ensure_engine(self) -> PreparedEngine:
        """Make the engine startable."""

    async def spawn(self, engine: PreparedEngine, model: ResolvedModel | None) -> Endpoint:
        """Start the engine; its handle is on disk when this returns."""

    async def exited(self, run: int) -> l.EngineExited:
        """Wait for the end of the spawned engine that nobody asked for."""

    async def prove(self) -> None:
        """Wait for health, generate a token, look at the GPUs."""

    async def watch(self, model_ref: str) -> None:
        """Hand the endpoint over, then look after the engine until StepError says that it is lost."""

    async def stop(self) -> None:
        """End the engine and all its children and take back what was handed over. Idempotent, with no engine too."""

    def publish(self, life: l.Life) -> None:
        """Show the pool as it is now."""


class Owner:
    """The owner task of one pool."""

    def __init__(self, pool_id: str, life: l.Life, effects: Effects) -> None:
        self._pool_id = pool_id
        self._life = life
        self._effects = effects
        self._inbox: asyncio.Queue[l.Event] = asyncio.Queue()
        self._work: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._stopped.set()

    def post(self, event: l.Event) -> None:
        """Put an event into the inbox."""
        self._inbox.put_nowait(event)

    def refresh(self) -> None:
        """Publish again: something that a snapshot shows beside the state has changed."""
        self._effects.publish(self._life)

    async def stopped(self) -> None:
        """Wait until there is no engine and none is wanted."""
        await self._stopped.wait()

    async def run(self) -> None:
        """Take events for ever. Cancel it to end it; an engine that runs then is not ended."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._take(await self._inbox.get(), group)

    def _take(self, event: l.Event, group: asyncio.TaskGroup) -> None:
        before = self._life
        try:
            after, effects = step(before, event, self._effects.now())
        except IllegalTransition as error:
            self._say(logging.ERROR, "%s", error)
            return
        self._life = after
        if after.run != before.run:
            self._cancel_work()
        if after.state is not before.state:
            self._say_state(before, after)
        if after.state is PoolState.STOPPED:
            self._stopped.set()
        else:
            self._stopped.clear()
        if after != before:
            self._effects.publish(after)
        for effect in effects:
            self._perform(effect, group)

    def _perform(self, effect: l.Effect, group: asyncio.TaskGroup) -> None:
        run = effect.run
        match effect:
            case l.StageModel(model_ref=model_ref):
                self._start("stage_model", run, group, lambda: self._stage(run, model_ref))
            case l.EnsureEngine():
                self._start("ensure_engine", run, group, lambda: self._ensure(run))
            case l.SpawnEngine(engine=engine, model=model):
                self._start("spawn", run, group, lambda: self._spawn(run, engine, model))
            case l.ProveEngine():
                self._start("prove", run, group, lambda: self._prove(run))
            case l.WatchEngine(model_ref=model_ref):
                self._start("watch", run, group, lambda: self._effects.watch(model_ref))
            case l.SetTimer(due=due):
                self._start("timer", run, group, lambda: self._timer(run, due))
            case l.StopEngine():
                # Not among the work: nothing may cancel it.
                group.create_task(self._stop(run, frozenset(self._cancelled)))
            case _:
                assert_never(effect)

    # --- the work of a run --------------------------------------------------------------------------------------------

    def _start(self, name: str, run: int, group: asyncio.TaskGroup, work: Callable[[], Awaitable[None]]) -> None:
        former = self._work.pop(name, None)
        if former is not None:
            self._cancel(former)
        self._work[name] = group.create_task(self._guard(name, run, work), name=f"{self._pool_id}: {name}")

    async def _guard(self, name: str, run: int, work: Callable[[], Awaitable[None]]) -> None:
        """Do one step; what it raises becomes an event."""
        try:
            await work()
        except StepError as error:
            self.post(l.StepFailed(run=run, cause=error.cause, message=error.message, hint=error.hint))
        except Exception as error:  # noqa: BLE001 - a defect in one pool must not end the others
            self._say(logging.ERROR, "step %s: a defect: %r", name, error, exc_info=error)
            text = f"step {name} failed in a way that it should not: {error!r}"
            self.post(l.StepFailed(run=run, cause=Cause.INTERNAL, message=text, hint="please report it, with the log"))

    async def _stage(self, run: int, model_ref: str) -> None:
        self.post(l.ModelStaged(run=run, model=await self._effects.stage_model(model_ref)))

    async def _ensure(self, run: int) -> None:
        self.post(l.EngineEnsured(run=run, engine=await self._effects.ensure_engine()))

    async def _spawn(self, run: int, engine: PreparedEngine, model: ResolvedModel | None) -> None:
        """Lives as long as the engine."""
        self.post(l.EngineSpawned(run=run, endpoint=await self._effects.spawn(engine, model)))
        self.post(await self._effects.exited(run))

    async def _prove(self, run: int) -> None:
        await self._effects.prove()
        self.post(l.EngineProved(run=run))

    async def _timer(self, run: int, due: int) -> None:
        await self._effects.sleep_until(due)
        self.post(l.TimerFired(run=run))

    async def _stop(self, run: int, cancelled: frozenset[asyncio.Task[None]]) -> None:
        if cancelled:
            await asyncio.wait(cancelled)
        while True:
            try:
                await self._effects.stop()
                break
            except Exception as error:  # noqa: BLE001 - until the old engine is gone no other one may start
                self._say(logging.ERROR, "cannot end the engine, trying again: %s", error)
                await self._effects.sleep_until(self._effects.now() + STOP_AGAIN_MS)
        self.post(l.EngineGone(run=run, draw=self._effects.draw()))

    def _cancel_work(self) -> None:
        for task in self._work.values():
            self._cancel(task)
        self._work.clear()

    def _cancel(self, task: asyncio.Task[None]) -> None:
        if not task.done():
            task.cancel()
            self._cancelled.add(task)
            task.add_done_callback(self._cancelled.discard)

    # --- what the log shows -------------------------------------------------------------------------------------------

    def _say_state(self, before: l.Life, after: l.Life) -> None:
        if after.state is PoolState.FAILED and after.error is not None:
            error = after.error
            hint = f" (hint: {error.hint})" if error.hint else ""
            self._say(logging.WARNING, "%s -> failed: %s: %s%s", before.state, error.cause, error.message, hint)
            return
        wait = ""
        if after.state is PoolState.BACKOFF and after.due is not None:
            of = after.rules.max_failures
            wait = f": failure {after.failures} of {of}, again in {after.due - self._effects.now()} ms"
        if after.state is PoolState.BROKEN:
            wait = f": {after.failures} failures in a row, not tried again until it is restarted or reloaded"
        self._say(logging.INFO, "%s -> %s%s", before.state, after.state, wait)

    def _say(self, level: int, text: str, *args: object, exc_info: BaseException | None = None) -> None:
        _log.log(level, f"{self._pool_id}: {text}", *args, extra={"pool_id": self._pool_id}, exc_info=exc_info)

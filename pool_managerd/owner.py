"""Owns one pool: takes events one at a time, asks the table what becomes of them, and has the effects done.

The only writer of the pool's state, and nobody else decides on it. Every effect that takes time is a task that posts an
event when it is over; when a run ends, all its tasks are cancelled, and its engine is ended only after they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, assert_never

from contracts.base import Message
from contracts.engines import PreparedEngine, ResolvedModel
from contracts.pools import Cause, Endpoint, PoolState
from pool_managerd import life as l
from pool_managerd.errors import StepError, StillRunningError
from pool_managerd.lifecycle import step
from pool_managerd.transitions import IllegalTransition

_log = logging.getLogger(__name__)

_SUCCESSOR = "prepare_successor"
STOP_AGAIN_MS = 2_000
"""The pause before another try to end processes that the kernel does not let go."""
_WORDS = MappingProxyType(
    {
        PoolState.STOPPED: "stopped",
        PoolState.STAGING_MODEL: "getting its model",
        PoolState.ENSURING_ENGINE: "getting its engine",
        PoolState.STARTING: "starting its engine",
        PoolState.PROBING: "trying its engine",
        PoolState.READY: "ready",
        PoolState.DRAINING: "draining",
        PoolState.RELOADING: "changing its model",
        PoolState.FAILED: "failed",
        PoolState.BACKOFF: "waiting for its next try",
        PoolState.BROKEN: "given up",
        PoolState.QUARANTINED: "in quarantine",
    }
)


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
        """Wait for the end of the serving engine that nobody asked for."""

    async def prove(self) -> None:
        """Wait for health, generate a token, look at the GPUs."""

    async def watch(self, model_ref: str) -> None:
        """Hand the endpoint over, then look after the engine until StepError says that it is lost."""

    async def stop(self) -> None:
        """End every engine of the pool with all its children, and take back what was handed over. Idempotent."""

    async def prepare_successor(self, model_ref: str) -> Successor | None:
        """Start and prove an engine beside the serving one; None where both do not fit.

        Ends a former successor and a retired engine first. Where it fails or is cancelled, what it started is left to
        ``abandon_successor``.
        """

    async def abandon_successor(self) -> None:
        """End the successor, if there is one."""

    def switch_over(self) -> bool:
        """The successor serves from now on. Whether the engine that served before is to be ended."""

    async def retire(self) -> None:
        """End the engine that served before the switch."""

    async def devices_well(self) -> None:
        """Wait until every GPU of the mask answers."""

    def publish(self, life: l.Life) -> None:
        """Show the pool as it is now."""


class Successor(Message, frozen=True, kw_only=True):
    """An engine that is ready to take over."""

    model: ResolvedModel | None
    engine: PreparedEngine
    endpoint: Endpoint


@dataclass(frozen=True)
class Ping:
    """No event: only whether the inbox is still emptied."""

    answer: Callable[[], None]


class Owner:
    """The owner task of one pool."""

    def __init__(self, pool_id: str, life: l.Life, effects: Effects) -> None:
        self._pool_id = pool_id
        self._life = life
        self._effects = effects
        self._inbox: asyncio.Queue[l.Event | Ping] = asyncio.Queue()
        self._work: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[asyncio.Task[None]] = set()
        self._retiring: asyncio.Task[None] | None = None
        self._patience: asyncio.Task[None] | None = None
        """How long the retired engine may go on."""
        self._stopped = asyncio.Event()
        self._stopped.set()

    def post(self, event: l.Event) -> None:
        """Put an event into the inbox."""
        self._inbox.put_nowait(event)

    def ping(self, answer: Callable[[], None]) -> None:
        """Have ``answer`` called when the owner has taken all that came before: it lives."""
        self._inbox.put_nowait(Ping(answer))

    def refresh(self) -> None:
        """Publish again: something that a snapshot shows beside the state has changed."""
        self._show(self._life)

    async def stopped(self) -> None:
        """Wait until there is no engine and none is wanted."""
        await self._stopped.wait()

    async def run(self) -> None:
        """Take events for ever. Cancel it to end it; an engine that runs then is not ended."""
        async with asyncio.TaskGroup() as group:
            while True:
                message = await self._inbox.get()
                if isinstance(message, Ping):
                    message.answer()
                else:
                    self._take(message, group)

    def _take(self, event: l.Event, group: asyncio.TaskGroup) -> None:
        try:
            self._apply(event, group)
        except Exception as error:  # noqa: BLE001 - a defect in one pool must not end the others
            self._say(logging.ERROR, "%s: a defect: %r", type(event).__name__, error, exc_info=error)
            if not isinstance(event, l.StepFailed):
                self.post(_defect(self._life.run, f"taking {type(event).__name__}", error))

    def _apply(self, event: l.Event, group: asyncio.TaskGroup) -> None:
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
            self._show(after)
        for effect in effects:
            self._perform(effect, group)

    def _show(self, life: l.Life) -> None:
        try:
            self._effects.publish(life)
        except Exception as error:  # noqa: BLE001 - what follows from the new state must happen, seen or not
            self._say(logging.ERROR, "state %s cannot be shown: a defect: %r", life.state, error, exc_info=error)

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
            case l.PrepareSuccessor() | l.AbandonSuccessor() | l.SwitchOver() | l.EndRetired():
                self._succeed(effect, group)
            case l.AwaitDevices(due=due):
                self._start("await_devices", run, group, lambda: self._await_devices(run, due))
            case l.StopEngine():
                if self._retiring is not None:
                    self._cancel(self._retiring)
                # Not among the work: nothing may cancel it.
                group.create_task(self._stop(run, frozenset(self._cancelled)))
            case _:
                assert_never(effect)

    def _succeed(
        self,
        effect: l.PrepareSuccessor | l.AbandonSuccessor | l.SwitchOver | l.EndRetired,
        group: asyncio.TaskGroup,
    ) -> None:
        run = effect.run
        match effect:
            case l.PrepareSuccessor():
                self._give_up(_SUCCESSOR)
                cancelled = frozenset(self._cancelled)
                self._start(_SUCCESSOR, run, group, lambda: self._prepare_successor(effect, cancelled))
            case l.AbandonSuccessor():
                self._give_up(_SUCCESSOR)
                group.create_task(self._abandon_successor(frozenset(self._cancelled)))
            case l.SwitchOver(due=due):
                retires = self._effects.switch_over()
                self._start("spawn", run, group, lambda: self._exit(run))
                if retires:
                    self._patience = group.create_task(self._effects.sleep_until(due))
                    self._retiring = group.create_task(self._retire(self._patience))
            case l.EndRetired():
                if self._patience is not None:
                    self._patience.cancel()
            case _:
                assert_never(effect)

    # --- the work of a run --------------------------------------------------------------------------------------------

    def _start(self, name: str, run: int, group: asyncio.TaskGroup, work: Callable[[], Awaitable[None]]) -> None:
        self._give_up(name)
        self._work[name] = group.create_task(self._guard(name, run, work), name=f"{self._pool_id}: {name}")

    async def _guard(self, name: str, run: int, work: Callable[[], Awaitable[None]]) -> None:
        """Do one step; what it raises becomes an event."""
        if (error := await self._outcome(name, work)) is not None:
            self.post(l.StepFailed(run=run, cause=error.cause, message=error.message, hint=error.hint))

    async def _outcome(self, name: str, work: Callable[[], Awaitable[None]]) -> StepError | None:
        try:
            await work()
        except StepError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a defect in one pool must not end the others
            self._say(logging.ERROR, "step %s: a defect: %r", name, error, exc_info=error)
            failed = _defect(0, f"step {name}", error)
            return StepError(failed.cause, failed.message, failed.hint)
        return None

    async def _stage(self, run: int, model_ref: str) -> None:
        self.post(l.ModelStaged(run=run, model=await self._effects.stage_model(model_ref)))

    async def _ensure(self, run: int) -> None:
        self.post(l.EngineEnsured(run=run, engine=await self._effects.ensure_engine()))

    async def _spawn(self, run: int, engine: PreparedEngine, model: ResolvedModel | None) -> None:
        """Lives as long as the engine."""
        self.post(l.EngineSpawned(run=run, endpoint=await self._effects.spawn(engine, model)))
        await self._exit(run)

    async def _exit(self, run: int) -> None:
        self.post(await self._effects.exited(run))

    async def _prepare_successor(self, effect: l.PrepareSuccessor, cancelled: frozenset[asyncio.Task[None]]) -> None:
        """Whatever goes wrong here, the serving engine serves on."""
        run, model_ref = effect.run, effect.model_ref
        if cancelled:
            await asyncio.wait(cancelled)  # a former preparation: two must not have the place at once

        async def prepare() -> None:
            if self._retiring is not None:
                await asyncio.wait({self._retiring}, timeout=effect.patience_ms / 1000)
            found = await self._effects.prepare_successor(model_ref)
            if found is None:
                self.post(l.NoRoom(run=run, model_ref=model_ref))
                return
            proved = l.SuccessorProved(
                run=run, model_ref=model_ref, model=found.model, engine=found.engine, endpoint=found.endpoint
            )
            self.post(proved)

        if (error := await self._outcome(_SUCCESSOR, prepare)) is not None:
            cause, message, hint = error.cause, error.message, error.hint
            self._say(logging.WARNING, "the reload to %s failed: %s: %s", model_ref, cause, message)
            await self._persist("end the successor", self._effects.abandon_successor)
            self.post(l.SuccessorFailed(run=run, model_ref=model_ref, cause=cause, message=message, hint=hint))

    async def _abandon_successor(self, cancelled: frozenset[asyncio.Task[None]]) -> None:
        if cancelled:
            await asyncio.wait(cancelled)
        await self._persist("end the successor", self._effects.abandon_successor)

    async def _retire(self, patience: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait({patience})
        finally:
            patience.cancel()
        await self._persist("end the old engine", self._effects.retire)

    async def _await_devices(self, run: int, due: int) -> None:
        await self._effects.sleep_until(due)
        await self._effects.devices_well()
        self.post(l.DevicesWell(run=run))

    async def _prove(self, run: int) -> None:
        await self._effects.prove()
        self.post(l.EngineProved(run=run))

    async def _timer(self, run: int, due: int) -> None:
        await self._effects.sleep_until(due)
        self.post(l.TimerFired(run=run))

    async def _stop(self, run: int, cancelled: frozenset[asyncio.Task[None]]) -> None:
        if cancelled:
            await asyncio.wait(cancelled)
        await self._persist("end the engine", self._effects.stop)
        self.post(l.EngineGone(run=run, draw=self._effects.draw()))

    async def _persist(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do what must be done before anything else may start, however often it takes. Why it fails is said once."""
        said = None
        while True:
            try:
                await work()
                break
            except Exception as error:  # noqa: BLE001 - giving up would leave an engine that nobody looks after
                known = isinstance(error, StepError | StillRunningError)
                why = str(error) if known else repr(error)
                if why != said:
                    said, trace = why, None if known else error
                    self._say(logging.ERROR, "cannot %s, trying until it can be done: %s", what, why, exc_info=trace)
                await self._effects.sleep_until(self._effects.now() + STOP_AGAIN_MS)

    def _give_up(self, name: str) -> None:
        if (former := self._work.pop(name, None)) is not None:
            self._cancel(former)

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
        if after.state in {PoolState.FAILED, PoolState.QUARANTINED} and after.error is not None:
            error, after_state = after.error, str(after.state)
            hint = f" (hint: {error.hint})" if error.hint else ""
            text = f"{_WORDS[after.state]} (%s -> %s): %s: %s%s"
            more = {"state": after_state, "cause": str(error.cause)}
            self._say(logging.WARNING, text, before.state, after_state, error.cause, error.message, hint, more=more)
            return
        wait = ""
        if after.state is PoolState.BACKOFF and after.due is not None:
            of = after.rules.max_failures
            wait = f": failure {after.failures} of {of}, again in {after.due - self._effects.now()} ms"
        if after.state is PoolState.BROKEN:
            wait = f": {after.failures} failures in a row, not tried again until it is restarted or reloaded"
        text, more = f"{_WORDS[after.state]} (%s -> %s)%s", {"state": str(after.state)}
        self._say(logging.INFO, text, before.state, after.state, wait, more=more)

    def _say(
        self,
        level: int,
        text: str,
        *args: object,
        exc_info: BaseException | None = None,
        more: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        extra = {"pool_id": self._pool_id, **more}
        _log.log(level, f"pool {self._pool_id}: {text}", *args, extra=extra, exc_info=exc_info)


def _defect(run: int, what: str, error: Exception) -> l.StepFailed:
    text = f"{what} failed in a way that it should not: {error!r}"
    return l.StepFailed(run=run, cause=Cause.INTERNAL, message=text, hint="please report it, with the log")

"""From an engine's stream to a task's log: the hot loop.

Decides nothing but when to give up: the wall and idle limits of the pool, and the task's own deadline. Everything that
one read of the engine brings becomes one append to the log. Never retries, and leaves the connection to the engine
closed on every way out.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import msgspec

from adapters.base import Adapter, EngineError, Failure, Finished, Generation
from contracts.errors import ErrorCode
from orchestratord.clock import Clock
from orchestratord.task import Task


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a generation may take as a whole, and between two reads; milliseconds."""

    wall_ms: float
    idle_ms: float


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The generation came to no good end. ``engine_suspect``: the engine may be dead or hung."""

    code: ErrorCode
    message: str
    hint: str | None = None
    engine_suspect: bool = False


async def relay(
    task: Task, adapter: Adapter, generation: Generation, limits: Limits, clock: Clock
) -> Finished | Failed:
    """Run one generation and append what it brings to the task's log; the caller closes the log.

    Cancelling the caller's asyncio task closes the engine's connection at once.
    """
    watchdog = _Watchdog(limits)
    try:
        async with watchdog, adapter.submit(generation) as batches:
            async for batch in batches:
                watchdog.fed()
                if batch.texts:
                    task.texts(batch.texts, clock.monotonic_ms())
                if batch.finished is not None:
                    return batch.finished
    except EngineError as error:
        return _failed(error)
    except TimeoutError:
        limit = "wall" if watchdog.wall_hit else "idle"
        spent = limits.wall_ms if watchdog.wall_hit else limits.idle_ms
        text = f"the engine was given up after {spent:.0f} ms ({limit} limit)"
        hint = f"timeouts.{limit}_ms of the pool sets this limit"
        return Failed(code=ErrorCode.DECODE_TIMEOUT, message=text, hint=hint, engine_suspect=not watchdog.wall_hit)
    return _failed(EngineError(Failure.BROKEN, "the engine's stream ended without its final event"))


class _Watchdog:
    """Ends the block with TimeoutError when a limit is reached.

    Feeding it is one assignment: the timer looks, when it fires, how long ago that was, and sets itself anew. A timer
    that was moved at every token would cost more than the token.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._scope = asyncio.timeout(None)
        self._born = self._last = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.wall_hit = False

    def fed(self) -> None:
        """Something came."""
        self._last = self._loop.time()

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)

    def _look(self) -> None:
        now = self._loop.time()
        wall_at = self._born + self._limits.wall_ms / 1000
        idle_at = self._last + self._limits.idle_ms / 1000
        if now >= min(wall_at, idle_at):
            self.wall_hit = now >= wall_at
            self._scope.reschedule(now)
        else:
            self._timer = self._loop.call_at(min(wall_at, idle_at), self._look)


_CODES = {
    Failure.INVALID: ErrorCode.INVALID_PARAMS,
    Failure.CONTEXT: ErrorCode.INVALID_PARAMS,
    Failure.OVERLOADED: ErrorCode.REPLICA_EXHAUSTED,
    Failure.LOADING: ErrorCode.POOL_UNREADY,
    Failure.UNAUTHORIZED: ErrorCode.POOL_UNREADY,
    Failure.TIMEOUT: ErrorCode.DECODE_TIMEOUT,
}
"""Every other failure of an engine is WORKER_RESET: the task may be sent again."""

_SUSPECT = frozenset({Failure.REFUSED, Failure.BROKEN, Failure.LOADING, Failure.TIMEOUT})


def _failed(error: EngineError) -> Failed:
    code = _CODES.get(error.failure, ErrorCode.WORKER_RESET)
    hint = "send the task again" if code is ErrorCode.WORKER_RESET else None
    if error.failure is Failure.UNAUTHORIZED:
        hint = "correct the pool's key: no task gets through before"
    return Failed(code=code, message=error.message, hint=hint, engine_suspect=error.failure in _SUSPECT)

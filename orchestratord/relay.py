"""From an engine's stream to a task's log: the hot loop.

Decides nothing but when to give up: at the wall limit of the pool, counted from the start, at its idle limit, counted
from the first token on, since a long prompt is silence too, and where an engine sends more than any answer has; and
that an answer is at its end with ``max_tokens`` pieces, also where the engine goes on. A piece is one token at the
least, so nothing that an engine may send is cut. What an engine sends to keep a connection alive is no token and feeds
nothing. Everything that one read of the engine brings becomes one append to the log. Never retries, and leaves the
connection to the engine closed on every way out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, Self

import msgspec

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from contracts.errors import ErrorCode
from contracts.events import FinishReason
from orchestratord.clock import Clock
from orchestratord.continuation import DiffersError
from orchestratord.retry import Failed
from orchestratord.task import Task

MAX_STREAM_BYTES = 32 * 1024 * 1024
"""A stream that is longer is no answer: of ordinary tokens it would have half a million. It is held in memory."""
TOO_LONG = f"the engine has sent more than {MAX_STREAM_BYTES >> 20} MiB"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a generation may take as a whole, and between two reads once it has begun; milliseconds."""

    wall_ms: float
    idle_ms: float


class Cut(Finished, frozen=True, kw_only=True):
    """The end of an answer of which the engine has sent more than was asked for."""

    goes_on: bool
    """Whether the engine had more to say."""


class Source(Protocol):
    """What generations come from."""

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """See ``adapters.base.Adapter``."""


async def relay(
    task: Task,
    source: Source,
    generation: Generation,
    limits: Limits,
    clock: Clock,
    *,
    begun: Callable[[], None] = lambda: None,
) -> Finished | Failed:
    """Run one generation and append what it brings to the task's log; the caller closes the log.

    ``begun`` is called once, when the engine has sent something. Cancelling the caller's asyncio task closes the
    engine's connection at once.
    """
    watchdog = _Watchdog(limits)
    room = math.inf if generation.max_tokens is None else generation.max_tokens
    try:
        async with watchdog, source.submit(generation) as batches:
            begun()
            async for each in batches:
                room -= len(each.texts)
                batch = each if room >= 0 else _cut(each, int(room))
                if batch.texts:
                    watchdog.token()
                    if len(task.log) > MAX_STREAM_BYTES:
                        return _failed(EngineError(Failure.PROTOCOL, TOO_LONG))
                    first = task.first_text_ms is None
                    written = task.speaks(clock.monotonic_ms()) if first else None
                    if written is not None:
                        await written
                    task.texts(batch.texts, clock.monotonic_ms())
                    if first:  # it goes out before the rest of what has come is looked at, or the books are kept
                        await asyncio.sleep(0)
                else:
                    watchdog.sign()
                if batch.finished is not None:
                    task.said()
                    return batch.finished
    except EngineError as error:
        return _failed(error)
    except DiffersError as error:
        return Failed(code=ErrorCode.WORKER_RESET, message=str(error), hint="send the task again")
    except TimeoutError:
        return _given_up(limits, wall=watchdog.wall_hit, silent=watchdog.silent)
    return _failed(EngineError(Failure.BROKEN, "the engine's stream ended without its final event"))


def _cut(batch: Batch, surplus: int) -> Batch:
    """The last of an engine that does not stop; ``surplus``: how many pieces are too many, below zero."""
    ended = batch.finished
    tokens_in = None if ended is None else ended.tokens_in
    return Batch(batch.texts[:surplus], Cut(reason=FinishReason.LENGTH, tokens_in=tokens_in, goes_on=ended is None))


def _given_up(limits: Limits, *, wall: bool, silent: bool) -> Failed:
    """A limit was reached. One that sends tokens up to the wall limit is slow or endless, and neither dead nor hung."""
    limit, spent = ("wall", limits.wall_ms) if wall else ("idle", limits.idle_ms)
    text = f"the engine was given up after {spent:.0f} ms ({limit} limit)"
    if wall and silent:
        text += ", before its first token"
    hint = f"timeouts.{limit}_ms of the pool sets this limit"
    hung = not wall or silent
    return Failed(code=ErrorCode.DECODE_TIMEOUT, message=text, hint=hint, engine_suspect=hung, hung=hung)


class _Watchdog:
    """Ends the block with TimeoutError when a limit is reached.

    Feeding it is one assignment: the timer looks, when it fires, how long ago that was, and sets itself anew. A timer
    that was moved at every token would cost more than the token.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._scope = asyncio.timeout(None)
        self._born = self._loop.time()
        self._last = math.inf
        """When something came last; later than anything before the first token."""
        self._timer: asyncio.TimerHandle | None = None
        self._idle_s = limits.idle_ms / 1000
        self.wall_hit = False

    @property
    def silent(self) -> bool:
        """Whether no token has come."""
        return self._last == math.inf

    def token(self) -> None:
        """A token came."""
        if self._last == math.inf:
            self._last = self._loop.time()
            self._set()
        else:
            self._last = self._loop.time()

    def sign(self) -> None:
        """The engine sent an event without text, which is a sign of life among tokens and nothing before them."""
        if self._last != math.inf:
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
        if now >= min(wall_at, self._last + self._idle_s):
            self.wall_hit = now >= wall_at
            self._scope.reschedule(now)
        else:
            self._set()

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wall_at = self._born + self._limits.wall_ms / 1000
        self._timer = self._loop.call_at(min(wall_at, self._last + self._idle_s), self._look)


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
    refused = error.failure is Failure.REFUSED or error.status not in {None, 200}
    return Failed(
        code=code,
        message=error.message,
        hint=hint,
        engine_suspect=error.failure in _SUSPECT,
        failure=error.failure,
        may_go_on=not refused,
        unknown=error.status == 404,
    )

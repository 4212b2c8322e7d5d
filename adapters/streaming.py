"""From an engine's events to batches: what every streaming adapter shares.

Decides that a stream without its end is broken, and that what came before a failure is handed on before the failure is.
What an event means is its reader's.
"""

from __future__ import annotations

from typing import Protocol, Self

from adapters.account import believable
from adapters.base import Batch, EngineError, Failure, Finished
from adapters.http import EventStream


class Reader(Protocol):
    """Reads the events of one stream."""

    failure: EngineError | None
    """Set by the batch in which the engine reported a failure, or said what cannot be read."""

    def batch(self, events: list[bytes]) -> Batch:
        """What one read brought, up to a failure."""

    def at_end(self) -> Finished | None:
        """What a clean end without a final event means; None where it is no end at all."""


class Batches:
    """The asynchronous iterator of ``Adapter.submit``: one batch per read of the engine."""

    def __init__(self, stream: EventStream, reader: Reader) -> None:
        self._stream = stream
        self._reader = reader
        self._finished = False
        self._failure: EngineError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        if self._finished:
            raise StopAsyncIteration
        if self._failure is not None:
            raise self._failure
        events = await self._stream.read()
        batch = self._reader.batch(events) if events else Batch([], self._at_end())
        if self._reader.failure is not None:
            self._failure = self._stream.without_key(self._reader.failure)
            if not batch.texts:
                raise self._failure
        if batch.finished is None:
            return batch
        self._finished = True
        return Batch(batch.texts, believable(batch.finished))

    def _at_end(self) -> Finished:
        finished = self._reader.at_end()
        if finished is None:
            raise EngineError(Failure.BROKEN, "the engine's stream ended without its final event")
        return finished

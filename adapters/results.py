"""From an engine's documents to batches: embeddings and scores, which no engine streams.

Decides nothing: ``results_wire`` says what is asked and what an answer means. One request goes out at a time, and its
connection closes when the context is left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from adapters import results_wire as wire
from adapters.account import believable
from adapters.base import Batch, EngineError, Generation
from adapters.http import Document, EngineHttp, StatusError
from contracts.pools import Endpoint


class Results:
    """The asynchronous iterator of ``Adapter.submit``: one batch per request."""

    def __init__(self, ask: _Ask, first: Document, rest: list[bytes], reader: wire.ResultReader) -> None:
        self._ask = ask
        self._first: Document | None = first
        self._rest = iter(rest)
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
        try:
            batch = self._reader.batch(await self._answer())
        except EngineError as error:
            self._failure = error
            raise
        if batch.finished is None:
            return batch
        self._finished = True
        return Batch(batch.texts, believable(batch.finished))

    async def _answer(self) -> bytes:
        document, self._first = self._first, None
        if document is not None:
            return await document.read()
        async with self._ask(next(self._rest)) as following:
            return await following.read()


class _Ask:
    """One route of one engine."""

    def __init__(
        self, http: EngineHttp, endpoint: Endpoint, path: str, *, refusal: StatusError, request_id: str | None
    ) -> None:
        self._http = http
        self._endpoint = endpoint
        self._path = path
        self._refusal = refusal
        self._request_id = request_id

    def __call__(self, body: bytes) -> AbstractAsyncContextManager[Document]:
        return self._http.document(self._endpoint, self._path, body, self._refusal, request_id=self._request_id)


@asynccontextmanager
async def results(
    http: EngineHttp,
    endpoint: Endpoint,
    path: str,
    generation: Generation,
    *,
    refusal: StatusError,
    model: str | None = None,
    each: int = wire.INPUTS_PER_REQUEST,
    named: bool = False,
) -> AsyncIterator[Results]:
    """Ask for all of a generation's results, with ``each`` inputs in a request.

    ``named``: the engine takes the name of a request.
    Entering returns when the engine has answered the first one. Raises EngineError.
    """
    request_id = generation.correlation_id if named else None
    ask = _Ask(http, endpoint, path, refusal=refusal, request_id=request_id)
    first, *rest = wire.bodies(generation, model, each)
    if generation.asked is not None:
        generation.asked(first.settings)
    async with ask(first.whole) as document:
        yield Results(ask, document, [body.whole for body in rest], wire.ResultReader(generation, each))

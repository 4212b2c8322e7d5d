"""The one HTTP client for all engines.

Decides connection reuse, timeouts, and which failures of a connection mean what. A generation is sent exactly once;
only short questions are asked again, since asking twice changes nothing. Forwards no header of a client, and no key
ever reaches an error text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from adapters.base import EngineError, Failure
from adapters.sse import EventTooLongError, SseParser
from contracts.pools import Endpoint

CONNECT_S = 5.0
ANSWER_S = 10.0
"""For short questions; a stream has no limit here, since the relay's watchdog knows the pool's."""
ATTEMPTS = 3
EVENT_STREAM = "text/event-stream"
MAX_ERROR_BYTES = 64 * 1024

Answer = TypeVar("Answer")
StatusError = Callable[[int, bytes], EngineError]
"""Turns an engine's refusal (status, body) into our words."""


class EngineHttp:
    """One session, shared by every adapter. Use it as an async context manager."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S),
            trust_env=False,  # an engine is on this machine: no proxy stands before it
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, endpoint: Endpoint, path: str, kind: type[Answer], refusal: StatusError) -> Answer:
        """Ask for a JSON document; asked again after a failed connection. Raises EngineError."""
        retrying = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential_jitter(initial=0.05, max=0.5, jitter=0.05),
            retry=retry_if_exception(_worth_asking_again),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                return await self._ask("GET", endpoint, path, None, kind, refusal)
        raise AssertionError  # pragma: no cover - tenacity either returns or raises

    async def post(
        self, endpoint: Endpoint, path: str, body: bytes, kind: type[Answer], refusal: StatusError
    ) -> Answer:
        """Send a JSON document and read one; sent once. Raises EngineError."""
        return await self._ask("POST", endpoint, path, body, kind, refusal)

    async def status(self, endpoint: Endpoint, path: str) -> int | None:
        """The status of a GET, or None where nobody answers."""
        try:
            async with self._request("GET", endpoint, path, None, total_s=ANSWER_S) as response:
                return response.status
        except EngineError:
            return None

    @asynccontextmanager
    async def stream(
        self, endpoint: Endpoint, path: str, body: bytes, refusal: StatusError
    ) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        """Send a generation; yields, per read, the data of every event that it completed.

        Leaving the block closes the connection: for an engine that is the cancel. Raises EngineError.
        """
        async with self._request("POST", endpoint, path, body, total_s=None) as response:
            if response.status != 200:
                raise refusal(response.status, await response.content.read(MAX_ERROR_BYTES))
            if response.content_type != EVENT_STREAM:
                text = f"an event stream was due, and {response.content_type} came"
                raise EngineError(Failure.PROTOCOL, text, status=response.status)
            try:
                yield _events(response)
            finally:
                response.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _ask(  # noqa: PLR0917 - private, and each is a part of one request
        self, method: str, endpoint: Endpoint, path: str, body: bytes | None, kind: type[Answer], refusal: StatusError
    ) -> Answer:
        async with self._request(method, endpoint, path, body, total_s=ANSWER_S) as response:
            content = await response.read()
            if response.status != 200:
                raise refusal(response.status, content)
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise EngineError(Failure.PROTOCOL, f"{path} answered something else than documented: {error}") from error

    @asynccontextmanager
    async def _request(
        self, method: str, endpoint: Endpoint, path: str, body: bytes | None, *, total_s: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            message = "the engine client is used outside its context"
            raise RuntimeError(message)
        headers = {} if body is None else {"Content-Type": "application/json"}
        if endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        timeout = aiohttp.ClientTimeout(total=total_s, connect=CONNECT_S)
        try:
            async with self._session.request(
                method, endpoint.url + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                yield response
        except aiohttp.ClientConnectorError as error:
            raise EngineError(Failure.REFUSED, f"nobody listens at {endpoint.url}") from error
        except TimeoutError as error:
            if total_s is None and not isinstance(error, aiohttp.ServerTimeoutError):
                raise  # the caller's own limit
            raise EngineError(Failure.TIMEOUT, f"the engine did not answer {path} in time") from error
        except aiohttp.ClientError as error:
            raise EngineError(Failure.BROKEN, f"the engine's connection broke: {type(error).__name__}") from error


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    parser = SseParser()
    content = response.content
    while chunk := await content.readany():
        try:
            events = parser.feed(chunk)
        except EventTooLongError as error:
            raise EngineError(Failure.PROTOCOL, str(error)) from error
        if events:
            yield events


def _worth_asking_again(error: BaseException) -> bool:
    return isinstance(error, EngineError) and error.failure in {Failure.REFUSED, Failure.BROKEN}

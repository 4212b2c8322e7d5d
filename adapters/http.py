"""The one HTTP client for all engines.

Decides timeouts, and which failures of a connection mean what. A generation is sent exactly once; only a GET is asked
again, since asking twice changes nothing. Forwards no header of a client, follows no redirect,
keeps no cookie, and no key ever reaches an error text.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Protocol, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp.http import SERVER_SOFTWARE

from adapters.base import EngineError, Failure
from adapters.engine_connection import CutOffError, EngineConnection, send
from adapters.http_address import Address, address_of, request_bytes
from adapters.http_answer import Head, NotHttpError
from adapters.openai_wire import UNREADABLE
from adapters.questions import Answered, NotAskedError, Questions
from adapters.sse import MAX_EVENT_BYTES, SseParser
from contracts.pools import Endpoint
from daemon_core.redaction import Redactor

ATTEMPTS = 3
"""Of a GET; one that met the close of a kept connection does not count."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 0.5
EVENT_STREAM = "text/event-stream"
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_MESSAGE = 500
"""Characters of an engine's own words: enough to act on, and short enough for a log."""

Answer = TypeVar("Answer")
StatusError = Callable[[int, bytes], EngineError]
"""Turns an engine's refusal (status, body) into our words."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. A stream has no limit here: the relay's watchdog knows the pool's."""

    connect_s: float = 5.0
    answer_s: float = 10.0
    """For a short question as a whole."""


class Body(Protocol):
    """What is read of an answer."""

    async def readany(self) -> bytes:
        """What has come; empty at the end."""

    async def read(self, limit: int) -> bytes:
        """The whole of it, or as much as makes it longer than ``limit``."""


class EngineHttp:
    """One client, shared by every adapter. Use it as an async context manager.

    Short questions (``questions``) use a connection again. A generation always has its own: llama-server promises to
    keep a stream's connection and closes it a moment later, and a generation that met such a close could not be sent
    again.
    ``pause`` waits between two attempts; a test passes its own. ``redactor`` knows what no engine's error may repeat.
    """

    def __init__(
        self,
        *,
        patience: Patience | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        redactor: Redactor | None = None,
    ) -> None:
        self._redactor = redactor or Redactor()
        self._patience = patience or Patience()
        self._max_event_bytes = max_event_bytes
        self._pause = pause
        self._questions = Questions(self._tls_of, self._patience.connect_s)
        self._tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._questions.close()

    async def get(self, endpoint: Endpoint, path: str, kind: type[Answer], refusal: StatusError) -> Answer:
        """Ask for a JSON document; asked again after a failed connection. Raises EngineError."""
        left = ATTEMPTS
        while True:
            try:
                return _decoded(await self._ask(endpoint, path, None, refusal), path, kind)
            except EngineError as error:
                left -= 1
                if not left or not _worth_asking_again(error):
                    raise
            longest = min(FIRST_PAUSE_S * 2 ** (ATTEMPTS - 1 - left), LONGEST_PAUSE_S)
            await self._pause(random.uniform(0, longest))  # noqa: S311 - spreads retries, guards nothing

    async def text(self, endpoint: Endpoint, path: str, refusal: StatusError) -> str:
        """Ask for a document of any kind, once: what was true a moment ago is of no use. Raises EngineError."""
        return (await self._ask(endpoint, path, None, refusal)).decode(errors="replace")

    async def post(
        self, endpoint: Endpoint, path: str, body: bytes, kind: type[Answer], refusal: StatusError
    ) -> Answer:
        """Send a JSON document and read one; sent once. Raises EngineError."""
        return _decoded(await self._ask(endpoint, path, body, refusal), path, kind)

    async def status(self, endpoint: Endpoint, path: str) -> int | None:
        """The status of a GET, asked once, or None where nobody answers."""
        try:
            return (await self._answer(endpoint, path, None, MAX_ERROR_BYTES)).status
        except EngineError:
            return None

    @asynccontextmanager
    async def stream(
        self, endpoint: Endpoint, path: str, body: bytes, refusal: StatusError, *, request_id: str | None = None
    ) -> AsyncIterator[EventStream]:
        """Send a generation; entering returns with the engine's first bytes.

        ``request_id`` goes as ``X-Request-Id`` to an engine whose log shows it.
        Leaving the block closes the connection, which for an engine is the cancel. Raises EngineError.
        """
        connection, head = await self._generation(endpoint, path, body, request_id)
        try:
            if head.status != 200:
                raise self._refused(head.status, await self._error_body(connection), endpoint, refusal)
            if head.content_type != EVENT_STREAM:
                text = f"an event stream was due, and {head.content_type or 'something without a type'} came"
                raise EngineError(Failure.PROTOCOL, text, status=head.status)
            parser = SseParser(max_event_bytes=self._max_event_bytes)
            yield EventStream(connection, parser, endpoint, path, redactor=self._redactor)
        finally:
            connection.close()

    @asynccontextmanager
    async def document(
        self, endpoint: Endpoint, path: str, body: bytes, refusal: StatusError, *, request_id: str | None = None
    ) -> AsyncIterator[Document]:
        """Send a generation that is answered by one JSON document; entering returns with the head of the answer.

        It has no time limit here, as a stream has none. Leaving the block closes the connection. Raises EngineError.
        """
        connection, head = await self._generation(endpoint, path, body, request_id)
        try:
            if head.status != 200:
                raise self._refused(head.status, await self._error_body(connection), endpoint, refusal)
            yield Document(connection, endpoint, path)
        finally:
            connection.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _ask(self, endpoint: Endpoint, path: str, body: bytes | None, refusal: StatusError) -> bytes:
        answer = await self._answer(endpoint, path, body, MAX_ANSWER_BYTES)
        if answer.status != 200:
            raise self._refused(answer.status, answer.body[:MAX_ERROR_BYTES], endpoint, refusal)
        if len(answer.body) > MAX_ANSWER_BYTES:
            raise EngineError(Failure.PROTOCOL, f"{path} answered more than {MAX_ANSWER_BYTES} bytes")
        return answer.body

    async def _answer(self, endpoint: Endpoint, path: str, body: bytes | None, limit: int) -> Answered:
        """The answer to a short question: a GET, or with a body a POST. Cancelling this closes the connection."""
        get = body is None
        try:
            address = address_of(endpoint.url + path)
            request = request_bytes(address, body, agent=SERVER_SOFTWARE, api_key=endpoint.api_key, keep=get)
            async with asyncio.timeout(self._patience.answer_s):
                return await self._questions.ask(address, request, limit, again=get)
        except NotAskedError as error:
            raise _not_sent(error.__cause__, endpoint, path) from error
        except (OSError, ValueError) as error:  # a TimeoutError is one of the first, a NotHttpError of the second
            raise _failure(error, endpoint, path) from error

    async def _tls_of(self, address: Address) -> ssl.SSLContext | None:
        """What proves the engine at this address; None where it is not asked over TLS."""
        if address.tls and self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)  # it reads some hundred certificates
        return self._tls if address.tls else None

    async def _generation(
        self, endpoint: Endpoint, path: str, body: bytes, request_id: str | None
    ) -> tuple[EngineConnection, Head]:
        """Send a generation; the connection, and the head of the answer. Cancelling this closes the connection."""
        try:
            address = address_of(endpoint.url + path)
            request = request_bytes(
                address, body, agent=SERVER_SOFTWARE, api_key=endpoint.api_key, request_id=request_id
            )
            tls = await self._tls_of(address)
            async with asyncio.timeout(self._patience.connect_s):
                connection = await send(address, request, tls)
        except (OSError, TimeoutError, ValueError) as error:
            raise _not_sent(error, endpoint, path) from error
        try:
            return connection, await connection.head()
        except (NotHttpError, OSError) as error:
            connection.close()
            raise _failure(error, endpoint, path) from error
        except BaseException:
            connection.close()
            raise

    def _refused(self, status: int, body: bytes, endpoint: Endpoint, refusal: StatusError) -> EngineError:
        """The engine's refusal without secrets, which an engine may repeat."""
        return _without_secrets(refusal(status, body), endpoint, self._redactor)

    async def _error_body(self, connection: EngineConnection) -> bytes:
        """What a refusal says, as far as it comes: the status alone is an answer too."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._patience.answer_s):
                while len(body) < MAX_ERROR_BYTES and (more := await connection.readany()):
                    body += more
        except (NotHttpError, OSError):  # a TimeoutError is one too
            pass
        return bytes(body[:MAX_ERROR_BYTES])


class EventStream:
    """A generation's answer while it comes."""

    def __init__(
        self, body: Body, parser: SseParser, endpoint: Endpoint, path: str, *, redactor: Redactor | None = None
    ) -> None:
        self._redactor = redactor or Redactor()
        self._body = body
        self._parser = parser
        self._endpoint = endpoint
        self._path = path

    def without_key(self, error: EngineError) -> EngineError:
        """What the engine said inside its stream, without the key that it may repeat."""
        return _without_secrets(error, self._endpoint, self._redactor)

    async def read(self) -> list[bytes]:
        """The data of every event that one read completed; empty at a clean end of the stream.

        Pings and halves of events are waited through. Raises EngineError, also where the end cut an event in two.
        """
        while True:
            try:
                chunk = await self._body.readany()
            except (NotHttpError, OSError) as error:
                raise _failure(error, self._endpoint, self._path) from error
            if not chunk:
                if self._parser.finish():
                    raise EngineError(Failure.BROKEN, "the engine's stream ended inside an event")
                return []
            if events := self._parser.feed(chunk):
                return events


class Document:
    """A generation's answer where it comes in one piece."""

    def __init__(self, body: Body, endpoint: Endpoint, path: str) -> None:
        self._body = body
        self._endpoint = endpoint
        self._path = path

    async def read(self) -> bytes:
        """The whole answer. Raises EngineError, also for one that is too large or cut off."""
        try:
            content = await self._body.read(MAX_ANSWER_BYTES)
        except (NotHttpError, OSError) as error:
            raise _failure(error, self._endpoint, self._path) from error
        if len(content) > MAX_ANSWER_BYTES:
            raise EngineError(Failure.PROTOCOL, f"{self._path} answered more than {MAX_ANSWER_BYTES} bytes")
        return content


def _decoded(content: bytes, path: str, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(content, type=kind)
    except UNREADABLE as error:
        raise EngineError(Failure.PROTOCOL, f"{path} answered something else than documented: {error}") from error


def _worth_asking_again(error: BaseException) -> bool:
    return (
        isinstance(error, EngineError) and error.failure in {Failure.REFUSED, Failure.BROKEN} and error.status is None
    )


def _without_secrets(error: EngineError, endpoint: Endpoint, redactor: Redactor) -> EngineError:
    """The same in few words. It is cut last: of a key that was cut in two, half would be left."""
    text = Redactor((endpoint.api_key or "",)).text(redactor.prose(error.message[:MAX_ERROR_BYTES]))
    return EngineError(error.failure, text[:MAX_MESSAGE], status=error.status)


def _not_sent(error: BaseException | None, endpoint: Endpoint, path: str) -> EngineError:
    """Why a generation did not reach its engine."""
    match error:
        case ssl.SSLError():
            return EngineError(Failure.REFUSED, f"{_place(endpoint)} cannot be trusted: its TLS is not valid here")
        case OSError() if not isinstance(error, TimeoutError):
            return EngineError(Failure.REFUSED, f"nobody listens at {_place(endpoint)}")
        case _:
            return _failure(error, endpoint, path)


def _failure(error: BaseException | None, endpoint: Endpoint, path: str) -> EngineError:
    """What a failed connection means. A library's own text stays out of ours: it is not ours to vouch for."""
    match error:
        case NotHttpError():
            return EngineError(Failure.PROTOCOL, f"the engine at {_place(endpoint)} does not speak HTTP")
        case TimeoutError():
            return EngineError(Failure.TIMEOUT, f"the engine at {_place(endpoint)} did not answer {path} in time")
        case ValueError():
            return EngineError(Failure.INVALID, f"{_place(endpoint)} is no address of an engine")
        case CutOffError():
            return EngineError(Failure.BROKEN, f"the engine's connection broke: {error}")
        case _:
            return EngineError(Failure.BROKEN, f"the engine's connection broke: {type(error).__name__}")


def _place(endpoint: Endpoint) -> str:
    """Scheme, host and port; a name and password in the URL stay out."""
    try:
        parts = urlsplit(endpoint.url)
    except ValueError:
        return "the given URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

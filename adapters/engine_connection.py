"""A connection to an engine: one request goes out, one answer comes in. A generation's is closed then.

Decides when the engine has to wait: when so much of its answer lies here unread; and whether another request may follow
an answered one. What the bytes mean is ``http_answer``'s. Never sends anything twice.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import NoReturn, cast

from adapters.http_address import Address
from adapters.http_answer import AnswerParser, Head

UNREAD_BYTES = 128 * 1024
"""An engine that is so far ahead of its reader waits."""


class CutOffError(ConnectionError):
    """The connection ended before the answer did."""

    def __str__(self) -> str:
        return "it ended before the answer was whole"


class EngineConnection(asyncio.Protocol):
    """One request and its answer. ``readany`` is what the reader of a body needs of a stream."""

    __slots__ = (
        "_error",
        "_loop",
        "_parser",
        "_paused",
        "_request",
        "_transport",
        "_unread",
        "_unread_size",
        "_waiter",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, request: bytes) -> None:
        self._loop = loop
        self._request = request
        self._parser = AnswerParser()
        self._transport: asyncio.Transport | None = None
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._paused = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # --- what the loop calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request, before anything is read."""
        self._transport = cast("asyncio.Transport", transport)
        if self._request:
            self._transport.write(self._request)
            self._request = b""

    def data_received(self, data: bytes) -> None:
        """Keep what this read brought of the body."""
        body = self._parser.feed(data)
        if body:
            self._unread.append(body)
            self._unread_size += len(body)
            if self._unread_size > UNREAD_BYTES and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        if self._parser.fault is not None and self._error is None:
            self._error = self._parser.fault
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever is not whole now never will be."""
        self._transport = None
        whole = self._parser.finish() if exc is None else self._parser.complete
        if not whole and self._error is None:
            self._error = exc or CutOffError()
        self._wake()

    # --- what its reader calls ----------------------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether another request may go out: the answer is whole and read, and the engine left the connection open."""
        parser, transport = self._parser, self._transport
        answered = parser.complete and not parser.excess and not self._unread and self._error is None
        keeps = parser.head is not None and parser.head.keeps
        return answered and keeps and transport is not None and not transport.is_closing()

    @property
    def answering(self) -> bool:
        """Whether anything of the present answer has come."""
        return self._parser.begun

    def again(self, request: bytes) -> None:
        """Send another request, where it is ``reusable``. Raises CutOffError where it is not."""
        if not self.reusable or self._transport is None:
            raise CutOffError
        self._parser = AnswerParser()
        self._transport.write(request)

    async def head(self) -> Head:
        """The head of the answer, once it is there. Raises NotHttpError or OSError."""
        while self._parser.head is None:
            if self._error is not None:
                raise self._error
            await self._news()
        return self._parser.head

    async def readany(self) -> bytes:
        """The part of the body that has come; empty at its end. What came before a failure comes before it."""
        while not self._unread:
            if self._error is not None:
                raise self._error
            if self._parser.complete:
                return b""
            await self._news()
        return self._taken()

    async def read(self, limit: int) -> bytes:
        """The whole body, or as much of it as makes it longer than ``limit``."""
        body = bytearray()
        while len(body) <= limit and (more := await self.readany()):
            body += more
        return bytes(body)

    def close(self) -> None:
        """Close at once: for an engine this is the cancel."""
        if self._transport is not None:
            self._transport.abort()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _taken(self) -> bytes:
        unread = self._unread
        data = unread[0] if len(unread) == 1 else b"".join(unread)
        unread.clear()
        self._unread_size = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def _news(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def send(address: Address, request: bytes, tls: ssl.SSLContext | None) -> EngineConnection:
    """Connect and send. Raises OSError where nobody listens."""
    loop = asyncio.get_running_loop()
    if tls is not None or not address.numeric:
        connection = EngineConnection(loop, request)
        await loop.create_connection(lambda: connection, address.host, address.port, ssl=tls)
        return connection
    connected = await _connected(loop, address)
    try:
        sent = _sent_at_once(connected, request)
        connection = EngineConnection(loop, request[sent:])
        await loop.create_connection(lambda: connection, sock=connected)
    except BaseException:
        connected.close()
        raise
    return connection


def _sent_at_once(connected: socket.socket, request: bytes) -> int:
    """How much of the request the kernel took: nearly always all, and the engine begins before we go on."""
    try:
        return connected.send(request)
    except BlockingIOError:
        return 0


def _refuse(number: int) -> NoReturn:
    raise OSError(number, "cannot connect")


async def _connected(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    """A connected socket. On loopback the first call has done it, and the second one says so: no turn of the loop."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    place = (address.host, address.port)
    connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        found = connecting.connect_ex(place)
        if found == errno.EINPROGRESS:
            found = connecting.connect_ex(place)
        if found in {errno.EINPROGRESS, errno.EALREADY}:
            await loop.sock_connect(connecting, place)
        elif found not in {0, errno.EISCONN}:
            _refuse(found)
    except BaseException:
        connecting.close()
        raise
    return connecting

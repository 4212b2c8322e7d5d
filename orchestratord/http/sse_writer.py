"""Writes one task's log to one reader, as it grows.

Decides when a reader is too slow: what is written for it waits in a bounded buffer, and when that is not taken in time
the connection is cut, so that no client can take it for the end. Never copies more of the log than that, never waits
for one reader while it serves another, and makes no task of its own: what is appended goes out in the same turn of the
loop, all of it in one write.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable

import msgspec
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.hdrs import METH_HEAD
from aiohttp.web import BaseRequest
from aiohttp_sse import EventSourceResponse

from orchestratord.stream_log import StreamLog

COMPANY_S = 0.002
"""So long the head of a stream waits for what may go out with it."""
WRITE_BYTES = 64 * 1024
"""Of the log that one write takes, and with it of what may wait for one reader. Only a larger event is more."""
UNSENT_BYTES = 16 * 1024
"""So much the kernel holds for a reader whose own side is full."""
VANISHED_S = 90.0
"""So much longer than a slow reader has one that acknowledges nothing: the slow one is told, this one cannot be."""
LAST_WORD_S = 1.0
"""How long a reader that is cut off has to take the reason."""
PING = b": ping\n\n"
CUT = (
    b": cut off: the stream was not read for %d ms (server.slow_reader_ms); come back with Last-Event-ID and nothing is"
    b" lost\n\n"
)


class SseResponse(EventSourceResponse):
    """The head of a stream of events; it goes out together with the first of them.

    The library's response pings by a task of its own; ours is written to, and pinged, by one ``SseWriter``.
    """

    _send_headers_immediately = False

    def __init__(self, headers: dict[str, str] | None = None) -> None:
        super().__init__(headers=headers, allow_all_methods=True)

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """What every streamed response does, and nothing more."""
        return await web.StreamResponse.prepare(self, request)


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    ping_s: float
    """After so much silence a comment is written."""
    slow_s: float
    """So long what was written may wait to be taken."""


class _SlowReaderError(Exception):
    """What was written was not taken in time."""


class SseWriter:
    """One reader. ``wake`` says that the log has grown; ``write`` returns when the reader has had all of it."""

    __slots__ = (
        "_attention",
        "_begun",
        "_cut",
        "_ended",
        "_loop",
        "_offset",
        "_patience",
        "_response",
        "_scheduled",
        "_stream",
        "_timer",
        "_tokens",
        "_transport",
        "_writer",
        "_written_at",
    )

    def __init__(self, stream: StreamLog, after: int, patience: Patience) -> None:
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self._offset = stream.offset_after(after)
        self._patience = patience
        self._tokens = 0
        """How many tokens there were at the last write."""
        self._scheduled = False
        self._attention: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._written_at = 0.0
        self._begun = False
        """The head was written."""
        self._cut = False
        """The reader had its time."""
        self._ended = False
        """The end of the body is among what was written."""
        self._response: SseResponse
        self._transport: asyncio.Transport
        self._writer: AbstractStreamWriter

    def wake(self) -> None:
        """There is more. Tokens go out at once; all else can wait until this turn of the loop has done its work."""
        stream, attention = self._stream, self._attention
        if attention is None or attention.done():
            return
        if stream.over or (not self._begun and stream.tokens):
            attention.set_result(None)
        elif not self._begun:
            return
        elif stream.tokens != self._tokens:
            self._more()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._later)

    async def write(self, request: web.Request, response: SseResponse) -> bool:
        """Write everything and the end of the body; False where the reader was too slow and was cut off.

        Raises ConnectionResetError where the client has gone.
        """
        if request.version == HttpVersion11:
            response.enable_chunked_encoding()
        writer, transport = await response.prepare(request), request.transport
        if writer is None or transport is None:
            raise ConnectionResetError("the client has gone")
        self._response, self._writer, self._transport = response, writer, transport
        if request.method == METH_HEAD:
            await response.write_eof()
            return True
        # Writing pauses as soon as the kernel takes no more, and goes on when it has taken all.
        transport.set_write_buffer_limits(high=0)
        _hold_little(transport, self._patience.slow_s)
        self._timer = self._loop.call_later(COMPANY_S, self._look)
        try:
            await self._first()
            await self._rest()
            if self._stream.parted:
                transport.close()  # without the end of the body, so that nobody takes this for the end
        except _SlowReaderError:
            transport.abort()
            return False
        finally:
            self._timer.cancel()
        return True

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _first(self) -> None:
        """The head, together with what there is already or a moment later."""
        if not self._stream.over and not self._stream.tokens:
            await self._called()
        self._begun, self._written_at = True, self._loop.time()
        frames = self._stream.read(self._offset, WRITE_BYTES)
        if not frames:
            self._writer.send_headers()
        elif not self._ends_with(frames):
            self._offset += len(frames)
            self._tokens = self._stream.tokens
            await self._taken(self._response.write(frames))

    async def _rest(self) -> None:
        """All that follows. While this waits, ``_more`` does the writing."""
        while True:
            if self._waiting:
                await self._taken(self._writer.drain())
            frames = self._stream.read(self._offset, WRITE_BYTES)
            if self._stream.parted and self._ends_with(frames):
                await self._taken(self._response.write(frames))
                return
            if self._ends_with(frames):
                self._ended = True
                await self._taken(self._response.write_eof(frames))  # the last frames and the end in one write
                return
            if frames:
                self._send(frames)
            else:
                await self._called()

    async def _taken(self, writing: Awaitable[None]) -> None:
        """Raises _SlowReaderError where the reader does not take in time what waits for it."""
        slow_s = self._patience.slow_s
        speaking = self._loop.call_later(slow_s, self._speak)
        try:
            async with asyncio.timeout(slow_s + min(slow_s, LAST_WORD_S)):
                await writing
        except TimeoutError:
            raise _SlowReaderError from None
        finally:
            speaking.cancel()
        if self._cut:
            raise _SlowReaderError

    def _speak(self) -> None:
        """Say why nothing follows, behind what waits: whole events. A reader that comes to life in time reads it."""
        self._cut = True
        if not self._ended:
            self._put(CUT % round(self._patience.slow_s * 1000))

    @property
    def _waiting(self) -> bool:
        """Whether something that was written has not been taken by the kernel."""
        return self._transport.get_write_buffer_size() > 0

    def _ends_with(self, frames: bytes) -> bool:
        return self._stream.over and self._offset + len(frames) == len(self._stream)

    async def _called(self) -> None:
        """Wait until something is to be done that cannot be done in between."""
        self._attention = self._loop.create_future()
        try:
            await self._attention
        finally:
            self._attention = None

    def _later(self) -> None:
        self._scheduled = False
        if self._attention is not None and not self._attention.done():
            self._more()

    def _more(self) -> None:
        """Write what was appended; whatever has to wait is left to ``_rest``."""
        frames = self._stream.read(self._offset, WRITE_BYTES)
        if frames:
            self._send(frames)
        if self._attention is not None and (self._waiting or self._offset != len(self._stream)):
            self._attention.set_result(None)

    def _send(self, frames: bytes) -> None:
        self._offset += len(frames)
        self._tokens = self._stream.tokens
        self._put(frames)

    def _put(self, data: bytes) -> None:
        self._written_at = self._loop.time()
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._response.chunked else data)

    def _look(self) -> None:
        """See how long ago the last write was. A timer that were moved at every token would cost more than it."""
        now, idle = self._loop.time(), self._attention is not None and not self._attention.done()
        due = self._written_at + self._patience.ping_s if self._begun else now
        if now >= due:
            due = now + self._patience.ping_s
            if idle and not self._begun and self._attention is not None:
                self._attention.set_result(None)
            elif idle and not self._waiting:
                self._put(PING)
        self._timer = self._loop.call_at(due, self._look)


def _hold_little(transport: asyncio.Transport, slow_s: float) -> None:
    """Have the kernel take little more than the reader's side does, so that a slow reader is noticed for what it is.

    Left alone it takes megabytes for one that reads nothing, and asks after one that has vanished for a quarter of an
    hour.
    """
    peer: socket.socket | None = transport.get_extra_info("socket")
    if peer is not None and peer.family in {socket.AF_INET, socket.AF_INET6}:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1_000 * (slow_s + VANISHED_S)))

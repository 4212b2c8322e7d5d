"""A client that costs little: it sends one request per connection and looks only at what must be looked at.

Measures the time to the first event with text and to the end of the body, and counts events. Never parses JSON: on two
cores a client that did would measure itself.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import cast

HEAD_END = b"\r\n\r\n"
BODY_END = b"\r\n0\r\n\r\n"
"""The end of a chunked body that is not empty."""
CONNECTS_AT_ONCE = 32
"""Fewer than the smallest usual listen backlog: a connection attempt that is dropped comes again after a second."""


@dataclass(frozen=True)
class Target:
    """Where generations are asked for, and how its answers look."""

    name: str
    port: int
    head: bytes
    """Request line and headers but for the length."""
    body: bytes
    token: bytes
    """What stands once in every event with text, and nowhere else."""
    cuts_events: bool = False
    """Whether its chunks end anywhere, so that a few marks come in two and are not counted."""

    def request(self, tokens: int) -> bytes:
        """The bytes of one request for so many tokens."""
        body = self.body.replace(b"@TOKENS@", b"%d" % tokens)
        return self.head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body

    def answered(self, sample: Sample, tokens: int) -> bool:
        """Whether that is the whole answer; a figure over anything else would mean nothing."""
        lost = 1 + tokens // 50 if self.cuts_events and tokens > 1 else 0
        good = sample.head.startswith(b"HTTP/1.1 200") and sample.whole
        return good and tokens - lost <= sample.tokens <= tokens


@dataclass
class Sample:
    """One answer; times in seconds on the loop's clock."""

    began: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    tokens: int = 0
    whole: bool = False
    """Whether the end of the body came."""
    head: bytes = b""
    tail: bytes = field(default=b"", repr=False)


class _Reader(asyncio.Protocol):
    def __init__(self, target: Target, loop: asyncio.AbstractEventLoop) -> None:
        self._mark = target.token
        self._keep = max(len(target.token), len(BODY_END)) - 1
        self._loop = loop
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self.sample = Sample()
        self.done: asyncio.Future[Sample] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes) -> None:
        """Ask; the clock starts here, with the connection already made."""
        self.sample.began = self._loop.time()
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        sample = self.sample
        if not sample.head:
            head, found, body = (self._head + data).partition(HEAD_END)
            if not found:
                self._head += data
                return
            sample.head, data = head, body
        text = sample.tail + data
        # A mark that the last read completed may stand whole in what was kept of it: it was counted then.
        count = text.count(self._mark) - sample.tail.count(self._mark)
        if count:
            if not sample.tokens:
                sample.first_token = self._loop.time()
            sample.tokens += count
        sample.tail = text[-self._keep :]
        if sample.tail.endswith(BODY_END):
            sample.whole = True
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.sample.ended = self._loop.time()
            self.done.set_result(self.sample)


async def ask(target: Target, tokens: int) -> Sample:
    """One request on a connection of its own."""
    (sample,) = await ask_many(target, 1, tokens)
    return sample


async def ask_many(target: Target, streams: int, tokens: int) -> list[Sample]:
    """So many requests at once. All connections are made before the first request is sent."""
    loop = asyncio.get_running_loop()
    request = target.request(tokens)
    readers: list[_Reader] = []
    with ExitStack() as opened:
        while len(readers) < streams:
            some = range(min(CONNECTS_AT_ONCE, streams - len(readers)))
            connecting = [loop.create_connection(lambda: _Reader(target, loop), "127.0.0.1", target.port) for _ in some]
            for transport, reader in await asyncio.gather(*connecting):
                opened.callback(transport.close)
                readers.append(reader)
        for reader in readers:
            reader.send(request)
        return [await reader.done for reader in readers]

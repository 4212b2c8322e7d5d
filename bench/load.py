"""A client that costs little: it sends one request per connection and looks only at what must be looked at.

Measures the time to the first event with text and to the end of the body, and counts events. Never parses JSON: on two
cores a client that did would measure itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

HEAD_END = b"\r\n\r\n"
BODY_END = b"0\r\n\r\n"


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

    def request(self, tokens: int) -> bytes:
        """The bytes of one request for so many tokens."""
        body = self.body.replace(b"@TOKENS@", b"%d" % tokens)
        return self.head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


@dataclass
class Sample:
    """One answer; times in seconds on the loop's clock."""

    began: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    tokens: int = 0
    status: bytes = b""
    tail: bytes = field(default=b"", repr=False)


class _Reader(asyncio.Protocol):
    def __init__(self, target: Target, tokens: int, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._request = target.request(tokens)
        self._loop = loop
        self.sample = Sample()
        self.done: asyncio.Future[Sample] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sample.began = self._loop.time()
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        sample, mark = self.sample, self._target.token
        if not sample.status:
            sample.status = data[:12]
        text = sample.tail + data
        found = text.count(mark)
        if found:
            if not sample.tokens:
                sample.first_token = self._loop.time()
            sample.tokens += found
        # What may be the beginning of a mark is kept, and so is the end of the body, but never a whole mark.
        sample.tail = text[-(len(mark) - 1) :]
        if data.endswith(BODY_END) or text.endswith(BODY_END):
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.sample.ended = self._loop.time()
            self.done.set_result(self.sample)


async def ask(target: Target, tokens: int) -> Sample:
    """One request on a connection of its own; the connection is made before the clock starts."""
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(lambda: _Reader(target, tokens, loop), "127.0.0.1", target.port)
    try:
        return await reader.done
    finally:
        transport.close()


async def ask_many(target: Target, streams: int, tokens: int) -> list[Sample]:
    """So many requests at once."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(target, tokens)) for _ in range(streams)]
    return [task.result() for task in asked]

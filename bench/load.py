"""A client that costs little: it sends one request per connection and looks only at what must be looked at.

Measures the time to the first event with text and to the end of the body, and counts events; of streams whose texts
are the engine's clock it also says how old each was when it came. Never parses JSON: on two cores a client that did
would measure itself.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

HEAD_END = b"\r\n\r\n"
BODY_END = b"\r\n0\r\n\r\n"
"""The end of a chunked body that is not empty."""
CONNECTS_AT_ONCE = 32
"""Fewer than the smallest usual listen backlog: a connection attempt that is dropped comes again after a second."""
STAMP = re.compile(rb"@(\d+);")
"""The engine's clock, as the stand-in's knob ``stamped`` writes it."""


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
    """One answer; times in seconds by the performance counter, as uvloop's clock knows whole milliseconds only."""

    began: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0
    tokens: int = 0
    whole: bool = False
    """Whether the end of the body came."""
    head: bytes = b""
    tail: bytes = field(default=b"", repr=False)
    ages_us: list[float] = field(default_factory=list, repr=False)
    """How long each text was on its way from the engine, where that was looked at."""


class Reader(asyncio.Protocol):
    """One connection with one request."""

    def __init__(self, target: Target, loop: asyncio.AbstractEventLoop, *, stamped: bool = False) -> None:
        self._target = target
        self._mark = target.token
        self._keep = max(len(target.token), len(BODY_END)) - 1
        self._stamped = stamped
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self.sample = Sample()
        self.done: asyncio.Future[Sample] = loop.create_future()
        self.first: asyncio.Future[None] = loop.create_future()
        """Done with the first text, or with the end of the connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The clock does not run yet."""
        self._transport = cast("asyncio.Transport", transport)

    def send(self, tokens: int) -> None:
        """Ask; the clock starts here, with the connection already made."""
        request = self._target.request(tokens)
        self.sample.began = time.perf_counter()
        if self._transport is not None:
            self._transport.write(request)

    def leave(self) -> None:
        """Close the connection at once, whatever is on its way."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Count what came."""
        sample = self.sample
        if not sample.head:
            head, found, body = (self._head + data).partition(HEAD_END)
            if not found:
                self._head += data
                return
            sample.head, data = head, body
        if self._stamped:
            now = time.monotonic_ns()
            sample.ages_us += [(now - int(stamp)) / 1000 for stamp in STAMP.findall(data)]
        text = sample.tail + data
        # A mark that the last read completed may stand whole in what was kept of it: it was counted then.
        count = text.count(self._mark) - sample.tail.count(self._mark)
        if count:
            if not sample.tokens:
                sample.first_token = time.perf_counter()
                self._began_to_come()
            sample.tokens += count
        sample.tail = text[-self._keep :]
        if sample.tail.endswith(BODY_END):
            sample.whole = True
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The answer ends here, whole or not."""
        self._finish()

    def _began_to_come(self) -> None:
        if not self.first.done():
            self.first.set_result(None)

    def _finish(self) -> None:
        self._began_to_come()
        if not self.done.done():
            self.sample.ended = time.perf_counter()
            self.done.set_result(self.sample)


@asynccontextmanager
async def connected(target: Target, streams: int, *, stamped: int = 0) -> AsyncIterator[list[Reader]]:
    """So many connections, none of which has asked for anything; closed when the block ends.

    ``stamped``: how many of them look at the age of every text, spread over all.
    """
    loop = asyncio.get_running_loop()
    every = streams // stamped if stamped else 0
    readers: list[Reader] = []
    with ExitStack() as opened:
        while len(readers) < streams:
            some = range(len(readers), min(len(readers) + CONNECTS_AT_ONCE, streams))
            looks = [every > 0 and number % every == 0 for number in some]
            connecting = [
                loop.create_connection(partial(Reader, target, loop, stamped=look), "127.0.0.1", target.port)
                for look in looks
            ]
            for transport, reader in await asyncio.gather(*connecting):
                opened.callback(transport.close)
                readers.append(reader)
        yield readers


async def ask(target: Target, tokens: int) -> Sample:
    """One request on a connection of its own."""
    (sample,) = await ask_many(target, 1, tokens)
    return sample


async def ask_many(target: Target, streams: int, tokens: int, *, over_s: float = 0.0, stamped: int = 0) -> list[Sample]:
    """So many requests, sent at once or spread over a while. All connections are made before the first is sent."""
    loop = asyncio.get_running_loop()
    async with connected(target, streams, stamped=stamped) as readers:
        began = loop.time()
        for number, reader in enumerate(readers):
            due = began + over_s * number / streams
            if over_s and (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            reader.send(tokens)
        return [await reader.done for reader in readers]

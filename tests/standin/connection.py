"""One client's connection to the stand-in: requests in order, writes that wait for a slow reader."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import msgspec

from tests.standin.knobs import Knobs


class Request(msgspec.Struct, frozen=True):
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Engine(Protocol):
    """What a connection needs of the server behind it."""

    knobs: Knobs
    tasks: asyncio.TaskGroup

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...

    async def respond(self, request: Request, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One client; keeps requests in order and ends a running one when the client leaves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._engine.opened(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._task is None:
            self._start_next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine.closed(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def abort(self) -> None:
        self.transport.abort()

    async def write(self, data: bytes) -> None:
        """Send, and wait while the client does not read."""
        every = self._engine.knobs.split_every
        if every is None:
            self.transport.write(data)
        else:
            for at in range(0, len(data), every):
                self.transport.write(data[at : at + every])
                await asyncio.sleep(0)  # so that the client's loop sees the pieces apart where it can
        await self._writable.wait()

    def _start_next(self) -> None:
        request = take_request(self._received)
        if request is not None and not self.transport.is_closing():
            self._task = self._engine.tasks.create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        await self._engine.respond(request, self)
        self._task = None
        self._start_next()


def take_request(received: bytearray) -> Request | None:
    """The first whole request, taken out of what was received; None where it is not all there yet."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if len(received) < end + 4 + length:
        return None
    body = bytes(received[end + 4 : end + 4 + length])
    del received[: end + 4 + length]
    method, target, _ = first.split(" ", 2)
    return Request(method, target.partition("?")[0], headers, body)

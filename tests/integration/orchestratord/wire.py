"""A client that sends what bytes it likes, when it likes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.integration.orchestratord.house import House, json_of

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
BRIEF_MS, LONG_MS = 2_000, 4_000
"""Limits of the daemon that a client of a test keeps, or is waited for to miss: who keeps one while everything stands
still for some seconds must be about to do so for as short as possible, or have the long one."""


@dataclass(frozen=True)
class Heard:
    """One answer. ``headers`` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        return json_of(self.body)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Heard:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Heard(int(first.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """Everything until the other end closes, however it does that."""
        got = bytearray()
        try:
            while more := await self.reader.read(1 << 16):
                got += more
        except ConnectionResetError:
            pass
        return bytes(got)


@asynccontextmanager
async def wire(here: House, trusted: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """A connection to a house, over TLS where something is trusted."""
    host, port = here.url.partition("://")[2].split(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusted)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def served_until(here: House, moment: float) -> int:
    """Be an honest client until then, by the loop's clock; how often it was served. Each answer must be right."""
    served = 0
    while asyncio.get_running_loop().time() < moment:
        async with here.client.get("/healthz") as answer:
            assert answer.status == 200
        served += 1
    return served

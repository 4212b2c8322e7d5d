"""An HTTP answer as it came over the wire, for tests that compare bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec


@dataclass(frozen=True)
class RawAnswer:
    """``chunks`` are those of a chunked body, else the body alone."""

    status_line: bytes
    headers: dict[str, str]
    chunks: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def events(self) -> list[list[bytes]]:
        """What stands behind ``data: `` in the events of each chunk."""
        return [[event.removeprefix(b"data: ") for event in chunk.split(b"\n\n")[:-1]] for chunk in self.chunks]


async def raw(url: str, path: str, body: object = None, *, key: str | None = None) -> RawAnswer:
    """GET, or POST of a body; ``bytes`` go out as they are, anything else as JSON."""
    async with _connection(url) as (reader, writer):
        writer.write(_request(url, path, body, key))
        return await _answer(reader)


async def is_kept(url: str, path: str, body: object, *, key: str | None = None) -> bool:
    """Whether another question is answered on the connection of the answer; if not, it is closed, however late."""
    async with _connection(url) as (reader, writer):
        writer.write(_request(url, path, body, key))
        await _answer(reader)
        try:
            writer.write(_request(url, path, body, key))
            await _answer(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        return True


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def _request(url: str, path: str, body: object, key: str | None) -> bytes:
    content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
    auth = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n{auth}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def _answer(reader: asyncio.StreamReader) -> RawAnswer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("Transfer-Encoding") != "chunked":
        return RawAnswer(status.encode(), headers, [await reader.readexactly(int(headers["Content-Length"]))])
    chunks = []
    while size := int(await reader.readline(), 16):
        chunks.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return RawAnswer(status.encode(), headers, chunks)

"""A web server with files on a real socket of the loopback, which misbehaves on demand and counts what it sends."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer

PIECE = 64 << 10

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Knobs:
    """How a file is served. What is None or empty is as any good server does it."""

    etag: str | None = "its digest"
    """None leaves it out."""
    ranges: bool = True
    length: bool = True
    """Whether it says how long the file is."""
    cut_after: int | None = None
    """Close the connection after so many bytes of the body, once ``released``."""
    hold_after: int | None = None
    """Wait for ``released`` after so many bytes of the body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    released: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class FileServer:
    """``files`` are what there is, by path; ``answers`` stand before them, used up one by one."""

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    knobs: dict[str, Knobs] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[web.BaseRequest] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes of bodies, by path."""

    def url(self, path: str) -> str:
        return f"{self.base}{path}"

    def starts(self, path: str) -> list[int]:
        """From which byte on each request wanted the file; those for one byte, that only look, left out."""
        ranges = [each.headers.get("Range", "bytes=0-") for each in self.asked if each.path == path]
        return [int(each.removeprefix("bytes=").removesuffix("-")) for each in ranges if each != "bytes=0-0"]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if self.answers.get(request.path):
            return await self.answers[request.path].pop(0)(request)
        data = self.files.get(request.path)
        if data is None:
            return web.Response(status=404)
        return await self.give(request, data)

    async def give(self, request: web.Request, data: bytes) -> web.StreamResponse:
        """The file, or the part of it that was asked for."""
        knobs = self.knobs.get(request.path, Knobs())
        named = {} if knobs.etag is None else {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        if knobs.etag not in {None, "its digest"}:
            named = {"ETag": str(knobs.etag)}
        headers = {**named, **knobs.headers}
        start, stop, status = 0, len(data), 200
        wanted = request.http_range
        if knobs.ranges and wanted.start is not None and request.headers.get("If-Range") in {None, *named.values()}:
            start, stop, status = wanted.start, min(wanted.stop or len(data), len(data)), 206
            if start >= len(data):
                return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        if knobs.length:
            headers["Content-Length"] = str(stop - start)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        await self._send(request, response, data[start:stop], knobs)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, body: bytes, knobs: Knobs) -> None:
        for at in range(0, len(body), PIECE):
            piece = body[at : at + PIECE]
            if knobs.hold_after is not None and at + len(piece) > knobs.hold_after:
                await knobs.released.wait()
            if knobs.cut_after is not None and at + len(piece) > knobs.cut_after:
                await knobs.released.wait()
                assert request.transport is not None
                request.transport.close()
                return
            if request.transport is None or request.transport.is_closing():
                return
            await response.write(piece)
            self.sent[request.path] += len(piece)


@asynccontextmanager
async def serving(
    files: Mapping[str, bytes] | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FileServer]:
    """A server with these files; with ``tls`` it is spoken to by https."""
    server = FileServer(files=dict(files or {}))

    async def answer(request: web.Request) -> web.StreamResponse:
        return await server.answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    running = TestServer(app, host="127.0.0.1")
    await running.start_server(ssl=tls)
    try:
        server.base = str(running.make_url("")).rstrip("/")
        yield server
    finally:
        await running.close()


def plain(status: int, body: bytes = b"", **headers: str) -> Answer:
    """An answer with a status, and headers whose names have ``_`` for ``-``."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return answer

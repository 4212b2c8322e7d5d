"""A tap on the way to a server: counts what the server sends, stops it after so many bytes, and notes requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PIECE = 16 << 10


class Valve:
    """Between clients and the server at ``target`` (host:port); ``address`` is where clients go."""

    def __init__(self, target: str) -> None:
        self.address = ""
        self.passed = 0
        """Bytes that the server sent and clients got, heads of answers included."""
        self.heads: list[str] = []
        """The requests, without their bodies."""
        self.shut = asyncio.Event()
        """Set when the limit was reached: nothing comes any more."""
        self._limit: int | None = None
        self._opened = asyncio.Event()
        self._opened.set()
        host, _, port = target.rpartition(":")
        self._target = host, int(port)

    def shut_after(self, count: int) -> None:
        """Let so many bytes pass from now on, and then none."""
        self._limit = self.passed + count
        self.shut.clear()

    def open(self) -> None:
        """Let everything pass again; ``passed`` and ``heads`` begin anew."""
        self._limit = None
        self.passed = 0
        self.heads.clear()
        self._opened.set()

    def asked(self, words: str) -> list[str]:
        """The requests with these words in their head."""
        return [head for head in self.heads if words in head]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        upstream, to_server = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, to_server))
                group.create_task(self._answers(upstream, writer))
        except* ConnectionError:
            pass  # one of the two is gone
        finally:
            for each in (to_server, writer):
                each.close()
                with contextlib.suppress(ConnectionError):
                    await each.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            self.heads.append(data.partition(b"\r\n\r\n")[0].decode("latin-1"))
            to_server.write(data)
            await to_server.drain()
        raise ConnectionResetError  # the client is gone, and so is the server's answer

    async def _answers(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await upstream.read(PIECE):
            if self._limit is not None:
                data = data[: max(0, self._limit - self.passed)]
                if self.passed + len(data) >= self._limit:
                    self._opened.clear()
            self.passed += len(data)
            writer.write(data)
            await writer.drain()
            if not self._opened.is_set():
                self.shut.set()
                await self._opened.wait()
                return  # what was held back is lost, as on a line that broke
        writer.write_eof()


@asynccontextmanager
async def valve(target: str) -> AsyncIterator[Valve]:
    """A tap, open at first."""
    tap = Valve(target)
    server = await asyncio.start_server(tap.serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        tap.address = f"{host}:{port}"
        yield tap
    finally:
        tap.open()
        server.close()
        await server.wait_closed()

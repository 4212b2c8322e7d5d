"""A socket under a protocol: what is sent and read where the kernel takes or gives a part only, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

import pytest

from adapters.plain_socket import READ_BYTES, PlainSocket

pytestmark = pytest.mark.req("AD-02")
MUCH = b"0123456789abcdef" * 256 * 1024


class Protocol(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.reads = 0
        self.ended: list[Exception | None] = []
        self.news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.reads += 1
        self.news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.append(exc)
        self.news.set()

    async def end(self) -> None:
        while not self.ended:
            self.news.clear()
            await self.news.wait()

    async def whole(self, size: int) -> None:
        while len(self.data) < size:
            self.news.clear()
            await self.news.wait()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours and the engine's, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_much_is_read_in_order_and_its_end_is_told_once(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol, loop = Protocol(), asyncio.get_running_loop()
    PlainSocket(loop, ours, protocol)
    await loop.sock_sendall(theirs, MUCH)
    theirs.close()
    await protocol.end()
    assert bytes(protocol.data) == MUCH
    assert protocol.reads >= len(MUCH) // READ_BYTES
    assert protocol.ended == [None]
    assert ours.fileno() == -1


async def test_what_the_kernel_does_not_take_at_once_follows(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    loop = asyncio.get_running_loop()
    plain = PlainSocket(loop, ours, Protocol())
    plain.write(MUCH)
    plain.write(b"end")
    sent = bytearray()
    while not sent.endswith(b"end"):
        sent += await loop.sock_recv(theirs, 1 << 20)
    assert bytes(sent) == MUCH + b"end"
    plain.write(b"more")
    assert await loop.sock_recv(theirs, 100) == b"more"
    plain.abort()


async def test_nothing_is_read_while_it_is_paused(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol, loop = Protocol(), asyncio.get_running_loop()
    plain = PlainSocket(loop, ours, protocol)
    plain.pause_reading()
    theirs.send(b"early")
    for _ in range(20):
        await asyncio.sleep(0)
    assert protocol.reads == 0
    plain.resume_reading()
    await protocol.whole(5)
    plain.abort()


async def test_an_aborted_one_is_closed_at_once_and_tells_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol, loop = Protocol(), asyncio.get_running_loop()
    plain = PlainSocket(loop, ours, protocol)
    plain.write(MUCH)
    theirs.send(b"late")
    plain.abort()
    assert (ours.fileno(), plain.is_closing()) == (-1, True)
    for each in (plain.abort, plain.pause_reading, plain.resume_reading):
        each()
    plain.write(b"never")
    for _ in range(20):
        await asyncio.sleep(0)
    assert (protocol.reads, protocol.ended) == (0, [])


async def test_a_reset_is_told_with_its_reason(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    protocol, loop = Protocol(), asyncio.get_running_loop()
    plain = PlainSocket(loop, ours, protocol)
    plain.write(MUCH)  # more than anybody reads
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    await protocol.end()
    assert isinstance(protocol.ended[0], OSError | None)
    assert len(protocol.ended) == 1
    assert plain.is_closing()

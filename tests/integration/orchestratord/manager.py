"""pool-managerd's side of the socket, scripted: it answers what a test tells it to, and remembers what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from contracts import rpc
from contracts.pools import PoolSnapshot
from contracts.rpc import Hello, Method, PoolSet, Push

Answer = Callable[[rpc.Request], bytes | None]
HELLO = Hello(protocol=rpc.PROTOCOL, name="pool-managerd", version="1")


class Manager:
    """Serves one connection after the other."""

    def __init__(self, *pools: PoolSnapshot) -> None:
        self.pools = pools
        self.hello: Hello = HELLO
        self.answers: dict[str, Answer] = {}
        """What is said to a method instead of the usual; None says nothing."""
        self.asked: list[rpc.Request] = []
        self.connections = 0
        self._writer: asyncio.StreamWriter | None = None
        self._news = asyncio.Event()

    async def until(self, state: Callable[["Manager"], bool]) -> None:
        """Wait for something that a connection or a request brings about."""
        while not state(self):
            self._news.clear()
            await self._news.wait()

    def push(self, snapshot: PoolSnapshot) -> None:
        """Tell of a change."""
        self.say(rpc.notification(Push.POOL_CHANGED, snapshot))

    def say(self, line: bytes) -> None:
        """Write these bytes to the present connection."""
        assert self._writer is not None
        self._writer.write(line)

    def hang_up(self) -> None:
        """Close the present connection."""
        assert self._writer is not None
        self._writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writer = writer
        try:
            while line := await reader.readline():
                request = rpc.parse(line)
                assert isinstance(request, rpc.Request)
                self.asked.append(request)
                said = self.answer(request)
                if said is not None:
                    writer.write(said)
                self._news.set()
        except ConnectionResetError:
            pass
        finally:
            writer.close()

    def answer(self, request: rpc.Request) -> bytes | None:
        """What it says to a request; None says nothing."""
        if request.method in self.answers:
            return self.answers[request.method](request)
        match request.method:
            case Method.HELLO:
                return rpc.answer(request.id, self.hello)
            case Method.SUBSCRIBE:
                return rpc.answer(request.id, PoolSet(revision=1, pools=self.pools))
            case _:
                return rpc.answer(request.id, rpc.Empty())


def params(request: rpc.Request) -> dict[str, object]:
    """What a request carries."""
    return msgspec.json.decode(request.params, type=dict[str, object])


@asynccontextmanager
async def listening(manager: Manager, socket: Path) -> AsyncIterator[None]:
    """The manager is there for the length of the block; its connections end with it."""
    server = await asyncio.start_unix_server(manager.serve, str(socket), limit=rpc.MAX_FRAME_BYTES)
    try:
        yield
    finally:
        server.close()
        if manager.connections:
            manager.hang_up()
        await server.wait_closed()
        socket.unlink(missing_ok=True)

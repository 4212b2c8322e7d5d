"""The engine core behind every stand-in: slots, faults and counters; what goes over the wire is a wire module's.

It queues requests beyond its slots silently, notices a client that leaves, and counts what happens. In a test:

    async with StandIn(Knobs(tokens=4)) as engine:
        ...  # engine.url, engine.stats, engine.set(Knobs(...)), await engine.until(lambda stats: stats.cancelled == 1)

``StandIn(knobs, WIRES["vllm"])`` speaks as vLLM does; without a wire it is llama-server.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from types import MappingProxyType, TracebackType
from typing import Self

import msgspec

from tests.standin.connection import Connection, Request
from tests.standin.generation import Generation
from tests.standin.knobs import Knobs
from tests.standin.state import State
from tests.standin.wires.base import ENCODE, Answer, Wire
from tests.standin.wires.llamacpp import LlamaCpp
from tests.standin.wires.openai import OpenAi
from tests.standin.wires.tgi import Tgi
from tests.standin.wires.triton import Triton
from tests.standin.wires.vllm import Vllm

WIRES: MappingProxyType[str, Wire] = MappingProxyType(
    {wire.name: wire for wire in (LlamaCpp(), Vllm(), Tgi(), Triton(), OpenAi())}
)


class StandIn(State):
    """The engine; use it as an asynchronous context manager. ``key`` is what clients must present."""

    def __init__(
        self,
        knobs: Knobs | None = None,
        wire: Wire = WIRES["llamacpp"],
        *,
        key: str | None = None,
        port: int = 0,
        remote_knobs: bool = False,
    ) -> None:
        super().__init__(knobs or Knobs(), wire)
        self.requests: deque[Request] = deque(maxlen=100)
        """The latest requests, for a test that looks at what a client really sent."""
        self.tasks = asyncio.TaskGroup()
        self._key = key
        self._port = port
        self._remote_knobs = remote_knobs
        self._connections: set[Connection] = set()
        self._loaded_at = 0.0
        self._server: asyncio.Server | None = None
        self._later: asyncio.TimerHandle | None = None
        self._listening = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.tasks.__aenter__()
        # Bound and not yet listening, it holds its port and refuses: an engine that is still loading.
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self._port))
        self._port = bound.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=bound, start_serving=False)
        self.set(self.knobs)
        if not (self.wire.listens_late and self._loading):
            await self._start_listening()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._later is not None:
            self._later.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await self.tasks.__aexit__(None, None, None)  # a failing test's own exception stays what it is

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def set(self, knobs: Knobs) -> None:
        """Behave so from the next request on; loading starts anew."""
        self.knobs = knobs
        self.broken = False
        loop = asyncio.get_running_loop()
        self._loaded_at = loop.time() + knobs.loading_ms / 1000
        if self._later is not None:
            self._later.cancel()
        if self.wire.listens_late and self._server is not None and not self._server.is_serving():
            self._later = loop.call_at(self._loaded_at, self._listen)
        self.changed()

    async def listening(self) -> None:
        """Wait until the engine listens."""
        await self._listening.wait()

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self.stats.connections += 1

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    async def respond(self, request: Request, connection: Connection) -> None:
        """Answer one request."""
        self.requests.append(request)
        answer = self._own(request) or self._refusal(request)
        if answer is not None:
            await self._answer(connection, answer)
        elif self.wire.generates(request):
            await self._generate(request, connection)
        else:
            await self._answer(connection, self.wire.plain(request, self))

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _loading(self) -> bool:
        return asyncio.get_running_loop().time() < self._loaded_at

    def _listen(self) -> None:
        self.tasks.create_task(self._start_listening())

    async def _start_listening(self) -> None:
        if self._server is not None:
            await self._server.start_serving()
            self._listening.set()

    async def _answer(self, connection: Connection, answer: Answer) -> None:
        await connection.write(self.wire.answer(answer))
        if answer.status >= 400 and self.wire.closes_after_errors:
            connection.transport.close()

    def _own(self, request: Request) -> Answer | None:
        """The paths that no engine has."""
        match request.method, request.path:
            case "GET", "/_stats":
                return Answer(200, ENCODE(self.stats))
            case "GET", "/_times":
                return Answer(200, ENCODE(tuple(self.times)))
            case "POST", "/_knobs" if self._remote_knobs:
                self.set(msgspec.json.decode(request.body, type=Knobs))
                return Answer(200, b"{}")
            case _:
                return None

    def _refusal(self, request: Request) -> Answer | None:
        """What is refused before any handler sees it."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("x-api-key")
        authorized = self._key is None or given == self._key
        return self.wire.gate(request, authorized=authorized, loading=self._loading)

    async def _generate(self, request: Request, connection: Connection) -> None:
        job = self.wire.job(request, self.knobs)
        if isinstance(job, Answer):
            await self._answer(connection, job)
            return
        self.stats.requests += 1
        self.changed()
        if (canned := self.knobs.http_error) is not None:
            await self._answer(connection, Answer(canned.status, canned.body.encode(), canned.content_type))
            return
        await Generation(self, connection, job).run()

"""A stand-in for llama-server: its routes, its framing and its manners, with faults on demand.

It queues requests beyond its slots silently, notices a client that leaves, and counts what happens. In a test:

    async with StandIn(Knobs(tokens=4)) as engine:
        ...  # engine.url, engine.stats, engine.set(Knobs(...)), await engine.until(lambda stats: stats.cancelled == 1)
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.standin import wire
from tests.standin.connection import Connection, Request
from tests.standin.generation import Generation
from tests.standin.knobs import Knobs
from tests.standin.state import State

OPEN_PATHS = frozenset({"/health", "/v1/health", "/models", "/v1/models", "/_stats", "/_knobs"})
GENERATIONS = frozenset({"/completion", "/completions", "/v1/chat/completions", "/chat/completions"})


class StandIn(State):
    """The engine; use it as an asynchronous context manager. ``key`` is what clients must present."""

    def __init__(
        self, knobs: Knobs | None = None, *, key: str | None = None, port: int = 0, remote_knobs: bool = False
    ) -> None:
        super().__init__(knobs or Knobs())
        self.requests: deque[Request] = deque(maxlen=100)
        """The latest requests, for a test that looks at what a client really sent."""
        self.tasks = asyncio.TaskGroup()
        self._key = key
        self._port = port
        self._remote_knobs = remote_knobs
        self._connections: set[Connection] = set()
        self._loaded_at = 0.0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.tasks.__aenter__()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.set(self.knobs)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        await self.tasks.__aexit__(None, None, None)  # a failing test's own exception stays what it is

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def set(self, knobs: Knobs) -> None:
        """Behave so from the next request on; loading starts anew."""
        self.knobs = knobs
        self._loaded_at = asyncio.get_running_loop().time() + knobs.loading_ms / 1000
        self.changed()

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self.stats.connections += 1

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    async def respond(self, request: Request, connection: Connection) -> None:
        """Answer one request."""
        self.requests.append(request)
        if request.path in GENERATIONS and request.method == "POST":
            self.stats.requests += 1
            self.changed()
        status, body = self._gate(request)
        if status != 200:
            await self._answer(connection, status, body)
        elif request.path in GENERATIONS and request.method == "POST":
            await self._generate(request, connection)
        else:
            await self._answer(connection, *self._plain(request))

    async def _answer(self, connection: Connection, status: int, body: bytes, kind: str = wire.JSON) -> None:
        await connection.write(wire.answer(status, body, kind))
        if status >= 400:
            connection.transport.close()

    def _gate(self, request: Request) -> tuple[int, bytes]:
        """What is refused before any handler sees it."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("x-api-key")
        if self._key is not None and given != self._key and request.path not in OPEN_PATHS:
            return 401, wire.gate_error(401, "Invalid API Key", "authentication_error")
        loading = asyncio.get_running_loop().time() < self._loaded_at
        if loading and not request.path.startswith("/_"):
            return 503, wire.gate_error(503, "Loading model", "unavailable_error")
        return 200, b""

    def _plain(self, request: Request) -> tuple[int, bytes]:
        """Everything that is no generation."""
        knobs = self.knobs
        match request.method, request.path:
            case "GET", "/health" | "/v1/health":
                return 200, b'{"status":"ok"}'
            case "GET", "/props":
                return 200, wire.ENCODE(
                    wire.props(ctx=knobs.ctx, slots=knobs.slots, model=knobs.model, build=knobs.build)
                )
            case "GET", "/slots":
                slots = range(knobs.slots)
                return 200, wire.ENCODE([wire.slot(n, knobs.ctx, busy=n in self.busy) for n in slots])
            case "GET", "/metrics":
                message = "This server does not support metrics endpoint. Start it with `--metrics`"
                return 501, wire.error(501, message, "not_supported_error")
            case "GET", "/v1/models" | "/models":
                return 200, wire.ENCODE({"object": "list", "data": [{"id": knobs.model, "object": "model"}]})
            case "POST", "/tokenize" | "/apply-template" | "/_knobs":
                return self._with_body(request)
            case "GET", "/_stats":
                return 200, wire.ENCODE(self.stats)
            case _:
                return 404, wire.gate_error(404, "File Not Found", "not_found_error")

    def _with_body(self, request: Request) -> tuple[int, bytes]:
        body, refused = _decode(request.body)
        if refused is not None:
            return 400, refused
        match request.path:
            case "/tokenize":
                tokens = tokenize(str(body.get("content", "")), bos=body.get("add_special") is True)
                return 200, wire.ENCODE({"tokens": tokens})
            case "/apply-template":
                return 200, wire.ENCODE({"prompt": render(body.get("messages", []))})
            case _ if self._remote_knobs:
                self.set(msgspec.convert(body, Knobs))
                return 200, b"{}"
            case _:
                return 404, wire.gate_error(404, "File Not Found", "not_found_error")

    async def _generate(self, request: Request, connection: Connection) -> None:
        if (canned := self.knobs.http_error) is not None:
            await self._answer(connection, canned.status, canned.body.encode(), canned.content_type)
            return
        body, refused = _decode(request.body)
        chat = "chat" in request.path
        if refused is None:
            refused, prompt = _prompt(body, chat=chat)
            tokens = len(tokenize(prompt, bos=True))
            if refused is None and tokens >= self.knobs.ctx:
                refused = wire.exceeds_context(tokens, self.knobs.ctx)
            if refused is None:
                await Generation(self, connection, body, chat=chat, evaluated=tokens).run()
                return
        await self._answer(connection, 400, refused)


def tokenize(text: str, *, bos: bool) -> list[int]:
    """One token for each piece of up to four characters, and one for the beginning."""
    return ([1] if bos else []) + [300 + ord(text[at]) % 100 for at in range(0, len(text), 4)]


def render(messages: list[dict[str, str]]) -> str:
    """The chat template of the tests' tiny model."""
    return "".join(f"[{message['role']}] {message['content']}\n" for message in messages) + "[assistant] "


def _decode(body: bytes) -> tuple[dict[str, Any], bytes | None]:
    """A JSON object, or the refusal of what is none."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any]), None
    except msgspec.DecodeError as error:
        message = f"[json.exception.parse_error.101] parse error: {error}"
        return {}, wire.error(400, message, "invalid_request_error")


def _prompt(body: dict[str, Any], *, chat: bool) -> tuple[bytes | None, str]:
    """The text to go on from, or the refusal of a body that has none."""
    name = "messages" if chat else "prompt"
    if name not in body:
        message = f"[json.exception.out_of_range.403] key '{name}' not found"
        return wire.error(400, message, "invalid_request_error"), ""
    return None, render(body["messages"]) if chat else str(body["prompt"])

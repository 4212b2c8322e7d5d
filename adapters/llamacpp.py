"""llama.cpp's llama-server.

Decides which of its routes answers which question; what goes over the wire is ``llamacpp_wire``'s. Always streams,
since the server notices a lost client at once only while it streams.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from adapters import llamacpp_wire as wire
from adapters.base import Batch, Generation, Health, Props
from adapters.http import EngineHttp
from adapters.openai_wire import ChatReader
from adapters.streaming import Batches, Reader
from contracts.pools import Endpoint
from contracts.tasks import Workload

FEATURES = ("seed", "stop", "json_schema", "grammar", "tokenize", "cache_prompt", "cancel_on_close")


class PropsAnswer(msgspec.Struct, frozen=True):
    """``GET /props``."""

    class Defaults(msgspec.Struct, frozen=True):
        """The default settings of a slot."""

        n_ctx: int | None = None

    build_info: str | None = None
    total_slots: int | None = None
    default_generation_settings: Defaults = Defaults()


class Tokens(msgspec.Struct, frozen=True):
    """``POST /tokenize``."""

    tokens: list[int]


class Templated(msgspec.Struct, frozen=True):
    """``POST /apply-template``."""

    prompt: str


class LlamaCppAdapter:
    """One running llama-server."""

    workloads: tuple[Workload, ...] = (Workload.COMPLETION, Workload.CHAT)
    features: tuple[str, ...] = FEATURES

    def __init__(self, endpoint: Endpoint, http: EngineHttp) -> None:
        self._endpoint = endpoint
        self._http = http

    async def health(self) -> Health:
        """Refused, 503 while the model loads, and 200 are three states; any other answer is none of this server."""
        match await self._http.status(self._endpoint, "/health"):
            case 200:
                return Health.OK
            case 503:
                return Health.LOADING
            case _:
                return Health.DOWN

    async def props(self) -> Props:
        """What the server says of itself. Raises EngineError."""
        said = await self._http.get(self._endpoint, "/props", PropsAnswer, wire.refusal)
        context = said.default_generation_settings.n_ctx
        return Props(engine_version=said.build_info, ctx_max=context, slots=said.total_slots)

    async def count_tokens(self, generation: Generation) -> int:
        """By the model's own template and tokenizer. Raises EngineError."""
        prompt = generation.prompt or ""
        if generation.messages is not None:
            body = msgspec.json.encode({"messages": generation.messages})
            templated = await self._http.post(self._endpoint, "/apply-template", body, Templated, wire.refusal)
            prompt = templated.prompt
        body = wire.tokenize_body(prompt)
        return len((await self._http.post(self._endpoint, "/tokenize", body, Tokens, wire.refusal)).tokens)

    @asynccontextmanager
    async def submit(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        """Start a generation; leaving the block closes the connection, and the server frees its slot."""
        path, body = wire.request(generation)
        reader: Reader = wire.CompletionReader() if path == wire.COMPLETION else ChatReader(wire.stream_error)
        async with self._http.stream(self._endpoint, path, body, wire.refusal) as stream:
            yield Batches(stream, reader)

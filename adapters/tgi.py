"""Text-generation-inference (TGI).

Decides which of its routes answers which question; what goes over the wire is ``tgi_wire``'s. Written from its
documentation and tried against a stand-in that speaks it: the engine itself cannot be had where this is tested.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from adapters import tgi_wire as wire
from adapters.base import Batch, EngineError, Failure, Generation, Health, Props
from adapters.discovery import optional
from adapters.http import EngineHttp
from adapters.openai_wire import OpenAiReader
from adapters.prometheus import figure
from adapters.streaming import Batches, Reader
from contracts.pools import Endpoint

refusal = wire.REFUSALS.refusal


class TgiAdapter:
    """One running TGI server."""

    def __init__(self, endpoint: Endpoint, http: EngineHttp) -> None:
        self._endpoint = endpoint
        self._http = http
        self._context: int | None = None

    async def health(self) -> Health:
        """It listens when its model is there; 503 says that a generation failed and it is looking whether it heals."""
        match await self._http.status(self._endpoint, "/health"):
            case 200:
                return Health.OK
            case 503:
                return Health.LOADING
            case _:
                return Health.DOWN

    async def props(self) -> Props:
        """What the server says of itself. Raises EngineError."""
        info = await optional(self._http.get(self._endpoint, "/info", wire.Info, refusal))
        self._context = None if info is None else info.max_total_tokens
        body = wire.chat_tokenize_body(Generation())
        template = await optional(self._http.post(self._endpoint, "/chat_tokenize", body, wire.ChatTokens, refusal))
        info_or_nothing = info or wire.Info()
        return Props(
            engine_version=info_or_nothing.version,
            ctx_max=info_or_nothing.max_total_tokens,
            slots=info_or_nothing.max_concurrent_requests,
            workloads=wire.served(info, templates=template is not None),
            features=wire.FEATURES,
        )

    async def count_tokens(self, generation: Generation) -> int:
        """By the model's own template and tokenizer. Raises EngineError."""
        if generation.messages is not None:
            body = wire.chat_tokenize_body(generation)
            counted = await self._http.post(self._endpoint, "/chat_tokenize", body, wire.ChatTokens, refusal)
            return len(counted.tokenize_response)
        body = wire.tokenize_body(generation.prompt or "")
        return len(await self._http.post(self._endpoint, "/tokenize", body, list[msgspec.Raw], refusal))

    async def model(self) -> str | None:
        """The one that it was started with: a request names none."""
        info = await optional(self._http.get(self._endpoint, "/info", wire.Info, refusal))
        return None if info is None else info.model_id

    async def busy(self) -> int | None:
        """By what it counts for Prometheus: the requests of its batch, and those that wait for one."""
        said = await optional(self._http.text(self._endpoint, "/metrics", refusal))
        batch = None if said is None else figure(said, wire.BATCH)
        waiting = None if said is None else figure(said, wire.QUEUE)
        return None if batch is None else batch + (waiting or 0)

    async def usage(self) -> float | None:
        """It tells Prometheus nothing of its cache."""
        return None

    @asynccontextmanager
    async def submit(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        """Start a generation; leaving the block closes the connection, and the server drops the request."""
        path, body = wire.request(generation, await self._limit(generation))
        if generation.asked is not None:
            generation.asked(body.settings)
        chat = path == wire.CHAT
        reader: Reader = OpenAiReader(wire.REFUSALS.stream_error, needs_done=False) if chat else wire.StreamReader()
        name = generation.correlation_id
        async with self._http.stream(self._endpoint, path, body.whole, refusal, request_id=name) as stream:
            yield Batches(stream, reader)

    async def erase(self, _slot: int) -> None:
        """Nothing to do: slots are the server's own business."""

    async def _limit(self, generation: Generation) -> int:
        """How many tokens may come: it would stop after 100 unless told."""
        if generation.max_tokens is not None:
            return generation.max_tokens
        if self._context is None:
            self._context = (await self._http.get(self._endpoint, "/info", wire.Info, refusal)).max_total_tokens
        if self._context is None:
            raise EngineError(Failure.INVALID, "max_tokens: this server does not tell its context; set it")
        return max(1, self._context - await self.count_tokens(generation))

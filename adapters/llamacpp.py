"""llama.cpp's llama-server.

Decides which of its routes answers which question; what goes over the wire is ``llamacpp_wire``'s. Generations always
stream, since the server notices a lost client at once only while it streams.

What it serves is asked for with empty bodies, which compute nothing: a route that it was not started for refuses them
with 501 before it reads them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import msgspec

from adapters import llamacpp_wire as wire
from adapters.base import Batch, EngineError, Generation, Health, Props
from adapters.discovery import optional, unsaid
from adapters.http import EngineHttp
from adapters.openai_wire import OpenAiReader
from adapters.prometheus import figure, ratio
from adapters.results import results
from adapters.streaming import Batches, Reader
from contracts.pools import Endpoint


class LlamaCppAdapter:
    """One running llama-server."""

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
        said = await optional(self._http.get(self._endpoint, "/props", wire.PropsAnswer, wire.refusal))
        said = said or wire.PropsAnswer()
        refused = {path: await self._refusal_of_nothing(path) for path in wire.PROBED}
        return Props(
            engine_version=said.build_info,
            ctx_max=said.default_generation_settings.n_ctx,
            slots=said.total_slots,
            workloads=wire.served(refused),
            features=wire.FEATURES,
        )

    async def count_tokens(self, generation: Generation) -> int:
        """By the model's own template and tokenizer. Raises EngineError."""
        if generation.messages is not None:
            body = msgspec.json.encode({"messages": generation.messages})
            answer = await self._http.post(self._endpoint, "/apply-template", body, wire.Templated, wire.refusal)
            return await self._count(answer.prompt)
        query = 0 if generation.inputs is None or generation.prompt is None else await self._count(generation.prompt)
        texts = (generation.prompt or "",) if generation.inputs is None else generation.inputs
        return query + max([await self._count(text) for text in texts], default=0)

    async def model(self) -> str | None:
        """The file that it has: it takes every request for its own, whatever model is named."""
        said = await optional(self._http.get(self._endpoint, "/props", wire.PropsAnswer, wire.refusal))
        return None if said is None else said.model_path

    async def busy(self) -> int | None:
        """By its slots, else by what it counts for Prometheus; it may have been started without either."""
        said = await optional(self._http.text(self._endpoint, "/slots", wire.refusal))
        busy = None if said is None else wire.busy_slots(said)
        if busy is not None:
            return busy
        said = await optional(self._http.text(self._endpoint, "/metrics", wire.refusal))
        return None if said is None else figure(said, wire.PROCESSING)

    async def usage(self) -> float | None:
        """By the tokens that its slots hold, else by the figure that older releases had for it."""
        said = await optional(self._http.text(self._endpoint, "/slots", wire.refusal))
        usage = None if said is None else wire.cache_usage(said)
        if usage is not None:
            return usage
        said = await optional(self._http.text(self._endpoint, "/metrics", wire.refusal))
        return None if said is None else ratio(said, wire.CACHE_USAGE)

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Start a generation; leaving the block closes the connection, and the server frees its slot."""
        path = wire.RESULT_PATHS.get(generation.workload)
        if path is not None:
            return results(
                self._http, self._endpoint, path, generation, refusal=wire.refusal, each=wire.INPUTS_PER_REQUEST
            )
        return self._stream(generation)

    async def erase(self, slot: int) -> None:
        """By its own route where it was started with it, else by writing something tiny over it. Raises EngineError."""
        asked = self._http.post(self._endpoint, wire.erase_path(slot), b"{}", wire.Erased, wire.refusal)
        if await optional(asked) is None:
            async with self._stream(wire.overwriting(slot)) as batches:
                async for _ in batches:
                    pass

    # --- inside -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _stream(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        path, body = wire.request(generation)
        if generation.asked is not None:
            generation.asked(body.settings)
        reader: Reader = wire.CompletionReader() if path == wire.COMPLETION else OpenAiReader(wire.stream_error)
        async with self._http.stream(self._endpoint, path, body.whole, wire.refusal) as stream:
            yield Batches(stream, reader)

    async def _count(self, text: str) -> int:
        body = wire.tokenize_body(text)
        return len((await self._http.post(self._endpoint, "/tokenize", body, wire.Tokens, wire.refusal)).tokens)

    async def _refusal_of_nothing(self, path: str) -> EngineError | None:
        """How a route refuses an empty body; None for one that takes it. Raises EngineError where it has failed."""
        try:
            await self._http.post(self._endpoint, path, b"{}", msgspec.Raw, wire.refusal)
        except EngineError as error:
            if not unsaid(error):
                raise
            return error
        return None

"""NVIDIA Triton Inference Server, for models of text.

Decides which of its routes answers which question; what goes over the wire is ``triton_wire``'s. Always
``generate_stream``: Triton notices a lost client only by a write that fails. Which model is asked for, and what it
takes, is asked once and remembered until ``props`` asks anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from adapters import triton_wire as wire
from adapters.base import Batch, EngineError, Generation, Health, Props
from adapters.discovery import optional
from adapters.http import EngineHttp
from adapters.streaming import Batches
from contracts.pools import Endpoint


class TritonAdapter:
    """One running Triton server."""

    def __init__(self, endpoint: Endpoint, http: EngineHttp, model: str | None = None) -> None:
        self._endpoint = endpoint
        self._http = http
        self._wanted = model
        self._known: wire.Model | None = None

    async def health(self) -> Health:
        """Of the model where it is known: one whose engine died leaves the server ready. 400 says not ready."""
        path = "/v2/health/ready" if self._known is None else f"/v2/models/{self._known.name}/ready"
        match await self._http.status(self._endpoint, path):
            case 200:
                return Health.OK
            case 400 | 503:
                return Health.LOADING
            case _:
                return Health.DOWN

    async def props(self) -> Props:
        """What the server says of itself and of its model. Raises EngineError."""
        self._known = None
        server = await optional(self._http.get(self._endpoint, "/v2", wire.Server, wire.refusal))
        model = await self._model()
        return Props(
            engine_version=None if server is None else server.version,
            workloads=wire.served(model),
            features=wire.features(model),
        )

    async def count_tokens(self, _generation: Generation) -> None:
        """Triton has no tokenizer to ask."""

    async def model(self) -> None:
        """Every request names it, and is refused where it is gone."""

    async def busy(self) -> None:
        """What it counts are requests that have ended, and its metrics have a port of their own."""

    async def usage(self) -> None:
        """Its metrics have a port of their own, and what they say is its backend's."""

    @asynccontextmanager
    async def submit(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        """Start a generation; leaving the block closes the connection."""
        model = await self._model()
        body = wire.body(generation, model)
        if generation.asked is not None:
            generation.asked(body.settings)
        async with self._http.stream(self._endpoint, model.stream, body.whole, self._refusal) as stream:
            yield Batches(stream, wire.StreamReader(tells_reasons=model.tells_reasons))

    async def erase(self, _slot: int) -> None:
        """Nothing to do: slots are the server's own business."""

    def _refusal(self, status: int, answer: bytes) -> EngineError:
        """What a refusal means. One that is "not found" may mean another model than before: it is asked for anew."""
        if status == 404:
            self._known = None
        return wire.refusal(status, answer)

    async def _model(self) -> wire.Model:
        if self._known is None:
            http, endpoint = self._http, self._endpoint
            listed = await http.post(endpoint, wire.INDEX, wire.INDEX_BODY, list[wire.Listed], wire.refusal)
            name = wire.choose(listed, self._wanted)
            path = f"/v2/models/{name}"
            metadata = await optional(http.get(endpoint, path, wire.Metadata, wire.refusal))
            config = await optional(http.get(endpoint, f"{path}/config", wire.Config, wire.refusal))
            self._known = wire.model_of(name, metadata, config)
        return self._known

"""Any server that speaks the OpenAI protocol, often one that somebody else runs.

Decides which route answers which question, and what the server is taken to serve: what its OpenAPI document lists, or,
where it has none, the routes that refuse an incomplete request otherwise than with "not found". Such a request names
the model and asks for at most one token, so a server that takes it after all computes one. What the server says is
asked for once and remembered until ``props`` asks anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec

from adapters import openai_discovery as discovery
from adapters.base import Batch, EngineError, Failure, Generation, Health, Props
from adapters.discovery import Answer, optional, unsaid
from adapters.http import EngineHttp
from adapters.openai_discovery import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, RERANKS, TOKENIZE
from adapters.openai_request import request, tokenize_body
from adapters.openai_wire import OpenAiReader
from adapters.refusals import Refusals
from adapters.results import results
from adapters.streaming import Batches
from contracts.config import Engine
from contracts.pools import Endpoint
from contracts.tasks import Workload

REFUSALS = Refusals(
    by_type={
        "context_length_exceeded": Failure.CONTEXT,
        "exceed_context_size_error": Failure.CONTEXT,
        "invalid_api_key": Failure.UNAUTHORIZED,
        "invalid_request_error": Failure.INVALID,
        "authentication_error": Failure.UNAUTHORIZED,
        "rate_limit_exceeded": Failure.OVERLOADED,
        "insufficient_quota": Failure.OVERLOADED,
    },
    by_words={"context length": Failure.CONTEXT},
)
FEATURES = ("stop", "cancel_on_close")
"""Of the protocol itself, on every server."""
PROTOCOL = ("seed", "json_schema")
"""Likewise, where the server does not describe its bodies, and so does not contradict."""


class OpenAiAdapter:
    """One running server."""

    engine = Engine.OPENAI
    refusals = REFUSALS

    def __init__(self, endpoint: Endpoint, http: EngineHttp, model: str | None = None) -> None:
        self._endpoint = endpoint
        self._http = http
        self._wanted = model
        self._card: discovery.ModelCard | None = None
        self._routes: discovery.Routes | None = None
        self._listed = False
        """Whether the routes were asked for."""

    async def health(self) -> Health:
        """There is no health route in the protocol: a server that lists its models serves."""
        match await self._http.status(self._endpoint, MODELS):
            case 200:
                return Health.OK
            case 503:
                return Health.LOADING
            case _:
                return Health.DOWN

    async def props(self) -> Props:
        """What the server says of itself. Raises EngineError, also where it lists no model that could be meant."""
        self._card, self._listed = None, False
        card, routes = await self._model(), await self._list_routes()
        served = await self._served(card, routes)
        return Props(
            engine_version=await self._version(routes),
            ctx_max=card.max_model_len,
            workloads=discovery.workloads(served),
            features=self._features(card, routes, [path for path in (COMPLETIONS, CHAT) if served.get(path)]),
        )

    async def count_tokens(self, generation: Generation) -> int | None:
        """By the server's tokenizer, where it lists one. Raises EngineError."""
        routes = await self._list_routes()
        return await self._count(generation) if routes is not None and TOKENIZE in routes else None

    async def model(self) -> None:
        """Every request names it, and is refused where it is gone."""

    async def busy(self) -> int | None:
        """The protocol has no question for it."""
        return None

    async def usage(self) -> float | None:
        """The protocol has no question for it."""
        return None

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Start a generation; leaving the block closes the connection."""
        draws = generation.workload in {Workload.COMPLETION, Workload.CHAT}
        return self._stream(generation) if draws else self._results(generation)

    async def erase(self, _slot: int) -> None:
        """Nothing to do: slots are the server's own business."""

    # --- what depends on the server -----------------------------------------------------------------------------------

    async def _served(self, card: discovery.ModelCard, routes: discovery.Routes | None) -> dict[str, bool]:
        """Which routes are there."""
        if routes is not None:
            return {path: path in routes for path in (COMPLETIONS, CHAT, EMBEDDINGS, *RERANKS)}
        return {path: await self._answers(path, card) for path in (COMPLETIONS, CHAT, EMBEDDINGS, RERANKS[0])}

    async def _version(self, routes: discovery.Routes | None) -> str | None:
        return None if routes is None else await self._told_version()

    def _features(
        self, card: discovery.ModelCard, routes: discovery.Routes | None, generating: list[str]
    ) -> tuple[str, ...]:
        described = [] if routes is None else [path for path in generating if routes.describes(path)]
        found = discovery.features(routes, described) if described else set(PROTOCOL)
        if len(described) < len(generating):
            found &= set(PROTOCOL)  # what one body has is not known of another that is not described
        if routes is None:
            return (*FEATURES, *sorted(found))
        if routes.takes(COMPLETIONS, "response_format"):
            found.add("completion_json_schema")
        if routes.takes(CHAT, "response_format"):
            found.add("json_schema")
        if TOKENIZE in routes:
            found.add("tokenize")
            if card.max_model_len is not None:
                found.add("rest_of_context")
        return (*FEATURES, *sorted(found - {"grammar", "cache_prompt"}))

    async def _limit(self, generation: Generation) -> int | None:
        """The ``max_tokens`` to send: a completion would end after 16 without one."""
        if generation.max_tokens is not None or generation.messages is not None:
            return generation.max_tokens
        context = (await self._model()).max_model_len
        tokens = await self.count_tokens(generation) if context is not None else None
        if context is None or tokens is None:
            text = "max_tokens: a server of this protocol stops after 16 tokens and does not tell its context; set it"
            raise EngineError(Failure.INVALID, text)
        return max(1, context - tokens)

    async def _more(self, generation: Generation) -> dict[str, Any]:
        """Fields that depend on the server: a seed goes to one that takes it, or does not say what it takes."""
        path = COMPLETIONS if generation.messages is None else CHAT
        routes = await self._list_routes()
        unknown = routes is None or not routes.describes(path)
        return {"seed": generation.seed} if unknown or (routes is not None and routes.takes(path, "seed")) else {}

    # --- inside -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _stream(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        card = await self._model()
        limit, more = await self._limit(generation), await self._more(generation)
        path, body = request(self.engine, generation, model=card.id, max_tokens=limit, more=more)
        if generation.asked is not None:
            generation.asked(body.settings)
        reader = OpenAiReader(self.refusals.stream_error)
        name = generation.correlation_id
        async with self._http.stream(self._endpoint, path, body.whole, self._refusal, request_id=name) as stream:
            yield Batches(stream, reader)

    @asynccontextmanager
    async def _results(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        card, path = await self._model(), EMBEDDINGS
        if generation.workload is Workload.RERANK:
            routes = await self._list_routes()
            path = (None if routes is None else routes.rerank) or RERANKS[0]
        async with results(
            self._http, self._endpoint, path, generation, refusal=self._refusal, model=card.id, named=True
        ) as batches:
            yield batches

    def _refusal(self, status: int, body: bytes) -> EngineError:
        """What a refusal means. One that is "not found" may mean another model than before: it is asked for anew."""
        if status == 404:
            self._card, self._listed = None, False
        return self.refusals.refusal(status, body)

    async def _model(self) -> discovery.ModelCard:
        """The model to ask for."""
        if self._card is None:
            listed = await self._http.get(self._endpoint, MODELS, discovery.Models, self.refusals.refusal)
            base_first = self.engine is Engine.VLLM
            self._card = discovery.choose(listed.data, self._wanted, base_first=base_first)
        return self._card

    async def _list_routes(self) -> discovery.Routes | None:
        """The routes that the server lists; None for one that lists none."""
        if not self._listed:
            document = await self._shown(discovery.OPENAPI, dict[str, Any])
            self._routes = None if document is None else discovery.routes_of(document)
            self._listed = True
        return self._routes

    async def _told_version(self) -> str | None:
        said = await self._shown(discovery.VERSION, discovery.Version)
        return None if said is None else said.version

    async def _shown(self, path: str, kind: type[Answer]) -> Answer | None:
        """What a server may say beside the protocol. A gateway may show it to nobody: that makes the key no wrong one.

        Whether the key is right, the models have told.
        """
        try:
            return await optional(self._http.get(self._endpoint, path, kind, self.refusals.refusal))
        except EngineError as error:
            if error.failure is not Failure.UNAUTHORIZED:
                raise
            return None

    async def _count(self, generation: Generation) -> int:
        """The tokens of a chat, of a prompt, or of the longest input."""
        if generation.messages is not None:
            return await self._tokens(generation, None)
        query = 0
        if generation.inputs is not None and generation.prompt is not None:
            query = await self._tokens(generation, generation.prompt)
        texts = (generation.prompt or "",) if generation.inputs is None else generation.inputs
        return query + max([await self._tokens(generation, text) for text in texts], default=0)

    async def _tokens(self, generation: Generation, text: str | None) -> int:
        body = tokenize_body(generation, text, (await self._model()).id)
        refusal = self.refusals.refusal
        return (await self._http.post(self._endpoint, TOKENIZE, body, discovery.Counted, refusal)).count

    async def _answers(self, path: str, card: discovery.ModelCard) -> bool:
        """Whether a route is there, by what it says to a request that lacks its text."""
        body = msgspec.json.encode({"model": card.id, "max_tokens": 1})
        try:
            await self._http.post(self._endpoint, path, body, msgspec.Raw, self.refusals.refusal)
        except EngineError as error:
            if not unsaid(error):
                raise
            return error.status not in {404, 405, 501}
        return True

"""vLLM's OpenAI server.

Decides what differs from any other server of the protocol: it tells its context and counts tokens, so a completion gets
the rest of the context instead of 16 tokens; its health route tells a dead engine; and an older release, which lists
every route whatever its model, is asked for one token, or one input, to see what it serves.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from adapters import openai_discovery as discovery
from adapters import vllm_wire as wire
from adapters.base import EngineError, Generation, Health
from adapters.discovery import optional, unsaid
from adapters.openai import OpenAiAdapter
from adapters.openai_discovery import CHAT, COMPLETIONS, EMBEDDINGS, RERANKS, TOKENIZE
from adapters.prometheus import figure, ratio
from contracts.config import Engine


class VllmAdapter(OpenAiAdapter):
    """One running vLLM server."""

    engine = Engine.VLLM
    refusals = wire.REFUSALS

    async def health(self) -> Health:
        """Refused until it serves, and 503 when its engine has died: it never says that it loads."""
        return Health.OK if await self._http.status(self._endpoint, "/health") == 200 else Health.DOWN

    async def count_tokens(self, generation: Generation) -> int:
        """By the server's tokenizer. Raises EngineError."""
        return await self._count(generation)

    async def busy(self) -> int | None:
        """By what it counts for Prometheus, with what waits in the server itself."""
        said = await optional(self._http.text(self._endpoint, "/metrics", self.refusals.refusal))
        running = None if said is None else figure(said, wire.RUNNING)
        waiting = None if said is None else figure(said, wire.WAITING)
        return None if running is None else running + (waiting or 0)

    async def usage(self) -> float | None:
        """By what it tells Prometheus; of several engines behind one server the fullest counts."""
        said = await optional(self._http.text(self._endpoint, "/metrics", self.refusals.refusal))
        return None if said is None else ratio(said, wire.CACHE_USAGE)

    async def _served(self, card: discovery.ModelCard, routes: discovery.Routes | None) -> dict[str, bool]:
        if wire.lists_what_it_serves(routes):
            served = await super()._served(card, routes)
        else:
            served = {path: await self._works(path, body) for path, body in _probes(card.id).items()}
        served[CHAT] = (routes is None or CHAT in routes) and served.get(COMPLETIONS, False) and await self._templates()
        return served

    async def _version(self, _routes: discovery.Routes | None) -> str | None:
        return await self._told_version()

    def _features(
        self, _card: discovery.ModelCard, routes: discovery.Routes | None, generating: list[str]
    ) -> tuple[str, ...]:
        return (*wire.FEATURES, *sorted(discovery.features(routes, generating) - set(wire.FEATURES)))

    async def _more(self, generation: Generation) -> dict[str, Any]:
        asked = generation.sampling.grammar is not None or not generation.cache_prompt
        routes = await self._list_routes() if asked else None
        return wire.more(generation, routes, secrets.token_hex(16))

    async def _works(self, path: str, body: bytes) -> bool:
        """Whether a small request is answered."""
        asked = self._http.post(self._endpoint, path, body, msgspec.Raw, self.refusals.refusal)
        return await optional(asked) is not None

    async def _templates(self) -> bool:
        """Whether the model has a chat template: tokenizing a chat needs one, and computes nothing."""
        body = {"model": (await self._model()).id, "messages": [{"role": "user", "content": "a"}]}
        asked = self._http.post(self._endpoint, TOKENIZE, msgspec.json.encode(body), msgspec.Raw, self.refusals.refusal)
        try:
            await asked
        except EngineError as error:
            if not unsaid(error):
                raise
            return error.status in {404, 405}  # no such route: then the chat's own tells what there is to know
        return True


def _probes(model: str) -> dict[str, bytes]:
    """The smallest requests that show whether a route works: one token, one input."""
    encode = msgspec.json.encode
    return {
        COMPLETIONS: encode({"model": model, "prompt": "a", "max_tokens": 1}),
        EMBEDDINGS: encode({"model": model, "input": ["a"]}),
        RERANKS[0]: encode({"model": model, "query": "a", "documents": ["a"]}),
    }

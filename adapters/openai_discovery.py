"""What an OpenAI-compatible server says of itself: its models, and the routes of its OpenAPI document.

Decides which model is asked for, which workloads the routes make, and which features the fields of their bodies show.
Never asks a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from adapters.base import EngineError, Failure
from contracts.tasks import Workload

MODELS = "/v1/models"
OPENAPI = "/openapi.json"
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
RERANKS = ("/v1/rerank", "/v2/rerank", "/rerank")
TOKENIZE = "/tokenize"
VERSION = "/version"
SHOWN_MODELS = 8

_BODY_FEATURES = {
    "seed": "seed",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "response_format": "json_schema",
    "structured_outputs": "grammar",
    "guided_grammar": "grammar",
    "cache_salt": "cache_prompt",
}
"""Fields of a body, and the feature that each shows."""


class ModelCard(msgspec.Struct, frozen=True):
    """One model of ``GET /v1/models``; ``parent`` is that of an adapter's (LoRA) base, the length vLLM's."""

    id: str
    max_model_len: int | None = None
    parent: str | None = None


class Models(msgspec.Struct, frozen=True):
    """``GET /v1/models``."""

    data: list[ModelCard] = []


class Version(msgspec.Struct, frozen=True):
    """``GET /version``."""

    version: str | None = None


class Counted(msgspec.Struct, frozen=True):
    """``POST /tokenize``."""

    count: int


class Routes(msgspec.Struct, frozen=True):
    """The routes that a server lists, with the fields of each one's body."""

    bodies: Mapping[str, frozenset[str]]

    def __contains__(self, path: object) -> bool:
        return path in self.bodies

    @property
    def rerank(self) -> str | None:
        """The route for scores."""
        return next((path for path in RERANKS if path in self.bodies), None)

    def takes(self, path: str, field: str) -> bool:
        """Whether a route's body has a field."""
        return field in self.bodies.get(path, ())

    def describes(self, path: str) -> bool:
        """Whether anything is said of a route's body."""
        return bool(self.bodies.get(path))


def choose(models: Sequence[ModelCard], wanted: str | None, *, base_first: bool) -> ModelCard:
    """The model to ask for: the one that is wanted, else the only one.

    ``base_first``: a server of one model, which lists its other names and its adapters behind it (vLLM). Raises
    EngineError (invalid) where it stays open which one is meant.
    """
    named = [card for card in models if card.id == wanted]
    bases = [card for card in models if card.parent is None]
    if named:
        return named[0]
    if bases and (base_first or len(models) == 1):
        return bases[0]
    if not models:
        raise EngineError(Failure.PROTOCOL, f"{MODELS} lists no model")
    names = ", ".join(card.id for card in models[:SHOWN_MODELS]) + (", ..." if len(models) > SHOWN_MODELS else "")
    text = f"the server has no model {wanted!r} and several others: set the pool's model to one of {names}"
    raise EngineError(Failure.INVALID, text)


def routes_of(document: object) -> Routes:
    """The POST routes of an OpenAPI document; what is not there, or not as it should be, is left out."""
    found = {}
    for path, item in _mapping(_mapping(document).get("paths")).items():
        post = _mapping(item).get("post")
        if isinstance(path, str) and isinstance(post, Mapping):
            found[path] = _fields(document, post)
    return Routes(found)


def features(routes: Routes | None, generating: Sequence[str]) -> set[str]:
    """What the bodies of all these generating routes have; nothing where the server lists none."""
    if routes is None or not generating:
        return set()
    shared = frozenset.intersection(*(routes.bodies.get(path, frozenset()) for path in generating))
    return {feature for field, feature in _BODY_FEATURES.items() if field in shared}


def workloads(paths: Mapping[str, bool]) -> tuple[Workload, ...]:
    """The workloads of the routes that are served."""
    served = {path for path, there in paths.items() if there}
    kinds = {Workload.COMPLETION: {COMPLETIONS}, Workload.CHAT: {CHAT}, Workload.EMBEDDING: {EMBEDDINGS}}
    kinds[Workload.RERANK] = set(RERANKS)
    return tuple(kind for kind, routes in kinds.items() if routes & served)


def _fields(document: object, post: Mapping[Any, Any]) -> frozenset[str]:
    """The names of the fields that a route's JSON body has."""
    content = _mapping(_mapping(post.get("requestBody")).get("content"))
    schema = _mapping(_mapping(content.get("application/json")).get("schema"))
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/components/schemas/"):
        schemas = _mapping(_mapping(_mapping(document).get("components")).get("schemas"))
        schema = _mapping(schemas.get(reference.rpartition("/")[2]))
    return frozenset(name for name in _mapping(schema.get("properties")) if isinstance(name, str))


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}

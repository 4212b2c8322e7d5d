"""The protocol every adapter keeps, and the values that pass through it.

Decides the vocabulary only. An adapter's stream yields one ``Batch`` per engine read, so that the relay can write all
of them in one call; it never yields after ``finished``, and raises ``EngineError`` for everything that is no good end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from contracts.events import FinishReason
from contracts.tasks import ChatMessage, Sampling, Workload


class Failure(StrEnum):
    """The one taxonomy into which every engine's errors are mapped."""

    REFUSED = "refused"
    """Nobody listens at the endpoint: not started, crashed, or gone."""
    LOADING = "loading"
    """The engine is up but not ready to serve."""
    OVERLOADED = "overloaded"
    INVALID = "invalid"
    """The engine refuses the request itself; sending it again would not help."""
    CONTEXT = "context"
    """Prompt and answer do not fit into the context."""
    UNAUTHORIZED = "unauthorized"
    BROKEN = "broken"
    """The stream ended without its final event, or the engine reported a failure inside it."""
    PROTOCOL = "protocol"
    """The engine said something that is not its documented wire format."""
    TIMEOUT = "timeout"


class EngineError(Exception):
    """A failure of an engine, in our words. ``message`` holds no secret."""

    def __init__(self, failure: Failure, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.status = status


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work to ask an engine for.

    A completion has ``prompt``, a chat ``messages``, an embedding ``inputs``, and a rerank the query as ``prompt`` and
    the documents as ``inputs``. Each input's embedding or score is one text of the stream, in the order of the inputs:
    the JSON object ``{"index":0,"embedding":[...]}`` or ``{"index":0,"score":0.9}``.
    """

    workload: Workload = Workload.COMPLETION
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    inputs: tuple[str, ...] | None = None
    max_tokens: int | None = None
    seed: int = 0
    sampling: Sampling = Sampling()
    further: Mapping[str, Any] = NOTHING
    """What else decides how tokens are drawn, under the engine's own names: of the sampler profile."""
    cache_prompt: bool = True
    """Whether the engine may reuse its prompt cache; strict determinism forbids it."""
    correlation_id: str | None = None
    """Of the request that caused it, for an engine that takes one."""
    slot: int | None = None
    """Which of its slots is to run it, for an engine that can be told; None leaves the choice to it."""
    asked: Callable[[bytes], None] | None = None
    """Told what the engine is asked for, right before: the body's ``settings`` (``adapters.body``), once."""

    @property
    def kind(self) -> Workload:
        """The workload; messages make a completion a chat."""
        chat = self.messages is not None and self.workload is Workload.COMPLETION
        return Workload.CHAT if chat else self.workload


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's own account of a generation that ended well; None where the engine does not say."""

    reason: FinishReason
    tokens_in: int | None = None
    tokens_out: int | None = None
    cached_tokens: int | None = None
    decode_ms: float | None = None


class Batch(msgspec.Struct, frozen=True):
    """Everything that one read from the engine brought: pieces of text in order, and the end if it came."""

    texts: list[str]
    finished: Finished | None = None


class Props(msgspec.Struct, frozen=True, kw_only=True):
    """What a running engine says of itself; None where it does not say."""

    engine_version: str | None = None
    ctx_max: int | None = None
    slots: int | None = None
    workloads: tuple[Workload, ...] = ()
    """What this running engine, with the model it has, was found to serve."""
    features: tuple[str, ...] = ()


class Health(StrEnum):
    """What a look at an engine shows."""

    OK = "ok"
    LOADING = "loading"
    DOWN = "down"


class Adapter(Protocol):
    """One running engine."""

    async def health(self) -> Health:
        """Whether the engine serves right now; never raises for an engine that is down."""

    async def props(self) -> Props:
        """What the engine says of itself, asked anew. Raises EngineError.

        What it does not say, or has no route for, is None or missing; nothing is assumed in its place.
        """

    async def count_tokens(self, generation: Generation) -> int | None:
        """How many tokens the prompt has, by the engine's own tokenizer; None where it has none to ask.

        Of several inputs the longest counts, and of a rerank the longest pair. Raises EngineError.
        """

    async def model(self) -> str | None:
        """Which model it serves, asked anew; None where it does not say, or where every request names its model.

        Raises EngineError.
        """

    async def busy(self) -> int | None:
        """How many generations it works on right now, by its own word; None where it cannot tell. Raises EngineError.

        Those of others count too, where others use it.
        """

    async def usage(self) -> float | None:
        """How full its KV cache is, from 0 to 1, by its own word; None where it cannot tell. Raises EngineError."""

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """Start a generation; leaving the context is the cancel, and closes the connection at once.

        Entering returns when the engine has accepted the request. Both entering and iterating raise EngineError.
        """

    async def erase(self, slot: int) -> None:
        """Have an idle slot forget the cache that it has; nothing to do where slots cannot be chosen.

        Raises EngineError.
        """

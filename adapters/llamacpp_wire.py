"""What llama-server reads and writes.

Decides how a generation is asked for, how its events are read, and what its refusals mean and tell of the server. Every
field of a request is mapped by name, here or in ``parameters``. Never touches a socket.

Completions go to ``/completion``. Chats go to ``/v1/chat/completions`` rather than through ``/apply-template`` and
``/completion``: it costs one request instead of two, and only that route adds what a model's template needs besides its
text (further stop words, tokens that must stay visible). ``reasoning_format: none`` keeps everything that the model
writes in the text, since a stream of ours has one text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from adapters.body import Body, as_it_is, body_of
from adapters.openai_wire import UNREADABLE, ErrorDetail, Timings, as_detail, malformed
from adapters.parameters import fields
from adapters.refusals import BY_STATUS, Refusals
from contracts.config import Engine
from contracts.events import FinishReason
from contracts.tasks import Sampling, Workload

COMPLETION = "/completion"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
RESULT_PATHS = {Workload.EMBEDDING: EMBEDDINGS, Workload.RERANK: RERANK}
PROBED = (COMPLETION, EMBEDDINGS, RERANK)
"""The routes that are asked with an empty body whether they are served."""
INPUTS_PER_REQUEST = 8
"""While results come, the server does not look whether anybody waits for them: it finishes what it was sent."""
FEATURES = ("seed", "stop", "json_schema", "grammar", "tokenize", "cache_prompt", "cancel_on_close")

_encode = msgspec.json.Encoder().encode


class PropsAnswer(msgspec.Struct, frozen=True):
    """``GET /props``."""

    class Defaults(msgspec.Struct, frozen=True):
        """The default settings of a slot."""

        n_ctx: int | None = None

    build_info: str | None = None
    total_slots: int | None = None
    model_path: str | None = None
    default_generation_settings: Defaults = Defaults()


class Slot(msgspec.Struct, frozen=True):
    """One entry of ``/slots``."""

    is_processing: bool
    n_ctx: int = 0
    n_prompt_tokens: int | None = None
    """What it holds, of the task that it had last; a slot that had none does not say, nor does an older release."""
    id_task: int | None = None


PROCESSING = ("llamacpp:requests_processing",)
"""What ``/metrics`` calls its busy slots."""


def busy_slots(said: str) -> int | None:
    """How many of its slots work; None for something else than documented."""
    try:
        return sum(slot.is_processing for slot in msgspec.json.decode(said, type=list[Slot]))
    except UNREADABLE:
        return None


CACHE_USAGE = ("llamacpp:kv_cache_usage_ratio",)
"""What ``/metrics`` of older releases calls it."""


def cache_usage(said: str) -> float | None:
    """How full its slots are, from 0 to 1; None where they do not say, or say what cannot be."""
    try:
        slots = msgspec.json.decode(said, type=list[Slot])
    except UNREADABLE:
        return None
    if any(slot.id_task is not None and slot.n_prompt_tokens is None for slot in slots):
        return None
    room, held = sum(slot.n_ctx for slot in slots), sum(slot.n_prompt_tokens or 0 for slot in slots)
    return held / room if room > 0 and 0 <= held <= room else None


class Tokens(msgspec.Struct, frozen=True):
    """``POST /tokenize``."""

    tokens: list[int]


class Templated(msgspec.Struct, frozen=True):
    """``POST /apply-template``."""

    prompt: str


class Erased(msgspec.Struct, frozen=True):
    """``POST /slots/{id}?action=erase``."""

    n_erased: int | None = None


class CompletionEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of ``/completion``: the fields that every one of them is looked at for."""

    content: str = ""
    stop: bool = False
    error: ErrorDetail | str | None = None


class FinalEvent(msgspec.Struct, frozen=True):
    """The rest of the event with ``stop: true``."""

    stop_type: str = ""
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    timings: Timings = Timings()


_completion_event = msgspec.json.Decoder(CompletionEvent)
_final_event = msgspec.json.Decoder(FinalEvent)


# --- asking -----------------------------------------------------------------------------------------------------------


def request(generation: Generation) -> tuple[str, Body]:
    """The path and the body that start a generation. Raises EngineError (invalid)."""
    body: dict[str, Any] = {"stream": True, "seed": generation.seed, "cache_prompt": generation.cache_prompt}
    body |= fields(Engine.LLAMACPP, generation) | _bounds(generation.sampling)
    if generation.slot is not None:
        body["id_slot"] = generation.slot
    if generation.messages is None:
        if generation.max_tokens is not None:
            body["n_predict"] = generation.max_tokens
        return COMPLETION, body_of(body, {"prompt": generation.prompt or ""})
    if generation.max_tokens is not None:
        body["max_tokens"] = generation.max_tokens
    body |= {"stream_options": {"include_usage": True}, "reasoning_format": "none"}
    return CHAT, body_of(body, {"messages": generation.messages})


def served(refusals: Mapping[str, EngineError | None]) -> tuple[Workload, ...]:
    """The workloads, from how each route of ``PROBED`` refuses an empty body.

    A server with a ranking head gives embeddings that mean nothing, and one without a pooling none at all.
    """
    open_routes = {path for path, error in refusals.items() if error is None or not _unserved(error)}
    found = [Workload.COMPLETION, Workload.CHAT] if COMPLETION in open_routes else []
    if RERANK in open_routes:
        return (*found, Workload.RERANK)
    return (*found, Workload.EMBEDDING) if EMBEDDINGS in open_routes else tuple(found)


def _unserved(error: EngineError) -> bool:
    return error.status in {404, 405, 501} or "not support" in error.message or "Pooling type" in error.message


def erase_path(slot: int) -> str:
    """Where a slot is told to forget its cache; the server serves it only with ``--slot-save-path``."""
    return f"/slots/{slot}?action=erase"


def overwriting(slot: int) -> Generation:
    """The smallest generation in a slot, which leaves two tokens where the cache was."""
    return Generation(prompt=" ", max_tokens=1, cache_prompt=False, slot=slot)


def tokenize_body(prompt: str) -> bytes:
    """The body of ``/tokenize``, counting as ``/completion`` does."""
    return _encode({"content": prompt, "add_special": True, "parse_special": True})


def _bounds(sampling: Sampling) -> dict[str, Any]:
    """What binds the output."""
    schema = None if sampling.json_schema is None else as_it_is(sampling.json_schema)
    bounds = {"json_schema": schema, "grammar": sampling.grammar}
    return {name: value for name, value in bounds.items() if value is not None}


# --- reading ----------------------------------------------------------------------------------------------------------


class CompletionReader:
    """Reads one ``/completion`` stream, whose last event has ``stop: true``."""

    def __init__(self) -> None:
        self.failure: EngineError | None = None

    def batch(self, events: list[bytes]) -> Batch:
        """What one read brought, up to a failure."""
        texts: list[str] = []
        try:
            for data in events:
                event = _completion_event.decode(data)
                if event.error is not None:
                    self.failure = stream_error(as_detail(event.error))
                    break
                if event.content:
                    texts.append(event.content)
                if event.stop:
                    return Batch(texts, _finished(_final_event.decode(data)))
        except UNREADABLE as error:
            self.failure = malformed(error)
        return Batch(texts)

    def at_end(self) -> Finished | None:
        """A stream that closes without its final event was cut off."""
        return None


def _finished(event: FinalEvent) -> Finished:
    return Finished(
        reason=FinishReason.LENGTH if event.stop_type == "limit" else FinishReason.STOP,
        tokens_in=event.tokens_evaluated,
        tokens_out=event.tokens_predicted,
        cached_tokens=event.timings.cache_n,
        decode_ms=event.timings.predicted_ms,
    )


# --- refusals ---------------------------------------------------------------------------------------------------------

REFUSALS = Refusals(
    by_type={
        "exceed_context_size_error": Failure.CONTEXT,
        "unavailable_error": Failure.LOADING,
        "authentication_error": Failure.UNAUTHORIZED,
        "permission_error": Failure.UNAUTHORIZED,
        "invalid_request_error": Failure.INVALID,
        "not_supported_error": Failure.INVALID,
        "not_found_error": Failure.PROTOCOL,
    },
    by_words={
        "context size has been exceeded": Failure.CONTEXT,  # in a stream, when the context fills up meanwhile
        "is too large to process": Failure.CONTEXT,  # an input to embed, over the physical batch: a status of 500
        "parse error": Failure.INVALID,  # a status of 500 in older builds
        "[json.exception": Failure.INVALID,
    },
    by_status={**BY_STATUS, 503: Failure.LOADING},
)
refusal = REFUSALS.refusal
stream_error = REFUSALS.stream_error

"""What llama-server reads and writes.

Decides how a generation is asked for, how its events are read, and what its refusals mean. Every field of a request is
mapped here by name; a field that llama-server does not know does not exist in ``Generation``. Never touches a socket.

Completions go to ``/completion``. Chats go to ``/v1/chat/completions`` rather than through ``/apply-template`` and
``/completion``: it costs one request instead of two, and only that route adds what a model's template needs besides its
text (further stop words, tokens that must stay visible). ``reasoning_format: none`` keeps everything that the model
writes in the text, since a stream of ours has one text.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from adapters.openai_wire import UNREADABLE, ErrorDetail, Timings, as_detail, error_detail, malformed, message_of
from contracts.events import FinishReason
from contracts.tasks import Sampling

COMPLETION = "/completion"
CHAT = "/v1/chat/completions"

_encode = msgspec.json.Encoder().encode


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


def request(generation: Generation) -> tuple[str, bytes]:
    """The path and the body that start a generation. Raises EngineError (invalid)."""
    body: dict[str, Any] = {"stream": True, "seed": generation.seed, "cache_prompt": generation.cache_prompt}
    body |= _sampling(generation.sampling)
    if generation.messages is None:
        if generation.max_tokens is not None:
            body["n_predict"] = generation.max_tokens
        return COMPLETION, _encode(body | {"prompt": generation.prompt or ""})
    if generation.max_tokens is not None:
        body["max_tokens"] = generation.max_tokens
    body |= {"stream_options": {"include_usage": True}, "reasoning_format": "none"}
    return CHAT, _encode(body | {"messages": generation.messages})


def tokenize_body(prompt: str) -> bytes:
    """The body of ``/tokenize``, counting as ``/completion`` does."""
    return _encode({"content": prompt, "add_special": True, "parse_special": True})


def _sampling(sampling: Sampling) -> dict[str, Any]:
    if sampling.json_schema is not None and sampling.grammar is not None:
        # /completion would silently drop the schema.
        raise EngineError(Failure.INVALID, "json_schema and grammar exclude each other")
    numbers = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
    }
    body: dict[str, Any] = {name: value for name, value in numbers.items() if value is not UNSET}
    if sampling.stop:
        body["stop"] = sampling.stop
    if sampling.json_schema is not None:
        body["json_schema"] = sampling.json_schema
    if sampling.grammar is not None:
        body["grammar"] = sampling.grammar
    return body


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

_BY_TYPE = {
    "exceed_context_size_error": Failure.CONTEXT,
    "unavailable_error": Failure.LOADING,
    "authentication_error": Failure.UNAUTHORIZED,
    "permission_error": Failure.UNAUTHORIZED,
    "invalid_request_error": Failure.INVALID,
    "not_supported_error": Failure.INVALID,
    "not_found_error": Failure.PROTOCOL,
}
_BY_STATUS = {
    400: Failure.INVALID,
    401: Failure.UNAUTHORIZED,
    403: Failure.UNAUTHORIZED,
    404: Failure.PROTOCOL,
    413: Failure.INVALID,
    422: Failure.INVALID,
    429: Failure.OVERLOADED,
    503: Failure.LOADING,
}
_BY_WORDS = {
    "context size has been exceeded": Failure.CONTEXT,  # in a stream, when the context fills up meanwhile
    "parse error": Failure.INVALID,  # a status of 500 in older builds
    "[json.exception": Failure.INVALID,
}


def refusal(status: int, body: bytes) -> EngineError:
    """What an answer with another status than 200 means."""
    return _error(error_detail(body), status)


def stream_error(detail: ErrorDetail) -> EngineError:
    """What an error event inside a stream means: the engine broke, where it does not say more."""
    return _error(detail, detail.code if isinstance(detail.code, int) else 500)


def _error(detail: ErrorDetail, status: int) -> EngineError:
    message = message_of(detail, status)
    words = message.lower()
    failure = (
        _BY_TYPE.get(detail.type or "")
        or next((known for phrase, known in _BY_WORDS.items() if phrase in words), None)
        or _BY_STATUS.get(status, Failure.BROKEN)
    )
    if detail.n_prompt_tokens is not None and detail.n_ctx is not None:
        message = f"the prompt has {detail.n_prompt_tokens} tokens and the context holds {detail.n_ctx}"
    return EngineError(failure, f"the engine answered: {message}", status=status)

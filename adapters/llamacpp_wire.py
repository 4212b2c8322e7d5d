"""What llama-server reads and writes.

Decides how a generation is asked for, how its events are read, and what its refusals mean. Every field of a request is
mapped here by name; a field that llama-server does not know does not exist in ``Generation``. Never touches a socket.

Completions go to ``/completion``, chats to ``/v1/chat/completions``, where the server applies the model's own template;
``reasoning_format: none`` keeps everything that the model writes in the text, since a stream of ours has one text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from contracts.events import FinishReason
from contracts.tasks import Sampling

COMPLETION = "/completion"
CHAT = "/v1/chat/completions"
DONE = b"[DONE]"

Reader = Callable[[list[bytes]], Batch]
"""Turns the events of one read into what they mean."""

_encode = msgspec.json.Encoder().encode


class Timings(msgspec.Struct, frozen=True):
    """The server's own measurement."""

    cache_n: int = 0
    predicted_ms: float | None = None


class CompletionEvent(msgspec.Struct, frozen=True):
    """One event of ``/completion``."""

    content: str = ""
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    timings: Timings | None = None
    error: msgspec.Raw | None = None


class Delta(msgspec.Struct, frozen=True):
    """What a chat event adds. The first has ``content: null``."""

    content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """The one choice of a chat event."""

    delta: Delta = Delta()
    finish_reason: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """The server's count."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class ChatEvent(msgspec.Struct, frozen=True):
    """One event of ``/v1/chat/completions``; the one with ``usage`` has no choices."""

    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    timings: Timings | None = None
    error: msgspec.Raw | None = None


_completion = msgspec.json.Decoder(CompletionEvent)
_chat = msgspec.json.Decoder(ChatEvent)


# --- asking -----------------------------------------------------------------------------------------------------------


def request(generation: Generation) -> tuple[str, bytes]:
    """The path and the body that start a generation."""
    if generation.messages is None:
        body = _common(generation) | {"prompt": generation.prompt or ""}
        if generation.max_tokens is not None:
            body["n_predict"] = generation.max_tokens
        return COMPLETION, _encode(body)
    body = _common(generation) | {"messages": generation.messages, "stream_options": {"include_usage": True}}
    body["reasoning_format"] = "none"
    if generation.max_tokens is not None:
        body["max_tokens"] = generation.max_tokens
    return CHAT, _encode(body)


def tokenize_body(prompt: str) -> bytes:
    """The body of ``/tokenize``, counting as ``/completion`` does."""
    return _encode({"content": prompt, "add_special": True, "parse_special": True})


def _common(generation: Generation) -> dict[str, Any]:
    body = {"stream": True, "seed": generation.seed, "cache_prompt": generation.cache_prompt}
    return body | _sampling(generation.sampling)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    named = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
    }
    body: dict[str, Any] = {name: value for name, value in named.items() if value is not UNSET}
    if sampling.stop:
        body["stop"] = sampling.stop
    if sampling.json_schema is not None:
        body["json_schema"] = sampling.json_schema
    if sampling.grammar is not None:
        body["grammar"] = sampling.grammar
    return body


# --- reading ----------------------------------------------------------------------------------------------------------


def completion_batch(events: list[bytes]) -> Batch:
    """What one read of a ``/completion`` stream brought. Raises EngineError."""
    texts: list[str] = []
    try:
        for data in events:
            event = _completion.decode(data)
            if event.content:
                texts.append(event.content)
            if event.stop:
                return Batch(texts, _finished(event))
            if event.error is not None:
                raise stream_error(event.error)
    except msgspec.DecodeError as error:
        raise _malformed(error) from error
    return Batch(texts)


def _finished(event: CompletionEvent) -> Finished:
    timings = event.timings or Timings()
    return Finished(
        reason=FinishReason.LENGTH if event.stop_type == "limit" else FinishReason.STOP,
        tokens_in=event.tokens_evaluated,
        tokens_out=event.tokens_predicted,
        cached_tokens=timings.cache_n,
        decode_ms=timings.predicted_ms,
    )


class ChatReader:
    """Reads one chat stream; its end is spread over three events: the reason, the usage, and ``[DONE]``."""

    def __init__(self) -> None:
        self._reason: FinishReason | None = None
        self._usage = Usage()
        self._timings = Timings()

    def batch(self, events: list[bytes]) -> Batch:
        """What one read brought. Raises EngineError."""
        texts: list[str] = []
        try:
            for data in events:
                if data == DONE:
                    return Batch(texts, self._end())
                self._take(_chat.decode(data), texts)
        except msgspec.DecodeError as error:
            raise _malformed(error) from error
        return Batch(texts)

    def _take(self, event: ChatEvent, texts: list[str]) -> None:
        if event.error is not None:
            raise stream_error(event.error)
        for choice in event.choices:
            if choice.delta.content:
                texts.append(choice.delta.content)
            if choice.finish_reason is not None:
                self._reason = FinishReason.LENGTH if choice.finish_reason == "length" else FinishReason.STOP
        self._usage = event.usage or self._usage
        self._timings = event.timings or self._timings

    def _end(self) -> Finished:
        if self._reason is None:  # [DONE] alone is no success: an error can stand before it
            raise EngineError(Failure.BROKEN, "the engine's stream ended without a reason")
        return Finished(
            reason=self._reason,
            tokens_in=self._usage.prompt_tokens,
            tokens_out=self._usage.completion_tokens,
            cached_tokens=self._timings.cache_n,
            decode_ms=self._timings.predicted_ms,
        )


# --- refusals ---------------------------------------------------------------------------------------------------------


class ErrorDetail(msgspec.Struct, frozen=True):
    """The ``error`` member; llama-server's ``type`` tells more than its status."""

    message: str = ""
    type: str = ""
    code: int | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of a refusal. Some servers put a bare string there."""

    error: ErrorDetail | str = ""


_BY_TYPE = {
    "exceed_context_size_error": Failure.CONTEXT,
    "unavailable_error": Failure.LOADING,
    "authentication_error": Failure.UNAUTHORIZED,
    "invalid_request_error": Failure.INVALID,
    "not_supported_error": Failure.INVALID,
    "not_found_error": Failure.PROTOCOL,
}
_BY_STATUS = {400: Failure.INVALID, 401: Failure.UNAUTHORIZED, 403: Failure.UNAUTHORIZED, 503: Failure.LOADING}


def refusal(status: int, body: bytes) -> EngineError:
    """What an answer with another status than 200 means."""
    try:
        answer = msgspec.json.decode(body, type=ErrorAnswer).error
    except msgspec.DecodeError:
        answer = ""
    detail = ErrorDetail(message=answer) if isinstance(answer, str) else answer
    return _error(detail, status)


def stream_error(raw: msgspec.Raw) -> EngineError:
    """What an error event inside a stream means; a failure of the engine where it does not say more."""
    try:
        answer = msgspec.json.decode(raw, type=ErrorDetail | str)
    except msgspec.DecodeError:
        answer = ""
    detail = ErrorDetail(message=answer) if isinstance(answer, str) else answer
    return _error(detail, detail.code or 500, unknown=Failure.BROKEN)


def _error(detail: ErrorDetail, status: int, unknown: Failure = Failure.BROKEN) -> EngineError:
    failure = _BY_TYPE.get(detail.type) or _BY_STATUS.get(status, unknown)
    message = re.sub(r"\s+", " ", detail.message).strip() or f"status {status}"
    if failure is Failure.CONTEXT and detail.n_prompt_tokens is not None:
        message = f"the prompt has {detail.n_prompt_tokens} tokens and the context holds {detail.n_ctx}"
    return EngineError(failure, f"the engine answered: {message}", status=status)


def _malformed(error: msgspec.DecodeError) -> EngineError:
    return EngineError(Failure.PROTOCOL, f"an event that is not llama-server's: {error}")

"""The part of the OpenAI wire format that engines share: chat events, and the many shapes of an error.

Decides how a chat stream is read and what an error body says. What an engine's own words in it mean is that engine's
module's to decide. Never touches a socket.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from adapters.base import Batch, EngineError, Failure, Finished
from contracts.events import FinishReason

DONE = b"[DONE]"
MAX_MESSAGE = 500
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that the decoder raises for bytes that are not what they should be."""


class Timings(msgspec.Struct, frozen=True):
    """The server's own measurement (llama-server's, which stands beside the usage)."""

    cache_n: int | None = None
    predicted_ms: float | None = None


class ErrorDetail(msgspec.Struct, frozen=True):
    """The ``error`` member. ``type`` tells more than a status; the counts are llama-server's."""

    message: str | None = None
    type: str | None = None
    code: int | str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What a chat event adds. The first one has ``content: null``."""

    content: str | None = None


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The one choice of a chat event."""

    delta: Delta = Delta()
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct, frozen=True):
    """What of the prompt was not computed anew."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """The server's count."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


class ChatEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of ``/v1/chat/completions``; the one with ``usage`` has no choices."""

    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    timings: Timings | None = None
    error: ErrorDetail | str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of a refusal: a detail, or a bare string as vLLM's 401 has it, or FastAPI's ``detail``."""

    error: ErrorDetail | str | None = None
    detail: str | None = None


_chat_event = msgspec.json.Decoder(ChatEvent)
_error_answer = msgspec.json.Decoder(ErrorAnswer)

StreamError = Callable[[ErrorDetail], EngineError]
"""Turns an error event into our words."""


class ChatReader:
    """Reads one chat stream; its end is spread over the reason, the usage, and ``[DONE]``."""

    def __init__(self, stream_error: StreamError) -> None:
        self.failure: EngineError | None = None
        self._stream_error = stream_error
        self._reason: FinishReason | None = None
        self._usage = Usage()
        self._timings = Timings()

    def batch(self, events: list[bytes]) -> Batch:
        """What one read brought, up to a failure."""
        texts: list[str] = []
        try:
            for data in events:
                if data == DONE:
                    return Batch(texts, self._end())
                self._take(_chat_event.decode(data), texts)
        except UNREADABLE as error:
            self.failure = malformed(error)
        except EngineError as error:
            self.failure = error
        return Batch(texts)

    def at_end(self) -> Finished | None:
        """A stream that closes without ``[DONE]`` was cut off."""
        return None

    def _take(self, event: ChatEvent, texts: list[str]) -> None:
        if event.error is not None:
            raise self._stream_error(as_detail(event.error))
        for choice in event.choices:
            if choice.delta.content:
                texts.append(choice.delta.content)
            if choice.finish_reason is not None:
                self._reason = FinishReason.LENGTH if choice.finish_reason == "length" else FinishReason.STOP
        self._usage = event.usage or self._usage
        self._timings = event.timings or self._timings

    def _end(self) -> Finished:
        if self._reason is None:  # [DONE] alone is no success: vLLM sends it after an error too
            raise EngineError(Failure.BROKEN, "the engine's stream ended without a reason")
        details = self._usage.prompt_tokens_details or PromptDetails()
        return Finished(
            reason=self._reason,
            tokens_in=self._usage.prompt_tokens,
            tokens_out=self._usage.completion_tokens,
            cached_tokens=self._timings.cache_n if details.cached_tokens is None else details.cached_tokens,
            decode_ms=self._timings.predicted_ms,
        )


def as_detail(error: ErrorDetail | str) -> ErrorDetail:
    """An error member, whichever way it is written."""
    return ErrorDetail(message=error) if isinstance(error, str) else error


def error_detail(body: bytes) -> ErrorDetail:
    """What the body of a refusal says, whatever its shape; plain text is its own message."""
    try:
        answer = _error_answer.decode(body)
    except UNREADABLE:
        return ErrorDetail(message=body.decode("utf-8", errors="replace"))
    return as_detail(answer.error or answer.detail or "")


def message_of(detail: ErrorDetail, status: int) -> str:
    """The engine's own words on one line, short enough for a log."""
    text = re.sub(r"\s+", " ", detail.message or "").strip()
    return text[:MAX_MESSAGE] or f"status {status}"


def malformed(error: Exception) -> EngineError:
    """An event that is not what the engine's documentation says."""
    return EngineError(Failure.PROTOCOL, f"the engine sent an event that cannot be read: {error}")

"""The part of the OpenAI wire format that engines share: streams, and the many shapes of an error.

Decides how the stream of a chat or a completion is read and what an error body says. What an engine's own words in it
mean is that engine's module's to decide. Never touches a socket.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from adapters.base import Batch, EngineError, Failure, Finished
from contracts.events import FinishReason

DONE = b"[DONE]"
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that the decoder raises for bytes that are not what they should be."""


class Timings(msgspec.Struct, frozen=True):
    """The server's own measurement (llama-server's, which stands beside the usage)."""

    cache_n: int | None = None
    predicted_ms: float | None = None


class ErrorDetail(msgspec.Struct, frozen=True):
    """The ``error`` member. ``type`` tells more than a status; the counts are llama-server's, the status TGI's."""

    message: str | None = None
    type: str | None = None
    code: int | str | None = None
    http_status_code: int | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What a chat event adds. The first one has ``content: null``.

    A server that parses what a model thinks puts it beside the content, under one of two names. Here it is text like
    any other: a stream of ours has one text, and nothing of it is lost.
    """

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The one choice of an event: a chat's has a ``delta``, a completion's a ``text``."""

    delta: Delta = Delta()
    text: str | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct, frozen=True):
    """What of the prompt was not computed anew."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """The server's count."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event of ``/v1/chat/completions`` or ``/v1/completions``; the one with ``usage`` has no choices."""

    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    timings: Timings | None = None
    error: ErrorDetail | str | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of a refusal: a detail, or a bare string as vLLM's 401 has it, or FastAPI's ``detail``.

    TGI and older servers put the rest of the detail beside the string.
    """

    error: ErrorDetail | str | None = None
    detail: str | None = None
    error_type: str | None = None
    message: str | None = None
    type: str | None = None


_event = msgspec.json.Decoder(Event)
_error_answer = msgspec.json.Decoder(ErrorAnswer)

StreamError = Callable[[ErrorDetail], EngineError]
"""Turns an error event into our words."""


_ABORTED = frozenset({"abort", "error"})
"""Reasons that are no good end: vLLM's, for a generation that it gave up."""


class OpenAiReader:
    """Reads the stream of one chat or completion; its end is spread over the reason, the usage, and ``[DONE]``.

    ``needs_done``: whether a clean end without ``[DONE]`` is a cut, even behind a reason.
    """

    def __init__(self, stream_error: StreamError, *, needs_done: bool = True) -> None:
        self.failure: EngineError | None = None
        self._stream_error = stream_error
        self._needs_done = needs_done
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
                self._take(_event.decode(data), texts)
        except UNREADABLE as error:
            self.failure = malformed(error)
        except EngineError as error:
            self.failure = error
        return Batch(texts)

    def at_end(self) -> Finished | None:
        """A stream that closes without ``[DONE]`` was cut off, where the server is known to send it."""
        return None if self._needs_done or self._reason is None else self._end()

    def _take(self, event: Event, texts: list[str]) -> None:
        if event.error is not None:
            raise self._stream_error(as_detail(event.error))
        for choice in event.choices:
            delta = choice.delta
            if thought := delta.reasoning or delta.reasoning_content:  # the last of it may come with the first word
                texts.append(thought)
            if text := choice.text or delta.content:
                texts.append(text)
            if choice.finish_reason is not None:
                self._reason = _reason(choice.finish_reason)
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


def _reason(said: str) -> FinishReason:
    if said in _ABORTED:
        raise EngineError(Failure.BROKEN, f"the engine gave the generation up: finish_reason {said}")
    return FinishReason.LENGTH if said == "length" else FinishReason.STOP


def as_detail(error: ErrorDetail | str) -> ErrorDetail:
    """An error member, whichever way it is written."""
    return ErrorDetail(message=error) if isinstance(error, str) else error


def error_detail(body: bytes) -> ErrorDetail:
    """What the body of a refusal says, whatever its shape; plain text is its own message."""
    try:
        answer = _error_answer.decode(body)
    except UNREADABLE:
        return ErrorDetail(message=body.decode("utf-8", errors="replace"))
    if isinstance(answer.error, ErrorDetail):
        return answer.error
    text = answer.error or answer.message or answer.detail
    return ErrorDetail(message=text, type=answer.error_type or answer.type)


def message_of(detail: ErrorDetail, status: int) -> str:
    """The engine's own words on one line. How many of them are kept is decided where the key is taken out."""
    return re.sub(r"\s+", " ", detail.message or "").strip() or f"status {status}"


def malformed(error: Exception) -> EngineError:
    """An event that is not what the engine's documentation says."""
    return EngineError(Failure.PROTOCOL, f"the engine sent an event that cannot be read: {error}")

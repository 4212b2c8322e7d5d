"""What a stand-in engine does, and where it goes wrong."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
Span = Annotated[float, Meta(ge=0)]


class Fault(StrEnum):
    """What happens once ``fault_after`` tokens have been sent."""

    NONE = "none"
    CLOSE = "close"
    """The connection ends without a word: the HTTP answer is incomplete."""
    RESET = "reset"
    EXIT = "exit"
    """The process is gone (``os._exit``); in a test's own process never use this."""
    EXIT_ZERO = "exit_zero"
    """The same with status 0, as vLLM ends when its workers died."""
    WORKER = "worker"
    """The process that computes is gone: what the one that serves makes of it is each engine's own."""
    HANG = "hang"
    """Nothing more comes, and the connection stays open."""
    ERROR = "error"
    """An error event and a clean end."""
    ERROR_DONE = "error_done"
    """The same, then ``data: [DONE]``."""
    ERROR_FIELD = "error_field"
    """``error: ...``, as older builds of llama-server wrote it."""
    ERROR_STRING = "error_string"
    """An error event whose error is a string."""
    OVERLOADED = "overloaded"
    """An error event that says that there are too many requests."""
    GARBAGE = "garbage"
    """An event that is no JSON."""
    NOT_UTF8 = "not_utf8"
    """An event in another character set than its protocol's."""
    CUT = "cut"
    """The HTTP answer ends cleanly in the middle of an event."""
    EOF = "eof"
    """The HTTP answer ends cleanly, but no final event came."""
    ONLY_DONE = "only_done"
    """``data: [DONE]`` without any reason before it."""
    HUGE = "huge"
    """One event with ``huge_bytes`` of text, then the stream goes on."""
    TWO_ENDS = "two_ends"
    """The final events come twice."""
    AFTER_END = "after_end"
    """The final events, and then tokens."""
    HEADERS = "headers"
    """Headers without end instead of an answer."""


class HttpError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer instead of a generation."""

    status: int
    body: str
    content_type: str = "application/json; charset=utf-8"


class Knobs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Spans in milliseconds. The defaults are an engine without limits of its own, as fast as it can write."""

    tokens: Count | None = None
    """A generation ends by itself after so many; what the client asks for may end it earlier. Without both it has
    16."""
    heeds_limit: bool = True
    """Whether it ends where the client asked for no more, as not every server of the OpenAI protocol does."""
    words: Annotated[tuple[str, ...], Meta(min_length=1)] = (
        " one",
        " two",
        " drei",
        " vier",
        " пять",
        " 六",
        " 🙂",
        " acht",
    )
    """Token i of seed s is ``words[(s + i) % len(words)]``."""
    token_delay_ms: Span = 0
    gate: str | None = None
    """A file: while it is there, no stream gets further than its first ``gate_after`` tokens."""
    gate_after: Count = 0
    steady: bool = False
    """Each token keeps its own date, however late the one before it was: without it the delays add up."""
    stamped: bool = False
    """Every text is the engine's clock when it was written, ``@<monotonic nanoseconds>;``, instead of a word."""
    first_token_delay_ms: Span = 0
    """What prompt processing takes; the HTTP head comes with the first token, as llama-server does it."""
    tokens_per_write: Annotated[int, Meta(ge=1)] = 64
    close_streams: bool = False
    """Close the connection after a stream although its head promises to keep it, as llama-server does. A proxy that
    believes the promise answers 502 now and then, so who measures one leaves this off."""
    split_every: Annotated[int, Meta(ge=1)] | None = None
    """Every write goes out in pieces of so many bytes."""
    ping_ms: Span | None = None
    """A comment after so much silence; the first one brings the HTTP head with it."""
    fault: Fault = Fault.NONE
    fault_after: Count = 0
    huge_bytes: Count = 8 * 1024 * 1024
    not_sse: bool = False
    """The answer to a generation is a web page."""
    stream_type: str | None = None
    """The content type that a stream claims to have."""
    claims: str | None = None
    """JSON text that stands in the place of every count of tokens."""
    event_fields: str = ""
    """Lines before the data of every event, such as ``id: 7``."""
    http_error: HttpError | None = None
    loading_ms: Span = 0
    """So long after the start the model is being loaded."""
    slots: Annotated[int, Meta(ge=1)] = 1024
    """More requests wait silently, as in the engine."""
    ctx: Annotated[int, Meta(ge=1)] = 1_048_576
    model: str = "standin.gguf"
    build: str = "b0-standin"
    metrics: str | None = None
    """The body of ``/metrics``; None is the engine's usual, and an empty one leaves it without the route."""
    tells: bool = True
    """Triton's model can say how a generation ended and how many tokens it had; one of somebody's own often cannot."""
    serves: tuple[str, ...] = ("completion", "chat")
    """What it was started for: engines embed or rerank instead of generating."""


class Stats(msgspec.Struct):
    """``GET /_stats``: what the engine saw of its clients."""

    connections: int = 0
    requests: int = 0
    """Generations that could be done; a question that only looks for a route has nothing to do."""
    waiting: int = 0
    running: int = 0
    peak: int = 0
    """The most that ran at the same time."""
    completed: int = 0
    cancelled: int = 0
    """The client left before the end."""
    failed: int = 0
    """Ended by a fault."""
    tokens: int = 0


class Times(msgspec.Struct, frozen=True):
    """``GET /_times``: when a generation came, got its slot and left it, in monotonic nanoseconds of this machine."""

    came: int
    began: int
    ended: int

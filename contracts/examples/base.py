"""What an example of the API is: a request, what must be so before it, and the whole answer.

Decides the form in which examples are written and how they stand in the OpenAPI documents. Never decides what an
answer says: a verifier plays every example against the running server and compares.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from contracts.base import Message
from contracts.errors import ERROR_NUMBER, RETRIABLE, ErrorBody, ErrorCode

TASK = "poem-1"
CORRELATION_ID = "8c678526-816c-4bf2-9729-1912a9ecc5c0"
DIGEST = "sha256:a20aab39b2c815fee19fc844c0e2c8ada55bec90da5c2f37b15f4f86d44d84f0"
ENGINE_VERSION = "xllamacpp-2026.10.11549"
EVENT_STREAM = "text/event-stream"
NAMES = {"StreamError": "error"}
"""What an event is called that is not called as its type."""


class Given(StrEnum):
    """What must be so before the request, in the words of the documents."""

    READY = "a pool that serves the model haiku is ready, and nothing waits"
    TASK_ENDED = "the task poem-1 has ended"
    TASK_RUNS = "the task poem-1 is running"
    ENGINE_DIES = "the engine dies after two tokens"
    ENGINE_HANGS = "the engine falls silent after two tokens, and timeouts.idle_ms of its pool is 300"
    ENGINE_OVERLOADED = "the engine says that it is overloaded"
    SOMEBODY_CANCELS = "another client cancels the task after two tokens"
    QUEUE_FULL = "the queue of the pool is full, and its policy is reject"
    QUEUE_FULL_DROP_LRU = "the queue of the pool is full of interactive tasks, and its policy is drop-lru"
    QUEUE_LONG = "another task has the only slot for the next seconds"
    SESSION = "the session poems has had one turn"
    SESSION_BUDGET = "the session poems has had one turn, and sessions.token_budget is 1000"
    BUDGET = "sessions.token_budget is 1000"
    SESSION_OVER = "the session poems has had one turn, sessions.max_turns is 1 and sessions.token_budget is 1000"
    RATE = "this client has sent one task, and limits.requests_per_minute is 1"
    ARTIFACT = "the plan of the example was kept"
    ARTIFACT_UNREADABLE = "the disk does not give back what was kept"
    NO_DISK = "the disk refuses to keep artifacts"
    STREAMS_OPEN = "this client has as many open streams as server.max_streams_per_client allows"
    NO_ENGINE = "the engine of the pool cannot be built"
    NEVER_MANAGED = "pool-managerd has not been started yet"
    NO_MANAGER = "pool-managerd does not run"
    MANAGER_FAILS = "pool-managerd makes a mistake of its own"
    CATALOG_LOCKED = "another program holds the lock of the catalog"
    CATALOG_DAMAGED = "the index of the catalog is damaged"
    FILE = "the model file /srv/models/epic.gguf is there"
    CATALOGUED = "the model epic is in the catalog"
    PULLED = "the model epic is being pulled"
    HUB_DENIED = "policy.outbound denies the scheme hf:"


class Example(Message, frozen=True, kw_only=True):
    """One request and its answer."""

    name: str
    """Unique among the examples of its operation."""
    summary: str
    method: str
    path: str
    """As the operation has it, with its parameters in braces."""
    status: int
    answer: Any = None
    """A struct, other JSON, or text; None where the answer has no body."""
    given: Given = Given.READY
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    """Path, query and header parameters by name."""
    body: Any = UNSET
    """A struct, other JSON, or text that is no JSON; unset where none is sent."""
    padding: int = 0
    """So many spaces are sent behind the body."""
    streams: bool = False
    """Sent with ``Accept: text/event-stream``."""
    authorization: str = "Bearer $TOKEN"
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """Those of the answer that say something about it."""
    media: str = "application/json"
    partial: bool = False
    """The answer says more than is shown."""

    @property
    def document(self) -> dict[str, Any]:
        """An Example Object of OpenAPI; what OpenAPI has no word for stands under ``x-``."""
        made: dict[str, Any] = {"summary": self.summary}
        if self.given is not Given.READY:
            made["description"] = f"Given that {self.given}."
        if self.answer is not None:
            made["value"] = plain(self.answer)
        asked: dict[str, Any] = {"authorization": self.authorization} if self.authorization else {}
        if self.streams:
            asked["accept"] = EVENT_STREAM
        if self.parameters:
            asked["parameters"] = dict(self.parameters)
        if self.body is not UNSET:
            asked["body"] = plain(self.body)
        if self.padding:
            asked["padding"] = self.padding
        made["x-request"] = asked
        if self.partial:
            made["x-partial"] = True
        if self.headers:
            made["x-headers"] = dict(self.headers)
        return made


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever can be JSON
    """A value as the plain JSON that is sent; what is left out of a request stays left out."""
    if not isinstance(value, msgspec.Struct):
        return value
    built: Any = msgspec.json.decode(msgspec.json.encode(value))
    return built


def refusal(
    code: ErrorCode,
    message: str,
    hint: str | None = None,
    *,
    retry_after_ms: int | None = None,
    retriable: bool | None = None,
    **context: str,
) -> ErrorBody:
    """The body of a refusal; what follows from its code is filled in."""
    return ErrorBody(
        code=code,
        message=message,
        retriable=code in RETRIABLE if retriable is None else retriable,
        correlation_id=CORRELATION_ID,
        hint=UNSET if hint is None else hint,
        retry_after_ms=UNSET if retry_after_ms is None else retry_after_ms,
        error_number=ERROR_NUMBER.get(code, UNSET),
        **context,
    )


def sse(*events: msgspec.Struct) -> str:
    """A stream as it goes over the wire; a token's number is its id."""
    return "".join(_frame(event) for event in events)


def _frame(event: msgspec.Struct) -> str:
    kind = type(event).__name__
    name = NAMES.get(kind, kind.lower())
    number: int | UnsetType = getattr(event, "i", UNSET)
    head = "" if number is UNSET else f"id: {number}\n"
    return f"event: {name}\n{head}data: {msgspec.json.encode(event).decode()}\n\n"

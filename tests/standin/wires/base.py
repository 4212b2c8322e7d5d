"""What the engine core asks a wire module for, and the values between the two.

A wire module says how an engine words things. When it speaks, how fast, and where it breaks is the core's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import msgspec

from tests.standin.connection import Request
from tests.standin.knobs import Fault, Knobs, Stats

ENCODE = msgspec.json.Encoder().encode
JSON = "application/json"
CREATED = 1_750_000_000
END_OF_BODY = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    422: "Unprocessable Entity",
    424: "Failed Dependency",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class Kind(StrEnum):
    """What a request asks for."""

    COMPLETION = "completion"
    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANK = "rerank"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted request. ``limit``: the most tokens that the client wants; None leaves it to the engine."""

    kind: Kind
    body: dict[str, Any]
    prompt: str = ""
    inputs: tuple[str, ...] = ()
    evaluated: int = 0
    limit: int | None = None
    stream: bool = True

    @property
    def seed(self) -> int:
        seed = self.body.get("seed", 0)
        return seed if isinstance(seed, int) and seed >= 0 else 0


class Answer(msgspec.Struct, frozen=True):
    """A whole answer."""

    status: int
    body: bytes = b""
    content_type: str | None = JSON


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How a generation ended. ``limited``: because nothing more was asked for."""

    total: int
    limited: bool
    slot: int
    decode_ms: float


class WorkerDeath(StrEnum):
    """What becomes of a stream whose worker is killed."""

    TAKES_ALL = "takes_all"
    """There is no other process: the connection breaks."""
    REPORTED = "reported"
    """An error event, and the health endpoint says 503 from then on."""
    TRUNCATES = "truncates"
    """The body ends before its end, without a word; the server goes on."""
    HANGS = "hangs"
    """Nothing more comes, and the health endpoint says 200."""


class Looks(Protocol):
    """What a wire module may look at of the engine behind it."""

    knobs: Knobs
    stats: Stats
    busy: set[int]
    broken: bool
    """Its workers are gone; what is left answers questions."""


class Wire(Protocol):
    """One engine's way of putting things."""

    name: str
    key_variable: str
    """Where the engine takes its key from."""
    ping: bytes
    listens_late: bool
    """Nobody listens while the model loads; the others answer 503."""
    worker_death: WorkerDeath
    closes_after_errors: bool
    """An answer with an error is the last one of its connection."""

    def gate(self, request: Request, *, authorized: bool, loading: bool) -> Answer | None:
        """What is refused before any handler sees it."""

    def generates(self, request: Request) -> bool:
        """Whether this request takes a slot."""

    def job(self, request: Request, knobs: Knobs) -> Job | Answer:
        """What it asks for, or its refusal."""

    def plain(self, request: Request, engine: Looks) -> Answer:
        """Every other request."""

    def answer(self, answer: Answer) -> bytes:
        """Head and body."""

    def head(self, status: int, content_type: str | None) -> bytes:
        """The head of a stream; ``content_type`` replaces the engine's own."""

    def block(self, job: Job, knobs: Knobs, index: int, count: int) -> bytes:
        """The chunks of some tokens."""

    def end(self, job: Job, knobs: Knobs, run: Run) -> bytes:
        """The chunks that end a stream well."""

    def whole(self, job: Job, knobs: Knobs, run: Run) -> Answer:
        """The answer that is no stream."""

    def event(self, job: Job, knobs: Knobs, text: str) -> bytes:
        """One event that carries a piece of text."""

    def failure(self, job: Job, fault: Fault) -> tuple[int, bytes]:
        """The events that report a failure, and the status where nothing was sent before them."""


def answer_bytes(answer: Answer, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """Head and body, with the headers that an engine puts before and after its content's."""
    kind = b"" if answer.content_type is None else b"content-type: %b\r\n" % answer.content_type.encode()
    return b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\n%b%b\r\n%b" % (
        answer.status,
        REASONS.get(answer.status, "Error").encode(),
        before,
        len(answer.body),
        kind,
        after,
        answer.body,
    )


def chunk(body: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def data(value: object, prefix: bytes = b"data: ") -> bytes:
    """One event."""
    return prefix + ENCODE(value) + b"\n\n"


def count_of(knobs: Knobs, true: int) -> object:
    """A number of tokens as the engine tells it, which may be a lie."""
    return true if knobs.claims is None else msgspec.Raw(knobs.claims.encode())


def decoded(body: bytes) -> dict[str, Any] | str:
    """A JSON object, or what is wrong with it."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        return str(error)


def tokenize(text: str, *, bos: bool) -> list[int]:
    """One token for each piece of up to four characters, and one for the beginning."""
    return ([1] if bos else []) + [300 + ord(text[at]) % 100 for at in range(0, len(text), 4)]


def render(messages: list[dict[str, str]]) -> str:
    """The chat template of the tests' tiny model."""
    return "".join(f"[{message['role']}] {message['content']}\n" for message in messages) + "[assistant] "


def words_from(job: Job, knobs: Knobs) -> tuple[str, ...]:
    """The words in the order of this job's seed: token i is ``words[i % len(words)]``."""
    first = job.seed % len(knobs.words)
    return knobs.words[first:] + knobs.words[:first]


def word(job: Job, knobs: Knobs, index: int) -> str:
    """Token ``index``."""
    return knobs.words[(job.seed + index) % len(knobs.words)]


def vector(text: str) -> list[float]:
    """An embedding: different texts have different ones, and every float is exact in JSON."""
    return [len(text) / 8, (sum(text.encode()) % 64) / 64, -0.5, 0.0]


def score(query: str, document: str) -> float:
    """A relevance: the share of the query's letters that the document has."""
    return len(set(query) & set(document)) / 64

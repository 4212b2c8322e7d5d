"""Tasks as clients write and read them.

Decides the shape of requests and answers and their field limits. Whether a task is admitted is
``orchestratord.admission``'s to decide.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from contracts.base import Message, Strict
from contracts.config import END, Engine

TaskId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,128}" + END, description="1 to 128 of A-Z a-z 0-9 . _ : -")]


MAX_DEADLINE_MS = 30 * 24 * 3600 * 1000


class Workload(StrEnum):
    """What a task asks of an engine."""

    COMPLETION = "completion"
    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANK = "rerank"


class Priority(StrEnum):
    """Exactly two: interactive goes before batch, FIFO within each."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Determinism(StrEnum):
    """``strict``: no prompt cache and one replica set, so that the same request gives the same bytes.

    Where that cannot be kept it is refused with the reason; ``GET /v1/capabilities`` tells so before.
    """

    STRICT = "strict"
    BEST_EFFORT = "best_effort"


class KvHint(StrEnum):
    """Whether the engine may reuse what it computed for an earlier prompt."""

    REUSE = "reuse"
    COLD = "cold"


class OnDisconnect(StrEnum):
    """What becomes of a task when its last listener leaves; one that nobody ever listened to has not been left."""

    CANCEL = "cancel"
    CONTINUE = "continue"


class PlacementMode(StrEnum):
    """``pin`` insists on a pool, ``prefer`` tries some first, ``auto`` leaves it to the orchestrator."""

    AUTO = "auto"
    PREFER = "prefer"
    PIN = "pin"


class Role(StrEnum):
    """Who speaks in a chat."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ChatMessage(Strict, frozen=True, kw_only=True):
    """One turn of a chat."""

    role: Role
    content: str


class Sampling(Strict, frozen=True, kw_only=True):
    """How tokens are drawn; what is left out, the pool's sampler profile says."""

    temperature: Annotated[float, Meta(ge=0, le=10)] | UnsetType = UNSET
    top_p: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | UnsetType = UNSET
    min_p: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    repeat_penalty: Annotated[float, Meta(ge=0, le=10)] | UnsetType = UNSET
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(max_length=16)] = ()
    """Where an answer ends; an empty text stands everywhere, and is refused."""
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None


class Placement(Strict, frozen=True, kw_only=True):
    """Where a task may run, by pool id."""

    mode: PlacementMode = PlacementMode.AUTO
    pool_id: str | None = None
    prefer: Annotated[tuple[str, ...], Meta(max_length=256)] = ()
    avoid: Annotated[tuple[str, ...], Meta(max_length=256)] = ()


class TaskRequest(Strict, frozen=True, kw_only=True):
    """The body of ``POST /v1/tasks``.

    A completion takes ``prompt``, a chat ``messages``, an embedding ``inputs``, and a rerank the query as ``prompt``
    and the documents as ``inputs``. An embedding and a rerank draw no tokens, so they take no ``sampling``,
    ``max_tokens`` and ``expected_tokens``; each result comes as one ``token``, in the order of the inputs. What a
    pool's engine serves and can honour, ``GET /v1/capabilities`` tells.
    """

    model_ref: Annotated[str, Meta(min_length=1, max_length=4096)]
    task_id: TaskId | None = None
    session_id: TaskId | None = None
    workload: Workload = Workload.COMPLETION
    engine: Engine | None = None
    ctx: Annotated[int, Meta(ge=1)] | None = None
    priority: Priority = Priority.INTERACTIVE
    prompt: Annotated[str, Meta(description="what a completion goes on from, or a rerank's query")] | None = None
    inputs: Annotated[tuple[str, ...], Meta(description="what is embedded, or a rerank's documents")] | None = None
    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    """At most so many new tokens; left out, the rest of the context."""
    deadline_ms: Annotated[int, Meta(ge=1, le=MAX_DEADLINE_MS)] | None = None
    """The answer is of no use later than this many milliseconds after admission."""
    seed: Annotated[int, Meta(ge=0, le=4_294_967_294)] | None = None
    """Left out, one is drawn and told in ``started``."""
    determinism: Determinism = Determinism.BEST_EFFORT
    sampler_profile_version: str | None = None
    sampling: Sampling = Sampling()
    expected_tokens: Annotated[int, Meta(ge=1)] | None = None
    kv_hint: KvHint = KvHint.REUSE
    placement: Placement = Placement()
    output_mode: str | None = None
    on_disconnect: OnDisconnect | None = None
    """Left out: interactive tasks are cancelled after a grace period, batch tasks continue."""


class StreamLinks(Message, frozen=True, kw_only=True):
    """Where the answer can be read."""

    sse: str


class TaskAccepted(Message, frozen=True, kw_only=True):
    """202: the task is in the queue. Times in milliseconds; ``predicted_start_ms`` counts from admission."""

    task_id: str
    job_id: str
    queue_position: int
    predicted_start_ms: int
    backoff_ms: int
    streams: StreamLinks
    predicted_start_low_ms: int | None = None
    """Four out of five tasks start between this and ``predicted_start_high_ms``."""
    predicted_start_high_ms: int | None = None
    on_time_probability: float | None = None
    """That the answer is complete before ``deadline_ms``; null without a deadline."""


class TaskForecast(Message, frozen=True, kw_only=True):
    """``POST /v1/tasks?dry_run=true``: what would happen to this task if it were sent now. Nothing was queued.

    A task that would be refused gets that very refusal, with its status, instead. Times in milliseconds from now.
    """

    queue_position: int
    predicted_start_ms: int
    predicted_start_low_ms: int
    predicted_start_high_ms: int
    predicted_end_ms: int
    pool_id: str
    """Where it would start by what is known now; it is bound to a replica only when a slot is free."""
    replica_id: str
    eligible_pools: tuple[str, ...]
    kv_warmth: bool
    prompt_tokens: int
    prompt_tokens_counted: bool
    """False: an estimate from the length of the text, since no engine could be asked."""
    new_tokens: int
    """How many new tokens are expected."""
    on_time_probability: float | None = None
    evicts: str | None = None
    """The waiting task that would have to give way, under drop-lru."""


class TaskState(StrEnum):
    """Where a task is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELED = "canceled"
    FAILED = "failed"


class TaskStatus(Message, frozen=True, kw_only=True):
    """``GET /v1/tasks/{id}``. Moments are Unix milliseconds, spans are milliseconds; null until they happened."""

    task_id: str
    job_id: str
    state: TaskState
    priority: Priority
    workload: Workload
    model_ref: str
    created_ms: int
    queue_position: int | None = None
    pool_id: str | None = None
    replica_id: str | None = None
    seed: int | None = None
    queue_time_ms: int | None = None
    first_token_ms: int | None = None
    decode_time_ms: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    """While it runs, as many as were streamed so far; then the engine's own count."""
    finish_reason: str | None = None
    stream_sha256: str | None = None
    error_code: str | None = None
    streams: StreamLinks | None = None
    session_id: str | None = None
    attempts: int = 0
    """How many replicas were given the task; more than one after a silent retry."""
    slot_free_ms: int | None = None
    """From the end of a cancelled or failed run to the engine's own word that its slot is free again."""
    artifact_id: str | None = None
    """The record that the task left."""


class TaskList(Message, frozen=True, kw_only=True):
    """``GET /v1/tasks``: newest first."""

    tasks: tuple[TaskStatus, ...]

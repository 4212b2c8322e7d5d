"""The events of a task's stream.

Decides their fields. Order and framing are ``orchestratord.stream_log``'s: ``started``, ``token``*, ``metrics``
anywhere (while the task is queued they come before ``started``), then exactly one of ``end`` and ``error``.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from contracts.base import Message
from contracts.config import Profile
from contracts.errors import ErrorCode


class FinishReason(StrEnum):
    """Why a generation ended without an error."""

    STOP = "stop"
    LENGTH = "length"
    CANCELED = "canceled"


class Started(Message, frozen=True, kw_only=True):
    """The task has a slot; who serves it, and what makes the answer reproducible."""

    task_id: str
    job_id: str
    queue_position: int
    predicted_start_ms: int
    engine: str
    engine_version: str
    model_digest: str
    pool_id: str
    replica_id: str
    profile: Profile
    seed: int
    kv_warmth: bool
    unheeded: tuple[str, ...] | UnsetType = UNSET
    """The hints of the request that this engine cannot follow, by their fields; unset where it follows all."""

    def since(self, told: Metrics) -> Started:
        """The same with who serves now, where ``told`` names another replica."""
        if told.pool_id is UNSET:
            return self
        news = {name: value for name in _SERVES if (value := getattr(told, name)) is not UNSET}
        return replace(self, **news)


_SERVES = ("pool_id", "replica_id", "engine", "engine_version", "model_digest", "kv_warmth", "unheeded")
"""What depends on the replica."""


class Token(Message, frozen=True, kw_only=True):
    """One piece of text as the engine streamed it; ``i`` counts such pieces from 0 without gaps.

    Of an embedding or a rerank each input's result is one piece, in the order of the inputs: the JSON object
    ``{"index":0,"embedding":[...]}`` or ``{"index":0,"score":0.9}``.
    """

    t: str
    i: int


class Metrics(Message, frozen=True, kw_only=True):
    """Additive facts while a task waits or runs; what is unset has nothing to say."""

    queue_depth: int | UnsetType = UNSET
    queue_position: int | UnsetType = UNSET
    predicted_start_ms: int | UnsetType = UNSET
    on_time_probability: float | UnsetType = UNSET
    kv_warmth: bool | UnsetType = UNSET
    tokens_budget_remaining: int | UnsetType = UNSET
    time_budget_remaining_ms: int | UnsetType = UNSET
    predicted_start_low_ms: int | UnsetType = UNSET
    predicted_start_high_ms: int | UnsetType = UNSET
    pool_id: str | UnsetType = UNSET
    """Set when the replica that ``started`` named died before its first token: this one serves now."""
    replica_id: str | UnsetType = UNSET
    engine: str | UnsetType = UNSET
    engine_version: str | UnsetType = UNSET
    model_digest: str | UnsetType = UNSET
    unheeded: tuple[str, ...] | UnsetType = UNSET
    """Set with ``pool_id`` where the request has hints: those that this engine cannot follow; empty, it follows all."""


class End(Message, frozen=True, kw_only=True):
    """The one good end. Counts are the engine's own where it said them; spans in milliseconds.

    ``stream_sha256`` is over the concatenated UTF-8 of every ``t``.
    """

    tokens_in: int
    tokens_out: int
    decode_time_ms: int
    decode_ms: int
    """The older name of ``decode_time_ms``, always the same value."""
    first_token_ms: int | None
    """From admission to the first piece of text; null when there was none."""
    queue_time_ms: int
    finish_reason: FinishReason
    stream_sha256: str
    artifact_id: str | UnsetType = UNSET


class StreamError(Message, frozen=True, kw_only=True):
    """The one bad end."""

    code: ErrorCode
    message: str
    retriable: bool
    hint: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    engine: str | UnsetType = UNSET

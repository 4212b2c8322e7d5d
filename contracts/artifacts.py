"""Artifacts as clients write and read them, and the record that every task leaves as one.

Decides the shape, and the canonical form of a content, whose sha256 is its id. How long one is kept is
``orchestratord``'s to decide.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from contracts.base import Message, Strict
from contracts.config import END, Engine, Mode, Profile
from contracts.events import End, StreamError
from contracts.tasks import TaskState


class ArtifactKind(StrEnum):
    """What an artifact is."""

    PLAN = "plan"
    SUMMARY = "summary"
    DIFF = "diff"
    TRACE = "trace"
    TRANSCRIPT = "transcript"
    LOGS = "logs"
    PROOF = "proof"
    OTHER = "other"


ID_PREFIX = "sha256:"
ArtifactId = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}" + END)]
Tag = Annotated[str, Meta(min_length=1, max_length=128)]


class ArtifactRequest(Strict, frozen=True, kw_only=True):
    """The body of ``POST /v1/artifacts``: any JSON value, kept under the sha256 of its canonical form."""

    content: msgspec.Raw
    kind: ArtifactKind = ArtifactKind.OTHER
    tags: Annotated[tuple[Tag, ...], Meta(max_length=32)] = ()


class ArtifactInfo(Message, frozen=True, kw_only=True):
    """``POST /v1/artifacts``. ``created_ms`` is Unix milliseconds, of the first time that this content came."""

    id: str
    """``sha256:`` and 64 hex digits."""
    kind: ArtifactKind
    created_ms: int
    size_bytes: int
    """Of the content in its canonical form."""
    tags: tuple[str, ...] = ()
    redacted: bool = False
    """Whether a secret was taken out of the content: the id is that of what is kept."""


class Artifact(ArtifactInfo, frozen=True, kw_only=True):
    """``GET /v1/artifacts/{id}``."""

    content: msgspec.Raw


class EngineIdentity(Message, frozen=True, kw_only=True):
    """Who served a task, as it was when the task got its slot; null what nobody knows."""

    engine: Engine
    engine_version: str | None
    engine_digest: str | None
    provisioning_mode: Mode
    pool_id: str
    replica_id: str
    devices: tuple[str, ...]
    model_ref: str
    model_id: str | None
    model_digest: str | None
    sampler_profile_version: str


class TaskRecord(Message, frozen=True, kw_only=True):
    """What a task leaves behind, however it ended: an artifact of kind ``trace``.

    With ``request``, ``seed`` and ``engine`` it can be asked again. Moments are Unix milliseconds, spans milliseconds.
    """

    task_id: str
    job_id: str
    correlation_id: str
    identity: str
    """Who asked: ``localhost`` or ``token:`` and the token's fingerprint."""
    profile: Profile
    state: TaskState
    request: msgspec.Raw
    """The ``TaskRequest`` with its defaults filled in, without secrets."""
    seed: int
    engine: EngineIdentity | None
    """Null where the task never got a slot."""
    queue_position: int
    predicted_start_ms: int
    created_ms: int
    ended_ms: int
    first_token_ms: int | None
    queue_time_ms: int | None
    end: End | None
    """The terminal event, without the ``artifact_id`` that only this record gives it; or ``error`` is set."""
    error: StreamError | None
    pieces: int
    """How many ``token`` events there were."""
    stream_sha256: str
    """Over the whole text as it was sent, as in ``end``."""
    transcript: str | None
    """That text without secrets; null where it was too long to be kept."""
    redacted: bool = False
    """Whether a secret was taken out: then the transcript may hash to something else than ``stream_sha256``."""
    cut: bool = False
    """Whether the texts of request and transcript were left out, since they were too long."""
    version: int = 1


_canonical = msgspec.json.Encoder(order="sorted")


def canonical(content: object) -> bytes:
    """The bytes whose sha256 is the id: keys in order, no white space, UTF-8."""
    return _canonical.encode(content)

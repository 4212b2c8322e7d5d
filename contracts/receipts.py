"""The receipt that every task leaves, and the chain of them.

Decides the shape of a receipt, its place in the chain, and what makes two runs comparable. A receipt is an artifact of
kind ``trace``: its id is the sha256 of its canonical form, and it names the id of the receipt before it, so that none
can be changed, left out or put in later without every later one telling. Whether a chain holds is
``daemon_core.chain``'s to decide; how long receipts are kept is ``orchestratord``'s.
"""

from __future__ import annotations

from typing import Any

import msgspec

from contracts.artifacts import Artifact
from contracts.base import Message
from contracts.config import Engine, Mode, Profile
from contracts.events import End, StreamError
from contracts.tasks import Determinism, TaskState


class EngineIdentity(Message, frozen=True, kw_only=True):
    """Who served a task, as it was when the task got its slot; null what nobody knows."""

    engine: Engine
    engine_version: str | None
    engine_digest: str | None
    provisioning_mode: Mode
    pool_id: str
    replica_id: str
    devices: tuple[str, ...]
    """The GPUs of the pool's mask, by UUID where there is a driver to say it."""
    model_ref: str
    model_id: str | None
    model_digest: str | None
    sampler_profile_version: str
    driver_version: str | None = None
    """Of the NVIDIA driver; null without one."""
    argv: tuple[str, ...] = ()
    """What the engine was started with, without secrets; empty for an engine that somebody else started."""
    slots: int = 1
    ctx_max: int | None = None


class SlotUse(Message, frozen=True, kw_only=True):
    """Where in the engine a task ran, and what of its prompt was there already."""

    slot: int | None
    """The slot that the engine was told to use; null where it chose."""
    cache_prompt: bool
    """Whether it might reuse what it had computed before."""
    cached_tokens: int | None
    """How many tokens it did reuse, by its own count; null where it does not say."""


class Link(Message, frozen=True, kw_only=True):
    """A place in the chain."""

    number: int
    """Counts from 1 without gaps."""
    previous: str | None
    """The id of the receipt before; null for the first that ever was."""


class Receipt(Message, frozen=True, kw_only=True):
    """What a task leaves behind, however it ended: an artifact of kind ``trace``.

    With ``request``, ``seed`` and ``engine`` it can be asked again. Moments are Unix milliseconds, spans milliseconds.
    """

    number: int
    """Its place in the chain, from 1 without gaps."""
    previous: str | None
    """The id of the receipt before; null for the first that ever was."""
    task_id: str
    job_id: str
    correlation_id: str
    identity: str
    """Who asked: ``localhost`` or ``token:`` and the token's fingerprint."""
    profile: Profile
    state: TaskState
    determinism: Determinism
    request: msgspec.Raw
    """The ``TaskRequest`` with its defaults filled in, without secrets."""
    seed: int
    sent: dict[str, Any] | None
    """The body that the engine was sent, without its texts and what is another in each request: the sampling that
    really held. Null where nothing was sent."""
    engine: EngineIdentity | None
    """Null where the task never got a slot."""
    slot: SlotUse | None
    attempts: int
    """How many replicas were given it."""
    queue_position: int
    predicted_start_ms: int
    created_ms: int
    ended_ms: int
    first_token_ms: int | None
    queue_time_ms: int | None
    end: End | None
    """The terminal event, without the ``artifact_id`` that only this receipt gives it; or ``error`` is set."""
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
    json_schema: str | None = None
    """The schema of the request as text, whose members stand as the client wrote them: some engines generate in that
    order, and ``request`` has lost it. Null where there is none."""
    interrupted: bool = False
    """Whether orchestratord ended while it ran. Where it could not go on, ``pieces`` and the text are what was kept."""
    version: int = 2


class ReceiptPage(Message, frozen=True, kw_only=True):
    """``GET /v1/receipts``: a stretch of the chain in its order."""

    receipts: tuple[Artifact, ...]
    first: Link | None
    """Of the oldest receipt that is kept; those before it were let go, by age or size. Null where there is none."""
    last: int
    """The number of the newest receipt; 0 where there never was one."""

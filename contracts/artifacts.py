"""Artifacts as clients write and read them: content-addressed, local, small.

Decides the shape only; how long one is kept is ``orchestratord``'s to decide.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from contracts.base import Message, Strict


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
    tags: tuple[str, ...] = ()


class Artifact(ArtifactInfo, frozen=True, kw_only=True):
    """``GET /v1/artifacts/{id}``."""

    content: msgspec.Raw

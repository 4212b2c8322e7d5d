"""Artifacts as clients write and read them.

Decides the shape, and the canonical form of a content, whose sha256 is its id. How long one is kept is
``orchestratord``'s to decide.
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


ID_PREFIX = "sha256:"
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


_canonical = msgspec.json.Encoder(order="sorted")


def canonical(content: object) -> bytes:
    """The bytes whose sha256 is the id: keys in order, no white space, UTF-8."""
    return _canonical.encode(content)

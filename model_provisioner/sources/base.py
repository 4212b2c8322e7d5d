"""What every scheme answers with: the files that a reference comes to, each with an address to fetch it from.

Decides the vocabulary only. One transfer fetches them all, so that resuming, room on the disk, policy, redirects and
digests are the same for every scheme.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from contracts.base import Message
from model_provisioner.reference import RemoteRef

R_contra = TypeVar("R_contra", bound=RemoteRef, contravariant=True)


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file to fetch. Neither ``url`` (it may be signed) nor ``headers`` may be shown, logged or written down."""

    name: str
    """Its path below the model's folder: relative, with ``/``, never leading out of it."""
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    """Sent to the host of ``url`` alone, never to one that it redirects to."""
    size_bytes: int | None = None
    sha256: str | None = None
    """Bare hex, where the source says it; what comes must have it."""

    def __repr__(self) -> str:
        return f"RemoteFile(name={self.name!r}, size_bytes={self.size_bytes}, sha256={self.sha256})"


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference came to."""

    revision: str
    """What pins it (a commit, a version, an ETag, a manifest's digest): fit for a folder's name, free of secrets."""
    source: str
    """For people and for provenance: where it is, with the revision, without secrets."""
    files: tuple[RemoteFile, ...]
    entry: str | None
    """The name of the file to load (of a split GGUF the first part); None where the whole folder is the model."""


class Source(Protocol[R_contra]):
    """One scheme."""

    async def locate(self, ref: R_contra) -> Located:
        """What the reference comes to, by asking the network.

        Asks the outbound policy before each connection and each redirect. Raises ModelError.
        """


class Transferred(Message, frozen=True, kw_only=True):
    """How far one file has come; ``total_bytes`` is None where nobody says."""

    name: str
    done_bytes: int
    total_bytes: int | None = None

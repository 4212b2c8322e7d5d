"""What stands on the shelf of artifacts, and what has to go.

Decides an artifact's name, which is the sha256 of its content, and which ones are forgotten: those that were stored too
long ago, and the oldest beyond a total of bytes. Counts what a file takes on a disk rather than its length. Values in,
values out: never touches a file.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from contracts.artifacts import ID_PREFIX, Artifact, ArtifactInfo, ArtifactKind
from contracts.base import Message

BLOCK_BYTES = 4096
"""What the shortest file takes."""


class Head(Message, frozen=True, kw_only=True):
    """The first line of a file."""

    kind: ArtifactKind
    created_ms: int
    tags: tuple[str, ...] = ()
    redacted: bool = False


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A content whose id is known, on its way to the disk."""

    name: str
    """The 64 digits of its id."""
    content: bytes
    head: Head

    @property
    def id(self) -> str:
        """The artifact's id."""
        return ID_PREFIX + self.name

    @property
    def info(self) -> ArtifactInfo:
        """What is said of it."""
        head = msgspec.structs.asdict(self.head)
        return ArtifactInfo(id=self.id, size_bytes=len(self.content), **head)


def sealed(content: bytes, head: Head) -> Sealed:
    """A canonical content under its id."""
    return Sealed(name=hashlib.sha256(content).hexdigest(), content=content, head=head)


def artifact_of(found: Sealed) -> Artifact:
    """An artifact as a client reads it."""
    info = msgspec.structs.asdict(found.info)
    return Artifact(**info, content=msgspec.Raw(found.content))


class Standing(msgspec.Struct, frozen=True, gc=False):
    """One artifact: what it takes, and when it was stored last, in Unix milliseconds."""

    takes_bytes: int
    stored_ms: int


class Shelf:
    """Artifacts by name, the oldest first."""

    def __init__(self, max_bytes: int, max_age_ms: int) -> None:
        self._max_bytes = max_bytes
        self._max_age_ms = max_age_ms
        self._standing: OrderedDict[str, Standing] = OrderedDict()
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._standing)

    def __contains__(self, name: str) -> bool:
        return name in self._standing

    def fits(self, length: int) -> bool:
        """Whether a file of so many bytes can stand here at all."""
        return taken(length) <= self._max_bytes

    def put(self, name: str, length: int, stored_ms: int) -> None:
        """It is the newest now, also where it stood here before."""
        self.drop(name)
        self._standing[name] = Standing(taken(length), stored_ms)
        self.total_bytes += taken(length)

    def found(self, files: Iterable[tuple[str, int, int]]) -> None:
        """What an earlier run has left: (name, length, stored_ms) in any order. What was put since is newer."""
        newer = list(self._standing.items())
        self._standing.clear()
        self.total_bytes = 0
        for name, length, stored_ms in sorted(files, key=lambda file: file[2]):
            self.put(name, length, stored_ms)
        for name, standing in newer:
            self.put(name, standing.takes_bytes, standing.stored_ms)

    def drop(self, name: str) -> None:
        """It is gone; of one that does not stand here nothing changes."""
        gone = self._standing.pop(name, None)
        if gone is not None:
            self.total_bytes -= gone.takes_bytes

    def due(self, now_ms: int) -> list[str]:
        """What has to go now, the oldest first."""
        names = []
        left = self.total_bytes
        for name, standing in self._standing.items():
            if left <= self._max_bytes and now_ms - standing.stored_ms <= self._max_age_ms:
                break
            names.append(name)
            left -= standing.takes_bytes
        return names


def taken(length: int) -> int:
    """What a file of this length takes on a disk."""
    return max(1, -(-length // BLOCK_BYTES)) * BLOCK_BYTES

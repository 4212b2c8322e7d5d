"""A file's sha256, without reading a large file again at each start.

Decides when a remembered digest still holds: as long as path, size, modification time and inode are the same. Never
decides which digest is right. The memory is a cache: what it has forgotten is computed again, and nothing about it
keeps a model from being used.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from weakref import WeakValueDictionary

from catalog_core.errors import CatalogError
from catalog_core.index import Index
from contracts.base import Message

CHUNK_BYTES = 4 << 20
REPORT_BYTES = 1 << 30
"""A line of progress for every so many bytes."""


class Identity(Message, frozen=True, kw_only=True):
    """What tells whether a file is still the one it was. ``mtime_ns`` is in nanoseconds since the epoch."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """The identity in what stat says."""
        return cls(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


class ChangedError(Exception):
    """The file was changed while it was read."""


class _Remembered(Message, frozen=True, kw_only=True):
    id: str
    """The path of the file."""
    identity: Identity
    digest: str


class DigestMemory:
    """The digests of files that were read before, in one small file at ``path``. Blocks; never raises CatalogError."""

    def __init__(self, path: Path) -> None:
        self._index = Index(path, _Remembered)

    def recall(self, file: Path, identity: Identity) -> str | None:
        """The digest of this very file, if it is remembered."""
        try:
            known = self._index.read().get(str(file))
        except CatalogError:
            return None
        return known.digest if known and known.identity == identity else None

    def remember(self, file: Path, identity: Identity, digest: str) -> None:
        """Keep a digest, and forget those of files that are gone."""

        def change(entries: dict[str, _Remembered]) -> None:
            for gone in [name for name in entries if not Path(name).exists()]:
                del entries[gone]
            entries[str(file)] = _Remembered(id=str(file), identity=identity, digest=digest)

        try:
            self._index.update(change)
        except CatalogError:
            return  # full, read-only, or written by a newer version: the file is read again next time


class Digests:
    """Digests of files, each read once at most for as long as it stays the file it was."""

    def __init__(self, memory: DigestMemory) -> None:
        self._memory = memory
        self._hashing: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    async def of(self, path: Path, identity: Identity, progress: Callable[[str], None]) -> str:
        """The digest ``sha256:<hex>`` of a file. Raises ChangedError, OSError, NotRegularError."""
        async with self._hashing.setdefault(path, asyncio.Lock()):  # two pools with one model read it once
            known = await asyncio.to_thread(self._memory.recall, path, identity)
            if known is not None:
                return known
            progress(f"computing the digest of {path.name}, {identity.size_bytes} bytes")
            digest = await sha256_of(path, identity, progress)
            await asyncio.to_thread(self._memory.remember, path, identity, digest)
            return digest

    async def learn(self, path: Path, identity: Identity, digest: str) -> None:
        """Remember what somebody computed who had the bytes in hand."""
        await asyncio.to_thread(self._memory.remember, path, identity, digest)


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file; never waits for a writer, as opening a pipe would.

    Raises OSError, IsADirectoryError among them, and ``NotRegularError`` for everything that is neither.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(path)
    raise NotRegularError(path)


class NotRegularError(Exception):
    """A pipe, a socket or a device."""


async def sha256_of(path: Path, identity: Identity, progress: Callable[[str], None]) -> str:
    """The digest ``sha256:<hex>`` of the file, read in a thread, a few megabytes at a time.

    Cancelling it ends the thread at its next chunk. Raises ChangedError where the file is not, or not for all of the
    time, the one of ``identity``; OSError; NotRegularError.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def report(line: str) -> None:
        loop.call_soon_threadsafe(lambda: None if stop.is_set() else progress(line))

    try:
        return await asyncio.to_thread(_hash, path, identity, report, stop)
    finally:
        stop.set()


def _hash(path: Path, identity: Identity, report: Callable[[str], None], stop: threading.Event) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    done = 0
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        _require(identity, file.fileno(), path)
        while not stop.is_set() and (size := file.readinto(buffer)):
            digest.update(buffer[:size])
            if done // REPORT_BYTES != (done + size) // REPORT_BYTES:
                report(f"computing the digest of {path.name}: {(done + size) * 100 // identity.size_bytes} %")
            done += size
        _require(identity, file.fileno(), path)
    return f"sha256:{digest.hexdigest()}"


def _require(identity: Identity, descriptor: int, path: Path) -> None:
    if Identity.of(os.fstat(descriptor)) != identity:
        raise ChangedError(path)

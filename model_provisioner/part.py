"""The bytes of a file that has no name yet: ``<name>.part``, and beside it what their server called them.

Decides when bytes of an earlier attempt may be used again, and when a file gets its name: after its bytes are on the
disk, never before. Hashes each byte once: as it is written, or as it is found. Never follows a link. Blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

import msgspec

from contracts.base import Message
from daemon_core import procfs
from model_provisioner.folder import READABLE, Folder

PART = ".part"
"""How the name of a file ends that is not all here."""
CHUNK_BYTES = 1 << 20
MAX_NOTE_BYTES = 64 << 10


class Note(Message, frozen=True, kw_only=True):
    """What the server called the bytes that are here, as ``If-Range`` takes it, and how many there will be.

    ``boot`` is when they were written: after a loss of power nobody knows which of them reached the disk.
    """

    if_range: str
    total: int | None = None
    boot: str = ""


class Part:
    """The file ``name`` of an open folder, as far as it is here. ``known`` where its digest is: bytes can be tried."""

    def __init__(self, folder: Folder, name: str, *, known: bool) -> None:
        self.pieced = False
        """Whether its bytes come from more than one answer of the server."""
        self._folder = folder
        self._name = name
        self._known = known
        self._note_name = f"{self.name}.json"
        self._hash = hashlib.sha256()
        self._hashed = 0

    @property
    def name(self) -> str:
        """What the bytes are called for now."""
        return f"{self._name}{PART}"

    @property
    def path(self) -> Path:
        """Where the bytes are, for people."""
        return self._folder.path / self.name

    @property
    def size(self) -> int:
        """How many bytes are here. Raises OSError."""
        return self._folder.size(self.name) or 0

    def resumable(self) -> Note | None:
        """What the bytes are called; without a name for them they are of no use. Raises OSError."""
        try:
            note = msgspec.json.decode(self._folder.read(self._note_name, MAX_NOTE_BYTES) or b"", type=Note)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if not self._known and note.boot != _this_boot():
            return None
        return note if self.size else None

    def begin(self, if_range: str | None, total: int | None) -> None:
        """Nothing is here; what comes now is called ``if_range``. In this order: old bytes never get a new name."""
        self.discard()
        self.pieced = False
        self._folder.create_empty(self.name)
        if if_range is not None:
            note = Note(if_range=if_range, total=total, boot=_this_boot())
            self._folder.write(self._note_name, msgspec.json.encode(note))

    def digest(self, stop: Callable[[], bool] = lambda: False) -> str:
        """The sha256 of what is here, in hex; only what was not hashed yet is read. Raises OSError."""
        size = self.size
        if self._hashed > size:  # somebody cut it
            self._hash, self._hashed = hashlib.sha256(), 0
        if self._hashed < size:
            with self._folder.reader(self.name) as file:
                file.seek(self._hashed)
                while not stop() and (chunk := file.read(CHUNK_BYTES)):
                    self._hash.update(chunk)
                    self._hashed += len(chunk)
        return self._hash.hexdigest()

    def appender(self) -> Appender:
        """What writes at the end of it. Raises OSError."""
        return Appender(self, self._folder.appender(self.name))

    def take(self, file: IO[bytes], data: bytes) -> None:
        """Write at the end of the file, which is open, and hash what was written. Raises OSError."""
        view = memoryview(data)
        while view:
            count = file.write(view)
            if count and self._hashed + count == file.tell():  # what was here before was hashed too
                self._hash.update(view[:count])
                self._hashed += count
            view = view[count:]

    def discard(self) -> None:
        """Nothing is here any more. Raises OSError."""
        self._forget()
        self._folder.remove(self.name)
        self._hash, self._hashed = hashlib.sha256(), 0

    def finish(self, mode: int = READABLE) -> None:
        """Give the file its name, for good. Raises OSError."""
        self._folder.make_durable(self.name, mode)
        self._folder.rename(self.name, self._name)
        self._forget()

    def _forget(self) -> None:
        for name in self._folder.names():
            if name.startswith(f".{self._note_name}.") and name.endswith(".tmp"):
                self._folder.remove(name)  # of a writer that was killed
        self._folder.remove(self._note_name)


class Appender:
    """Writes at the end of a part; a context manager that closes the file."""

    def __init__(self, part: Part, file: IO[bytes]) -> None:
        self._part = part
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """Write and hash. Raises OSError."""
        self._part.take(self._file, data)


def _this_boot() -> str:
    """What tells one start of this machine from another."""
    try:
        return procfs.boot_id()
    except OSError:
        return "unknown"

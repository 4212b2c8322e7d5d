"""Opens the archives that engines come in: tar (plain, gzip, xz) and zip.

Decides what of an archive is written to the disk: directories, regular files, and links to regular files of the same
archive. Everything else refuses the archive as a whole: a name that leads out of it, one that comes twice, a device, a
pipe, more bytes or entries than ``Limits``. No link is made before the last file is written, so nothing is ever written
through one. Modes are ours: no owner, no setuid. Never overwrites, and never runs what it unpacks.
"""

from __future__ import annotations

import gzip
import lzma
import os
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, cast

import msgspec

CHUNK_BYTES = 1 << 20
_LONGEST_TARGET = 4096


class ArchiveError(Exception):
    """An archive that is not opened. The text is one line; the names in it are the archive's, made printable."""


class Stopped(Exception):  # noqa: N818 - it is what was asked for, and no error
    """``stop`` said so."""


class Kind(StrEnum):
    """What a file is, by its first bytes."""

    GZIP = "tar.gz"
    XZ = "tar.xz"
    ZSTD = "tar.zst"
    TAR = "tar"
    ZIP = "zip"
    PROGRAM = "program"
    """An ELF executable or a script."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much an archive may hold: all its files together in bytes, and its entries."""

    total_bytes: int = 16 << 30
    entries: int = 20_000


_MAGIC = (
    (0, b"\x1f\x8b", Kind.GZIP),
    (0, b"\xfd7zXZ\x00", Kind.XZ),
    (0, b"\x28\xb5\x2f\xfd", Kind.ZSTD),
    (0, b"PK\x03\x04", Kind.ZIP),
    (257, b"ustar", Kind.TAR),
    (0, b"\x7fELF", Kind.PROGRAM),
    (0, b"#!", Kind.PROGRAM),
)


def kind_of(path: Path) -> Kind | None:
    """What a file is, None for anything else than programs and archives. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(512)
    return next((kind for at, magic, kind in _MAGIC if head[at:].startswith(magic)), None)


def unpack(
    path: Path, kind: Kind, into: Path, *, limits: Limits | None = None, stop: Callable[[], bool] = lambda: False
) -> None:
    """Write all of an archive into the empty directory ``into``, and see it onto the disk. Blocks.

    ``stop`` is asked every megabyte. Raises ArchiveError, OSError (of the disk), and Stopped; what was written until
    then stays, for the caller to remove.
    """
    bounds = limits or Limits()
    writer = _Writer(into, bounds, stop)
    try:
        with _entries(path, kind, bounds) as entries:
            for entry in entries:
                writer.add(entry)
    except _DAMAGED as error:
        raise ArchiveError(f"it is damaged, or no {kind} archive ({type(error).__name__})") from error
    writer.link()


_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,  # NotImplementedError (a compression that zipfile lacks) and RecursionError among them
)
"""What the libraries raise at bytes that they cannot make sense of."""


# --- what is in it ----------------------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry, in the terms that both formats have. ``target`` is relative to the archive's root."""

    name: str
    size: int = 0
    directory: bool = False
    executable: bool = False
    target: str | None = None
    open: Callable[[], IO[bytes]] | None = None


@contextmanager
def _entries(path: Path, kind: Kind, limits: Limits) -> Iterator[Iterator[_Entry]]:
    if kind is Kind.ZIP:
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > limits.entries:
                raise ArchiveError(f"it holds more than {limits.entries} entries")
            yield (_zip_entry(archive, info) for info in archive.infolist())
        return
    with _decompressed(path, kind) as file, tarfile.open(fileobj=cast("IO[bytes]", _Bounded(file)), mode="r:") as tar:
        yield (_tar_entry(tar, member) for member in tar)


@contextmanager
def _decompressed(path: Path, kind: Kind) -> Iterator[IO[bytes]]:
    if kind is Kind.TAR:
        with path.open("rb") as plain:
            yield plain
    elif kind is Kind.GZIP:
        with gzip.open(path, "rb") as unzipped:
            yield cast("IO[bytes]", unzipped)
    elif kind is Kind.XZ:
        with lzma.open(path, "rb") as unpacked:
            yield cast("IO[bytes]", unpacked)
    else:
        raise ArchiveError(f"a {kind} cannot be opened here: use tar.gz, tar.xz, tar or zip")


class _Bounded:
    """A tar as tarfile reads it: in small steps, so that no number in the archive decides how much memory is used."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= CHUNK_BYTES:
            raise ArchiveError(f"it holds a header of more than {CHUNK_BYTES} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _tar_entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> _Entry:
    if member.isdir():
        return _Entry(name=member.name, directory=True)
    if member.issym():
        return _Entry(name=member.name, target=_beside(member.name, member.linkname))
    if member.islnk():
        return _Entry(name=member.name, target=member.linkname)
    if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or member.issparse():
        raise ArchiveError(f"{_shown(member.name)} is neither a file, a directory nor a link")

    def open_it() -> IO[bytes]:
        file = tar.extractfile(member)
        if file is None:  # pragma: no cover - it is a regular file
            raise ArchiveError(f"{_shown(member.name)} cannot be read")
        return file

    return _Entry(name=member.name, size=member.size, executable=bool(member.mode & 0o111), open=open_it)


def _zip_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Entry:
    name, mode = info.filename, info.external_attr >> 16
    if info.flag_bits & 0x1:
        raise ArchiveError(f"{_shown(name)} is encrypted")
    if info.is_dir():
        return _Entry(name=name, directory=True)
    if stat.S_ISLNK(mode):
        if info.file_size > _LONGEST_TARGET:
            raise ArchiveError(f"{_shown(name)} is a link with a target of {info.file_size} bytes")
        return _Entry(name=name, target=_beside(name, archive.read(info).decode(errors="replace")))
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        raise ArchiveError(f"{_shown(name)} is neither a file, a directory nor a link")
    return _Entry(name=name, size=info.file_size, executable=bool(mode & 0o111), open=lambda: archive.open(info))


def _beside(name: str, target: str) -> str:
    """The target of a symbolic link, seen from the archive's root."""
    return target if target.startswith("/") else posixpath.join(posixpath.dirname(name), target)


# --- what is written --------------------------------------------------------------------------------------------------


class _Writer:
    """Writes entries below ``root``; ``link`` comes last."""

    def __init__(self, root: Path, limits: Limits, stop: Callable[[], bool]) -> None:
        self._root = root
        self._limits = limits
        self._stop = stop
        self._left = limits.total_bytes
        self._entries = 0
        self._files: set[str] = set()
        self._links: dict[str, str] = {}

    def add(self, entry: _Entry) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise ArchiveError(f"it holds more than {self._limits.entries} entries")
        if self._stop():
            raise Stopped
        name = _inside(entry.name)
        if entry.directory:
            self._folder(name)
            return
        if not name or name in self._files or name in self._links:
            raise ArchiveError(f"{_shown(entry.name)} is in it twice, or has no name")
        if entry.target is not None:
            self._links[name] = _inside(entry.target, f"{_shown(entry.name)} links to ")
            return
        self._folder(posixpath.dirname(name))
        self._files.add(name)
        self._write(name, entry)

    def link(self) -> None:
        """Make the links, each straight to its file: none leads through another one."""
        for name in self._links:
            target, hops = self._links[name], 0
            while target in self._links and hops <= len(self._links):
                target, hops = self._links[target], hops + 1
            if target not in self._files:
                raise ArchiveError(f"{_shown(name)} links to {_shown(target)}, which is no file of this archive")
            self._folder(posixpath.dirname(name))
            path = self._root / name
            try:
                path.symlink_to(posixpath.relpath(target, posixpath.dirname(name) or "."))
            except FileExistsError as error:
                raise ArchiveError(f"{_shown(name)} is in it twice") from error
        for folder, _, _ in os.walk(self._root):
            _sync(Path(folder))

    def _folder(self, name: str) -> None:
        try:
            (self._root / name).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ArchiveError(f"{_shown(name)} is both a file and a directory in it") from error

    def _write(self, name: str, entry: _Entry) -> None:
        if entry.open is None:  # pragma: no cover - a file has it
            return
        if entry.size > self._left:
            raise ArchiveError(f"it holds more than {self._limits.total_bytes} bytes")
        self._left -= entry.size  # neither library gives more bytes than an entry says it has
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._root / name, flags, 0o600)
        except FileExistsError as error:
            raise ArchiveError(f"{_shown(name)} is both a file and a directory in it") from error
        with os.fdopen(descriptor, "wb", buffering=0) as target, entry.open() as source:
            self._copy(source, target)
            os.fchmod(target.fileno(), 0o755 if entry.executable else 0o644)
            os.fsync(target.fileno())

    def _copy(self, source: IO[bytes], target: IO[bytes]) -> None:
        while chunk := source.read(CHUNK_BYTES):
            if self._stop():
                raise Stopped
            view = memoryview(chunk)
            while view:
                view = view[target.write(view) :]


_ODD = re.compile(r"[\x00-\x1f\x7f\\]")


def _inside(name: str, before: str = "") -> str:
    """A name without ``.`` and doubled slashes; empty for the root itself. Refuses what leads out, or reads oddly."""
    if name.startswith("/"):
        raise ArchiveError(f"{before}{_shown(name)}, an absolute path")
    if _ODD.search(name):
        raise ArchiveError(f"{before}{_shown(name)}, a name with a backslash or a control character")
    plain = posixpath.normpath(name)
    inside = posixpath.normpath(f"/{name}") == f"/{plain}" or plain == "."
    if not inside or (not before and ".." in name.split("/")):
        raise ArchiveError(f"{before}{_shown(name)}, which leads out of it")
    return "" if plain == "." else plain


def _shown(name: str) -> str:
    """A text of the archive, printable and short."""
    return repr(name if len(name) <= 200 else f"{name[:200]}...")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

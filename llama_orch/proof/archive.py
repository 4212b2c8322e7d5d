"""Many files in one: how a proof is packed, and how one from anybody is read.

Decides that the same files make the same bytes, and what is refused: anything but plain files in one folder, and more
than a proof can have. Never writes to the disk what it unpacks.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Mapping
from typing import BinaryIO

FOLDER = "proof/"
MAX_FILES = 64
MAX_BYTES = 64 << 20
"""Of all files together, unpacked."""
_NAME = re.compile(r"proof/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_CHUNK = 1 << 16


class ArchiveError(Exception):
    """It is no archive that this program would have made. The text says why."""


def pack(files: Mapping[str, bytes]) -> bytes:
    """A .tar.gz of these files: sorted, of nobody, of no time."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0, compresslevel=9) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(FOLDER + name)
            entry.size, entry.mode, entry.mtime = len(data), 0o600, 0
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def unpack(file: BinaryIO) -> dict[str, bytes]:
    """The files by their names, without the folder. Raises ArchiveError for anything that ``pack`` does not make."""
    found: dict[str, bytes] = {}
    source = _Bounded(file)
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=tarfile.BLOCKSIZE) as tar:
            for entry in tar:
                name = _name_of(entry, found)
                data = tar.extractfile(entry)
                found[name] = b"" if data is None else data.read()
        while rest := source.read(_CHUNK):
            if rest.strip(b"\0"):
                raise ArchiveError("there is something behind its end")
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise ArchiveError(f"it is no whole .tar.gz: {error}") from error
    return found


def _name_of(entry: tarfile.TarInfo, found: Mapping[str, bytes]) -> str:
    shown = entry.name[:100]
    if not entry.isreg() or entry.issparse():
        raise ArchiveError(f"{shown!r} is no plain file")
    if _NAME.fullmatch(entry.name) is None:
        raise ArchiveError(f"{shown!r} is no name of a file in {FOLDER}")
    name = entry.name.removeprefix(FOLDER)
    if name in found:
        raise ArchiveError(f"{shown!r} is in it twice")
    if len(found) >= MAX_FILES:
        raise ArchiveError(f"it has more than {MAX_FILES} files")
    return name


class _Bounded(io.RawIOBase):
    """What a gzip file unpacks to, and no more of it than a proof can have, whatever its headers promise."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._unzipped = gzip.GzipFile(fileobj=file, mode="rb")
        self._left = MAX_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes. Raises ArchiveError."""
        data = self._unzipped.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise ArchiveError(f"it unpacks to more than {MAX_BYTES >> 20} MiB")
        return data

"""A journal of JSON lines: only ever appended to, a line whole or not at all.

Decides how a line gets there although the disk may be full or the writer killed. Never decides what a line says, and
never rewrites one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from catalog_core.atomic import read_if_exists
from catalog_core.errors import CatalogIoError

T = TypeVar("T")


def append_line(path: Path, record: msgspec.Struct) -> None:
    """Append one record; the file is created with mode 0600, its directory with 0700. On the disk when this returns.

    Blocks. Raises CatalogIoError, and then the journal is as it was.
    """
    line = msgspec.json.encode(record) + b"\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for one short write, so nobody waits long
            _append(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CatalogIoError(path, error) from error


def read_lines(path: Path, kind: type[T]) -> Iterator[T]:
    """The records of a journal, oldest first; none where there is no file. A line that cannot be read is left out.

    Raises CatalogIoError.
    """
    try:
        data = read_if_exists(path) or b""
    except OSError as error:
        raise CatalogIoError(path, error) from error
    decoder = msgspec.json.Decoder(kind)
    for line in data.splitlines():
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # a writer was killed here; whoever comes after it starts a new line


def _append(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    data = b"\n" + line if torn else line
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(28, "No space left on device")  # noqa: TRY301 - a short write is a full disk that says so later
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise

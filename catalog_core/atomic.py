"""The one way in which a file of ours is replaced: whole or not at all, also when the machine loses its power.

Decides the order of temporary file, fsync, rename and fsync of the directory. Never decides what is written, and locks
nothing: of two writers at once the last one wins, whole.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

PRIVATE = 0o600


def write_atomic(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Replace the file at ``path``, or create it, with ``data`` and these permissions.

    Readers see the old content or the new one, never a part. When this returns, the new one is on the disk.
    Raises OSError, and then leaves the old content and no temporary file behind.
    """
    descriptor, name = tempfile.mkstemp(prefix=_prefix(path), suffix=_SUFFIX, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not say what did not fit
        raise
    sync_directory(path.parent)


def read_if_exists(path: Path) -> bytes | None:
    """The content of a file, None where there is none. Raises OSError for everything else."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of writers of ``path`` that were killed.

    To be called only while nobody else can be writing, that is, under the lock of ``path``.
    """
    for leftover in path.parent.glob(f"{_prefix(path)}*{_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory last: a rename is on the disk only when its directory is."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(directory: Path) -> None:
    """Have on the disk all that was written to the file system of a directory: for thousands of files at once.

    May take as long as the disk needs for what others have written too. Raises OSError.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))
    finally:
        os.close(descriptor)


_SUFFIX = ".tmp"


def _prefix(path: Path) -> str:
    return f".{path.name}."

"""A directory of ours that is held open, in which no symbolic link is ever followed.

Decides how files below our cache are opened, created, renamed and removed: by name, relative to an open directory, so
that a link that somebody planted, as the file or as any directory on the way, leads nowhere. Only the way to the cache
itself is the user's affair. Everything here blocks.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Self

PRIVATE = 0o600
READABLE = 0o644
"""What engines read, some of them as another user in a container."""
_NUMBERS = count()
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class LinkError(OSError):
    """There is a symbolic link where none may be."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ELOOP, "it is a symbolic link, and none is followed there", str(path))


class Folder:
    """The directory at ``path``. ``open`` makes one; it is a context manager that closes it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path, *, below: Path, create: bool = False) -> Folder:
        """Open ``path``, which is ``below`` or in it; no directory after ``below`` may be a link.

        ``create`` makes those that are missing. Raises LinkError, OSError.
        """
        if create:
            below.mkdir(mode=0o755, parents=True, exist_ok=True)
        here, descriptor = below, os.open(below, _DIRECTORY)
        try:
            for name in path.relative_to(below).parts:
                here /= name
                inner = _enter(here, name, descriptor, create=create)
                os.close(descriptor)
                descriptor = inner
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def status(self, name: str) -> os.stat_result | None:
        """What stat says of a regular file; None where there is nothing. Raises LinkError, OSError."""
        try:
            found = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(found.st_mode):
            raise LinkError(self.path / name)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(self.path / name))
        return found

    def size(self, name: str) -> int | None:
        """The size of a regular file; None where there is nothing. Raises LinkError, OSError."""
        found = self.status(name)
        return None if found is None else found.st_size

    def reader(self, name: str) -> IO[bytes]:
        """Open a regular file for reading, unbuffered. Raises OSError."""
        return self._opened(name, os.O_RDONLY, "rb")

    def appender(self, name: str) -> IO[bytes]:
        """Open a regular file, which may be new, for writing at its end, unbuffered. Raises OSError."""
        return self._opened(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, "ab")

    def read(self, name: str, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a small file; None where there is none. Raises OSError."""
        try:
            with self.reader(name) as file:
                return file.read(limit)
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replace a small file, whole or not at all; of two writers at once the last one wins. Raises OSError."""
        temporary = f".{name}.{os.getpid()}-{next(_NUMBERS)}.tmp"
        self.remove(temporary)
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE, dir_fd=self._descriptor
            )
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self.rename(temporary, name)
        except BaseException:
            self.remove(temporary)
            raise

    def create_empty(self, name: str) -> None:
        """Put an empty file of ours in the place of whatever has this name. Raises OSError."""
        self.remove(name)
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE, dir_fd=self._descriptor))

    def make_durable(self, name: str, mode: int) -> None:
        """Give a file its permissions, and make its bytes last. Raises OSError."""
        with self.reader(name) as file:
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())

    def rename(self, name: str, new: str, into: Folder | None = None) -> None:
        """Give a file or a directory another name, here or in another folder, for good. Raises OSError."""
        target = self if into is None else into
        os.rename(name, new, src_dir_fd=self._descriptor, dst_dir_fd=target._descriptor)  # noqa: SLF001 - one of us
        os.fsync(self._descriptor)
        if target is not self:
            os.fsync(target._descriptor)  # noqa: SLF001 - as above

    def remove(self, name: str) -> None:
        """Remove a file or a link, not what it leads to, if it is there. Raises OSError."""
        try:
            os.unlink(name, dir_fd=self._descriptor)
        except FileNotFoundError:
            return

    def names(self) -> list[str]:
        """What is in it."""
        return sorted(os.listdir(self._descriptor))  # noqa: PTH208 - a Path has no descriptor

    def _opened(self, name: str, flags: int, mode: str) -> IO[bytes]:
        try:
            descriptor = os.open(
                name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, PRIVATE, dir_fd=self._descriptor
            )
        except OSError as error:
            raise _found_out(error, self.path / name) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is no regular file", str(self.path / name))
        return os.fdopen(descriptor, mode, buffering=0)


def _enter(path: Path, name: str, descriptor: int, *, create: bool) -> int:
    """Open the directory ``name`` of an open one."""
    if create:
        try:
            os.mkdir(name, 0o755, dir_fd=descriptor)
        except FileExistsError:
            pass
        else:
            os.fsync(descriptor)
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ELOOP} and stat.S_ISLNK(
            os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
        ):
            raise LinkError(path) from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def _found_out(error: OSError, path: Path) -> OSError:
    """The same error with the whole path in it; one that came of a link says so."""
    return LinkError(path) if error.errno == errno.ELOOP else OSError(error.errno, error.strerror, str(path))

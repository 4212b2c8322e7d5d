"""One writer at a time, among all processes and threads of this machine.

Decides how long one waits and what one is told when that was not enough. A killed holder frees the lock with its death:
the kernel keeps it, not the file, which only says who has it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from catalog_core.errors import LockTimeoutError

POLL_S = 0.01


@contextlib.contextmanager
def locked(path: Path, *, wait_s: float = 10.0) -> Iterator[None]:
    """Hold the lock file at ``path``, which is created with mode 0600 and stays. Blocks for ``wait_s`` at most.

    Not reentrant. Raises LockTimeoutError, which names the holder, and OSError where the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _acquire(descriptor, path, wait_s)
        _sign(descriptor, f"process {os.getpid()} ({Path(sys.argv[0]).name or 'python'})")
        yield
        _sign(descriptor, "")
    finally:
        os.close(descriptor)  # this frees it


def _acquire(descriptor: int, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                raise LockTimeoutError(path, holder or "another process", wait_s) from None
            time.sleep(POLL_S)
        else:
            return


def _sign(descriptor: int, holder: str) -> None:
    # The name is for people only: a full disk must not keep anybody from the lock.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)

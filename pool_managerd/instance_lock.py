"""Sees to it that only one pool-managerd uses a state directory: two would end each other's engines.

Decides nothing. The kernel lets go of the lock when the process ends, however it ends; no engine inherits it.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from daemon_core.errors import StartupError


@contextlib.contextmanager
def single_instance(path: Path) -> Iterator[None]:
    """Hold the lock file for as long as the context lasts. Raises StartupError where another process holds it."""
    try:
        file = path.open("ab")
    except OSError as error:
        hint = "set paths.state to a directory that you can write"
        raise StartupError(f"cannot open {path}: {error.strerror}", hint) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise already_running(path) from None
        yield


def already_running(path: Path) -> StartupError:
    """Two managers would fight over the same GPUs and files."""
    hint = "systemctl --user status pool-managerd shows it; two need paths: of their own in their configurations"
    return StartupError(f"another pool-managerd already runs here: it holds {path}", hint)

"""How a file that somebody may have worked on is replaced: whole or not at all, and the old one can be kept.

Decides that what was kept before is never overwritten, and that the old file goes only when the new one is on the disk:
a full disk must not leave neither.
"""

from __future__ import annotations

import errno
import os
import tempfile
from itertools import count
from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def put(path: Path, content: str | bytes, *, mode: int, keep: bool = False) -> Path | None:
    """Write a file, in place of the one that is there; where that was kept, if it was.

    Raises OSError, and then leaves what was there and no temporary file behind.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary, kept = Path(name), None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if keep and os.path.lexists(path):
            kept = set_aside(path)
        try:
            temporary.replace(path)
        except OSError:
            if kept is not None:
                kept.replace(path)
            raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return kept


def set_aside(path: Path) -> Path:
    """Rename a file to ``NAME.old``, or ``NAME.old.2`` and so on where that is taken. Raises OSError."""
    names = (f"{path.name}.old{'' if number == 1 else f'.{number}'}" for number in count(1))
    free = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    return path.replace(free)


def where_to_look(folder: Path, error: OSError) -> str:
    """The command that shows why nothing could be written there."""
    return f"df -h {folder}: make room there" if error.errno in _FULL else f"ls -ld {folder}"

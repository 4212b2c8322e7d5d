"""Writes a model repository for Triton.

Decides where it lies: in a directory named after its content, so one that a running container has mounted never
changes, and writing the same one again does nothing. What stands in it, ``container_engines`` decides.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def directory_of(below: Path, name: str, files: Mapping[str, str]) -> Path:
    """Where ``write`` puts a repository."""
    digest = hashlib.sha256()
    for path, text in sorted(files.items()):
        digest.update(f"{len(path)} {path} {len(text)} {text}".encode())
    return below / f"{name}-{digest.hexdigest()[:12]}"


def write(below: Path, name: str, files: Mapping[str, str]) -> Path:
    """Write the files, whose paths are relative, and return their directory. Blocks. Raises OSError.

    The directory is there with all of its content or not at all, whenever this is interrupted.
    """
    target = directory_of(below, name, files)
    if _holds(target, files):
        return target
    below.mkdir(parents=True, exist_ok=True)
    # Its permissions are the owner's alone, as those of the containers that read it.
    fresh = Path(tempfile.mkdtemp(dir=below, prefix=f".{name}-"))
    try:
        for path, text in files.items():
            (fresh / path).parent.mkdir(parents=True, exist_ok=True)
            (fresh / path).write_text(text, encoding="utf-8")
        # What stands there has another content than its name says: somebody has edited it.
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        with suppress(OSError):
            shutil.rmtree(fresh)
    return target


def _holds(directory: Path, files: Mapping[str, str]) -> bool:
    try:
        return all((directory / path).read_text(encoding="utf-8") == text for path, text in files.items())
    except (OSError, UnicodeDecodeError):
        return False

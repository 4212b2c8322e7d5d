"""What can be wrong with a catalog, each with its mend.

Decides the kinds and their wording. Never decides when one is raised.
"""

from __future__ import annotations

from pathlib import Path


class CatalogError(Exception):
    """A catalog cannot do what was asked. ``message`` says what and where, ``hint`` what mends it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SchemaVersionError(CatalogError):
    """The index was written by a newer version; it is left as it is."""

    def __init__(self, path: Path, found: int, supported: int, *, kept: Path) -> None:
        mend = f"use the version that wrote it, or move {path.name} away to start with an empty catalog"
        back = f"put {kept.name} in its place: what it was before a newer version converted it"
        super().__init__(
            f"{path} has schema {found}, but this version reads schema {supported}",
            f"use the version that wrote it, or {back}" if kept.exists() else mend,
        )
        self.path = path
        self.found = found
        self.supported = supported


class CorruptIndexError(CatalogError):
    """The index is no index; ``recover`` moves it aside."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} cannot be read as an index: {reason}",
            "the next change moves it aside and rebuilds it; so does a restart of pool-managerd",
        )
        self.path = path
        self.reason = reason


class LockTimeoutError(CatalogError):
    """Another process kept the lock for longer than we wait."""

    def __init__(self, path: Path, holder: str, waited_s: float) -> None:
        super().__init__(
            f"{path} has been locked by {holder} for more than {waited_s:g} s",
            "wait for it, or end it if it hangs",
        )
        self.path = path
        self.holder = holder


class EntryNotFoundError(CatalogError):
    """No such entry, or its file is gone."""

    def __init__(self, message: str, hint: str = "`llama-orch models` lists what there is") -> None:
        super().__init__(message, hint)


class OutsideRootError(CatalogError):
    """An entry's path leads out of the directory that it has to be in."""

    def __init__(self, identifier: str, path: Path, root: Path) -> None:
        super().__init__(
            f"the path of {identifier!r} leads out of {root}: {path}",
            f"delete the entry {identifier!r}, and add the model again by its own path",
        )
        self.path = path
        self.root = root


class CatalogIoError(CatalogError):
    """The disk refuses: full, read-only, not ours."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"cannot use {path}: {error.strerror or error}",
            f"make room on the disk, and see that this user owns {path.parent}",
        )
        self.path = path
        self.errno = error.errno

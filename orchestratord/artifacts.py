"""Artifacts on this machine's disk: a file each, named by the sha256 of its content.

Decides how a file looks: a line about the artifact, then the canonical content, so that ``tail -n +2 FILE | sha256sum``
gives the file's name. A file is written beside its place and renamed, so a reader meets all of it or nothing. What does
not hold what its name says is set aside and said, never served. Which ones go is ``shelf``'s to decide. Blocking: the
``archive`` calls it in a thread of its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from contracts import config
from contracts.artifacts import Artifact, ArtifactInfo
from daemon_core.errors import PathsError
from daemon_core.paths import make_private_dir
from orchestratord.shelf import Head, Sealed, Shelf, artifact_of

log = logging.getLogger(__name__)

ASIDE = "set-aside"
UNFINISHED = ".new"
SHOWN = 3
_NAME = re.compile(r"[0-9a-f]{64}")
_encode = msgspec.json.Encoder().encode


class ArtifactError(Exception):
    """An artifact cannot be kept or read: the disk's fault, in words for an operator."""

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ArtifactStore:
    """The files below one folder, which is this user's alone."""

    def __init__(self, folder: Path, limits: config.Artifacts, now_ms: Callable[[], int]) -> None:
        self._folder = folder
        self._limits = limits
        self._now_ms = now_ms
        self.shelf = Shelf(limits.max_bytes, limits.max_age_ms)

    def open(self) -> None:
        """Find what an earlier run has left, and let go what is due. Raises ArtifactError."""
        try:
            make_private_dir(self._folder)
            files, foreign = self._look()
        except PathsError as error:
            raise ArtifactError(error.message, error.hint) from error
        except OSError as error:
            raise self._trouble("be read", error) from error
        self.shelf.found(files)
        if foreign:
            moved = [name for name in foreign if self._set_aside(name)]
            names = ", ".join(moved[:SHOWN]) + (", ..." if len(moved) > SHOWN else "")
            log.warning("%d files in %s are no artifacts, and stand in %s now: %s", *self._said(moved), names)
        self.sweep()

    def put(self, new: Sealed, *, durable: bool) -> ArtifactInfo:
        """Keep it; of what is here already the first word about it stands, and it counts as new.

        ``durable``: it is on the disk when this returns, come what may. Raises ArtifactError.
        """
        length = len(new.content)
        if not self.shelf.fits(length):
            hint = "artifacts.max_bytes of the configuration sets the bound"
            raise ArtifactError(f"an artifact of {length} bytes is more than all together may take", hint)
        known = self._known(new.name)
        info = new.info
        try:
            if known is None:
                self._write(new, durable=durable)
            else:
                info = msgspec.structs.replace(new, head=known).info
                os.utime(self._folder / new.name, ns=_ns(self._now_ms()))
        except OSError as error:
            raise self._trouble("be written", error) from error
        self.shelf.put(new.name, length, self._now_ms())
        self.sweep()
        return info

    def get(self, name: str) -> Artifact | None:
        """An artifact by the digits of its id; None where there is none. Raises ArtifactError."""
        if not _NAME.fullmatch(name):
            return None
        try:
            head, _, content = (self._folder / name).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._trouble("be read", error) from error
        said = _read_head(head)
        if said is None or hashlib.sha256(content).hexdigest() != name:
            self.shelf.drop(name)
            if self._set_aside(name):
                log.warning("the artifact %s does not hold what its name says, and stands in %s now", name, self._aside)
            return None
        return artifact_of(Sealed(name=name, content=content, head=said))

    def sweep(self) -> None:
        """Let go what is due."""
        for name in self.shelf.due(self._now_ms()):
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                log.warning("the artifact %s cannot be removed: %s", name, error.strerror)
            self.shelf.drop(name)

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _aside(self) -> Path:
        return self._folder / ASIDE

    def _said(self, moved: list[str]) -> tuple[int, Path, Path]:
        return len(moved), self._folder, self._aside

    def _look(self) -> tuple[list[tuple[str, int, int]], list[str]]:
        """The artifacts with their lengths and ages, and what is none. What was not finished is removed."""
        files, foreign = [], []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name == ASIDE:
                    continue
                if entry.name.endswith(UNFINISHED) and _NAME.fullmatch(entry.name.removesuffix(UNFINISHED)):
                    Path(entry.path).unlink(missing_ok=True)
                elif _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    files.append((entry.name, stat.st_size, stat.st_mtime_ns // 1_000_000))
                else:
                    foreign.append(entry.name)
        return files, sorted(foreign)

    def _known(self, name: str) -> Head | None:
        """What is said of an artifact that is here and whole."""
        if name not in self.shelf:
            return None
        try:
            found = self.get(name)
        except ArtifactError:
            return None  # it is written anew, which says what is wrong with the disk
        return None if found is None else msgspec.convert(found, Head, from_attributes=True)

    def _write(self, new: Sealed, *, durable: bool) -> None:
        path = f"{self._folder}/{new.name}"  # the loop waits wherever Python works here, so it does little
        beside = path + UNFINISHED
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write_whole(descriptor, b"%b\n%b" % (_encode(new.head), new.content))
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(beside, path)  # noqa: PTH104 - likewise
            if durable:
                self._settle()
        except OSError:
            Path(beside).unlink(missing_ok=True)
            raise

    def _settle(self) -> None:
        """What was renamed keeps its new name through a power cut."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _set_aside(self, name: str) -> bool:
        try:
            make_private_dir(self._aside)
            (self._folder / name).replace(self._aside / name)
        except (PathsError, OSError) as error:
            log.warning("%s cannot be set aside: %s", self._folder / name, error)
            return False
        return True

    def _trouble(self, what: str, error: OSError) -> ArtifactError:
        hint = f"make room for {self._folder} and let this user write there, or lower artifacts.max_bytes"
        return ArtifactError(f"artifacts cannot {what} in {self._folder}: {error.strerror or error}", hint)


def _write_whole(descriptor: int, content: bytes) -> None:
    """A signal, or a disk that is nearly full, may have the kernel take only a part at a time."""
    written = os.write(descriptor, content)
    while written < len(content):
        written += os.write(descriptor, content[written:])


def _read_head(line: bytes) -> Head | None:
    try:
        return msgspec.json.decode(line, type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _ns(now_ms: int) -> tuple[int, int]:
    return now_ms * 1_000_000, now_ms * 1_000_000

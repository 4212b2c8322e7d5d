"""What lies in the cache of fetched models: their files, a note for each reference, and what was set aside.

Decides what counts as remembered: a note that says which files a reference came to, written when all of them were here.
Follows no link below the cache, and touches nothing outside it. Every method blocks, and raises OSError.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec.structs import replace

from contracts.base import Message
from model_provisioner import places
from model_provisioner.digest import Identity
from model_provisioner.folder import Folder
from model_provisioner.part import PART
from model_provisioner.quarantine import Quarantine, Suspect
from model_provisioner.reference import RemoteRef
from model_provisioner.sources import listing
from model_provisioner.sources.base import Located

NOTES = ".fetched"
LOCKS = ".locks"
MAX_NOTE_BYTES = 16 << 20


class FileHere(Message, frozen=True, kw_only=True):
    """One file of a fetched model. ``sha256`` is bare hex."""

    name: str
    size_bytes: int
    sha256: str


class Fetched(Message, frozen=True, kw_only=True):
    """What a reference came to, all of whose files are here. ``folder`` is relative to the cache."""

    ref: str
    source: str
    revision: str
    folder: str
    entry: str | None
    files: tuple[FileHere, ...]
    checked: bool = False
    """The source names the digests of the weights, and what came has them."""

    @property
    def path(self) -> str:
        """The file or the folder to load, relative to the cache."""
        return self.folder if self.entry is None else f"{self.folder}/{self.entry}"


class Shelf:
    """The cache at ``root``. Constructing it touches nothing."""

    def __init__(self, root: Path, quarantine: Quarantine) -> None:
        self.root = Path(os.path.realpath(root))
        self._quarantine = quarantine

    def lock(self, folder: str, name: str) -> Path:
        """The lock of a file."""
        return self.root / LOCKS / places.lock_of(f"{folder}/{name}")

    def make(self, folder: str) -> None:
        """Make a model's folder, and that of the locks."""
        for place in (self.root / folder, self.root / LOCKS):
            Folder.open(place, below=self.root, create=True).close()

    def remembered(self, ref: RemoteRef) -> Fetched | None:
        """What a reference came to when it was fetched; whether that is still here is another question."""
        try:
            with Folder.open(self.root / NOTES, below=self.root) as notes:
                data = notes.read(places.note_of(ref), MAX_NOTE_BYTES)
            fetched = msgspec.json.decode(data or b"", type=Fetched)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        named = fetched.folder == str(places.folder_of(ref, fetched.revision))
        return fetched if named and all(listing.safe_name(file.name) for file in fetched.files) else None

    def remember(self, ref: RemoteRef, fetched: Fetched) -> None:
        """All files of the reference are here."""
        with Folder.open(self.root / NOTES, below=self.root, create=True) as notes:
            notes.write(places.note_of(ref), msgspec.json.encode(fetched))

    def forget(self, ref: RemoteRef) -> None:
        """Nothing is remembered of the reference; its files stay."""
        with Folder.open(self.root / NOTES, below=self.root) as notes:
            notes.remove(places.note_of(ref))

    def identity(self, folder: str, name: str) -> Identity | None:
        """What tells whether a file is still the one it was; None where there is none."""
        path = self.root / folder / name
        try:
            with Folder.open(path.parent, below=self.root) as opened:
                status = opened.status(path.name)
        except FileNotFoundError:
            return None
        return None if status is None else Identity.of(status)

    def missing_bytes(self, folder: str, located: Located) -> int:
        """What is still to be fetched, as far as the sizes are known."""
        missing = 0
        for file in located.files:
            if self.identity(folder, file.name) is None:
                part = self.identity(folder, f"{file.name}{PART}")
                missing += max(0, (file.size_bytes or 0) - (part.size_bytes if part else 0))
        return missing

    def set_aside(self, folder: str, name: str, suspect: Suspect) -> Path:
        """Move a file, or what came of one, to the quarantine; the answer is where it is now."""
        path = self.root / folder / name
        with Folder.open(path.parent, below=self.root) as opened:
            sized = replace(suspect, size_bytes=opened.size(path.name) or 0)
            return self._quarantine.take(opened, path.name, sized)

    def give_back(self, sha256: str, folder: str, name: str) -> bool:
        """Bring a file with this digest back from the quarantine, if one is there."""
        path = self.root / folder / name
        with Folder.open(path.parent, below=self.root, create=True) as opened:
            return self._quarantine.give_back(sha256, opened, path.name)

    def came_before(self, source: str, file: str) -> Suspect | None:
        """What came when this very file was fetched before and was set aside."""
        return self._quarantine.known(source, file)

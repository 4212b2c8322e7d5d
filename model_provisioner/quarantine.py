"""Files that came and were not what they should be: moved aside, never used, with a note of what was expected.

Decides how many are kept, and what is known about a file that would come again. Lies in ``<cache>/quarantine``: each
file under a name of its own, and ``<that name>.json`` beside it. Follows no link. Blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from contracts.base import Message
from model_provisioner.folder import Folder

KEPT = 4
"""Files; models are large."""
NAME = "quarantine"
MAX_NOTE_BYTES = 64 << 10
_NOTE = ".json"


class Suspect(Message, frozen=True, kw_only=True):
    """What is known of a file that was set aside. Digests are bare hex; ``file`` is what it should have become."""

    ref: str
    source: str
    file: str
    expected: str
    found: str
    came: bool = True
    """It came like this; False where it was spoiled here."""
    size_bytes: int = 0
    at_ms: int = 0


class Quarantine:
    """The quarantine of the cache at ``root``. ``clock`` gives Unix milliseconds. Constructing it touches nothing."""

    def __init__(self, root: Path, clock: Callable[[], int]) -> None:
        self._root = root
        self._clock = clock

    def take(self, folder: Folder, name: str, suspect: Suspect) -> Path:
        """Move a file of an open folder here; the answer is where it is now. Raises OSError."""
        note = replace(suspect, at_ms=self._clock())
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", note.file.rpartition("/")[2])[:80].lstrip(".-") or "file"
        with Folder.open(self._root / NAME, below=self._root, create=True) as here:
            kept = f"{note.at_ms}-{note.found[:12]}-{readable}"
            here.write(f"{kept}{_NOTE}", msgspec.json.encode(note))  # first: what has no note is nobody's
            folder.rename(name, kept, here)
            _forget_oldest(here)
            return here.path / kept

    def known(self, source: str, file: str) -> Suspect | None:
        """What came last when this very file was fetched before, if it is still kept here. Raises OSError."""
        try:
            with Folder.open(self._root / NAME, below=self._root) as here:
                for kept, note in reversed(_notes(here)):
                    if note.came and (note.source, note.file) == (source, file) and here.size(kept) is not None:
                        return note
        except FileNotFoundError:
            pass
        return None

    def give_back(self, found: str, folder: Folder, name: str) -> bool:
        """Move the file with this digest to where it was wanted, if it is here. Raises OSError."""
        try:
            with Folder.open(self._root / NAME, below=self._root) as here:
                for kept, note in _notes(here):
                    if note.found == found and here.size(kept) == note.size_bytes:
                        here.rename(kept, name, folder)
                        here.remove(f"{kept}{_NOTE}")
                        return True
        except FileNotFoundError:
            pass
        return False


def _notes(here: Folder) -> list[tuple[str, Suspect]]:
    """The files that are here with their notes, the oldest first."""
    found = []
    for name in here.names():
        if name.endswith(_NOTE) and not name.startswith("."):
            try:
                note = msgspec.json.decode(here.read(name, MAX_NOTE_BYTES) or b"", type=Suspect)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            found.append((name.removesuffix(_NOTE), note))
    return sorted(found, key=lambda pair: (pair[1].at_ms, pair[0]))


def _forget_oldest(here: Folder) -> None:
    for kept, _ in _notes(here)[:-KEPT]:
        here.remove(kept)
        here.remove(f"{kept}{_NOTE}")

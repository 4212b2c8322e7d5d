"""Files that came and were not what they should be: moved aside, never used, with a note of what was expected.

Decides how many are kept, and what is known about a file that would come again. Lies in ``<cache>/quarantine``: each
file under a name of its own, and ``<that name>.json`` beside it. Follows no link. Blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from contracts.base import Message
from model_provisioner.folder import Folder

KEPT = 4
"""Files; models are large."""
NAME = "quarantine"
MAX_NOTE_BYTES = 64 << 10
_NOTE = ".json"


class Suspect(Message, frozen=True, kw_only=True):
    """What is known of a file that was set aside. Digests are bare hex; ``expected`` is what it was compared with."""

    at_ms: int
    ref: str
    source: str
    file: str
    expected: str
    found: str
    size_bytes: int


class Quarantine:
    """The quarantine of the cache at ``root``. ``clock`` gives Unix milliseconds. Constructing it touches nothing."""

    def __init__(self, root: Path, clock: Callable[[], int]) -> None:
        self._root = root
        self._clock = clock

    def take(self, folder: Folder, name: str, ref: str, source: str, file: str, *, expected: str, found: str) -> Path:
        """Move a file here; the answer is where it is now. ``file`` is what it should have become. Raises OSError."""
        size = folder.size(name) or 0
        note = Suspect(
            at_ms=self._clock(), ref=ref, source=source, file=file, expected=expected, found=found, size_bytes=size
        )
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", file.rpartition("/")[2])[:80].lstrip(".-") or "file"
        with Folder.open(self._root / NAME, below=self._root, create=True) as here:
            kept = f"{note.at_ms}-{found[:12]}-{readable}"
            here.write(f"{kept}{_NOTE}", msgspec.json.encode(note))  # first: what has no note is nobody's
            folder.rename(name, kept, here)
            _forget_oldest(here)
            return here.path / kept

    def known(self, source: str, file: str) -> Suspect | None:
        """What came when this very file was fetched before and was set aside. Raises OSError."""
        try:
            with Folder.open(self._root / NAME, below=self._root) as here:
                return next((note for _, note in _notes(here) if (note.source, note.file) == (source, file)), None)
        except FileNotFoundError:
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

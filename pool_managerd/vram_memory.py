"""What proved engines were seen to hold on their GPUs, kept for the next start of the same.

Decides how much is kept, and that nothing about it keeps an engine from starting: what cannot be read is said, moved
aside and forgotten. What counts as the same is ``vram.memory_key``'s.
"""

from __future__ import annotations

import logging
from pathlib import Path

from catalog_core.errors import CatalogError, CorruptIndexError
from catalog_core.index import Index, Recovery
from contracts.base import Message

_log = logging.getLogger(__name__)

FILE = "vram.json"
MAX_ENTRIES = 256


class _Seen(Message, frozen=True, kw_only=True):
    """``number`` grows with every start that is remembered: the lowest is the one that was not seen for longest."""

    id: str
    bytes: int
    number: int


class VramMemory:
    """The memory in ``directory``, which is made when it is needed. Every method blocks on a file; none raises."""

    def __init__(self, directory: Path) -> None:
        self._index = Index(directory / FILE, _Seen)

    def recall(self, key: str) -> int | None:
        """Bytes over all GPUs of the pool; None where no start of the same was seen."""
        try:
            seen = self._index.read().get(key)
        except CorruptIndexError:
            self._mend()
            return None
        except CatalogError as error:
            _log.warning("what engines need of VRAM is not remembered: %s; %s", error.message, error.hint)
            return None
        return seen.bytes if seen is not None and seen.bytes > 0 else None

    def remember(self, key: str, size: int) -> None:
        """Keep what an engine was seen to hold, in bytes over all GPUs of its pool."""

        def change(entries: dict[str, _Seen]) -> None:
            known = entries.pop(key, None)
            newest = max((entry.number for entry in entries.values()), default=0)
            if known is not None and known.bytes == size and known.number > newest:
                entries[key] = known  # nothing new: nothing is written
                return
            entries[key] = _Seen(id=key, bytes=size, number=newest + 1)
            oldest = sorted(entries.values(), key=lambda entry: entry.number)
            for entry in oldest[: max(len(entries) - MAX_ENTRIES, 0)]:
                del entries[entry.id]

        if size <= 0:
            return
        try:
            _say(self._index.update(change))
        except CatalogError as error:
            _log.warning("what engines need of VRAM cannot be kept: %s; %s", error.message, error.hint)

    def _mend(self) -> None:
        try:
            _say(self._index.recover())
        except CatalogError as error:
            _log.warning("what engines need of VRAM cannot be read: %s; %s", error.message, error.hint)


def _say(recovery: Recovery | None) -> None:
    if recovery is not None:
        _log.warning("%s", recovery.render())

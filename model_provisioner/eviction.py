"""Which of the fetched models go when room is needed: the least recently used first, and none that somebody needs.

Decides from values alone: sizes, times of use, and who needs what. Never counts or removes a file of the user's own:
such a file is in no value that comes in here. What was half fetched, set aside or forgotten goes before any model.

Invariants, held by property tests: nothing that is held goes; no file goes that something that stays needs; what goes
is the front of the line, but for models whose end would free nothing; either there is enough room afterwards, or
nothing goes at all and the answer says who holds what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from contracts.base import Message

GIB = 1 << 30
DAY_MS = 86_400_000
LEFTOVER_KEPT_MS = 7 * DAY_MS
"""A download that nobody resumed, or a file that was set aside, is removed after this time, needed or not."""


class CachedFile(Message, frozen=True, kw_only=True):
    """One name in the cache. Two names with one ``inode`` (``device:inode``) take their room once."""

    path: str
    size_bytes: int
    inode: str


class Cached(Message, frozen=True, kw_only=True):
    """What can be removed as a whole: a catalogued model, or a file that no entry knows, whose ``id`` is None."""

    files: tuple[CachedFile, ...]
    used_ms: int
    """When it was used or written last, in Unix milliseconds."""
    id: str | None = None
    held_by: tuple[str, ...] = ()
    """Who needs it, for people: ``pool gpu0``, ``models.pinned``. Held is what has at least one."""
    leftover: bool = False
    """Half of a download, or set aside for having been wrong: it goes in any case when it is old."""

    @property
    def name(self) -> str:
        """For people."""
        return self.id or (self.files[0].path if self.files else "nothing")


class Wanted(Message, frozen=True, kw_only=True):
    """The room that is asked for. ``reserved_bytes``: what fetches under way will still write."""

    size_bytes: int
    max_bytes: int | None
    reserved_bytes: int = 0


class Removal(Message, frozen=True, kw_only=True):
    """What goes, in this order, each with the names that go with it."""

    gone: tuple[Cached, ...]
    freed_bytes: int


class NoRoom(Message, frozen=True, kw_only=True):
    """There cannot be enough room. ``held``: what stays, with its size and who needs it, largest first."""

    wanted: Wanted
    used_bytes: int
    held: tuple[tuple[Cached, int], ...]

    @property
    def message(self) -> str:
        """What is wrong, with the numbers."""
        limit = self.wanted.max_bytes or 0
        text = f"no room for {_shown(self.wanted.size_bytes)}: models.max_bytes is {_shown(limit)}"
        if self.wanted.size_bytes > limit:
            return f"{text}, which is less than this model alone"
        held = ", ".join(f"{each.name} ({_shown(size)}) by {' and '.join(each.held_by)}" for each, size in self.held)
        coming = f", {_shown(self.wanted.reserved_bytes)} are being fetched" if self.wanted.reserved_bytes else ""
        return f"{text}, {_shown(self.used_bytes)} are used{coming}, and what is there is held: {held or 'nothing'}"

    @property
    def hint(self) -> str:
        """The mend."""
        raised = "raise models.max_bytes"
        if not self.held or self.wanted.size_bytes > (self.wanted.max_bytes or 0):
            return raised
        return f"{raised}, or let go of one: reload or remove its pool, or take it out of models.pinned"


def decide(stock: Iterable[Cached], wanted: Wanted, now_ms: int) -> Removal | NoRoom:
    """What is removed so that ``wanted`` fits; leftovers that are old go in any case. ``now_ms``: Unix milliseconds."""
    stock = tuple(stock)
    line = sorted(_free(stock), key=lambda each: not _overdue(each, now_ms))
    limit = wanted.max_bytes
    chosen = sum(_overdue(each, now_ms) for each in line)
    if limit is not None:
        need = wanted.size_bytes + wanted.reserved_bytes
        while chosen < len(line) and _size(stock, line[:chosen]) + need > limit:
            chosen += 1
        if _size(stock, line[:chosen]) + need > limit:
            return _refusal(stock, wanted)
    return _removal(stock, line[:chosen])


def size_of(stock: Iterable[Cached]) -> int:
    """What all this takes on the disk, in bytes."""
    return sum({file.inode: file.size_bytes for each in stock for file in each.files}.values())


def _overdue(each: Cached, now_ms: int) -> bool:
    return each.leftover and now_ms - each.used_ms >= LEFTOVER_KEPT_MS


def _free(stock: Sequence[Cached]) -> list[Cached]:
    """What may go, in the order in which it goes."""
    free = [each for each in stock if not each.held_by]
    return sorted(free, key=lambda each: (each.id is not None, not each.leftover, each.used_ms, each.name))


def _size(stock: Sequence[Cached], without: Sequence[Cached]) -> int:
    gone = {id(each) for each in without}
    return size_of(each for each in stock if id(each) not in gone)


def _removal(stock: Sequence[Cached], chosen: Sequence[Cached]) -> Removal:
    chosen = _useful(stock, chosen)
    names = Counter(file.path for each in stock for file in each.files)
    gone = []
    for each in chosen:
        names.subtract(file.path for file in each.files)
        # A name that two share goes with the last of them.
        files = tuple(file for file in each.files if names[file.path] == 0)
        gone.append(replace(each, files=files))
    return Removal(gone=tuple(gone), freed_bytes=size_of(stock) - _size(stock, chosen))


def _useful(stock: Sequence[Cached], chosen: Sequence[Cached]) -> list[Cached]:
    """Without the models whose end would free nothing, because what stays has all of their files."""
    kept = list(chosen)
    for each in reversed(chosen):
        without = [other for other in kept if other is not each]
        if each.id is not None and _size(stock, without) == _size(stock, kept):
            kept = without
    return kept


def _refusal(stock: Sequence[Cached], wanted: Wanted) -> NoRoom:
    held = [(each, size_of([each])) for each in stock if each.held_by]
    return NoRoom(
        wanted=wanted,
        used_bytes=size_of(stock),
        held=tuple(sorted(held, key=lambda pair: (-pair[1], pair[0].name))),
    )


def _shown(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size} bytes"

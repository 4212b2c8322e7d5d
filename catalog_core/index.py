"""A versioned JSON index: ``{"schema": 1, "entries": {"<id>": {...}}}`` in one file, beside its lock.

Decides what counts as readable, what becomes of an index that is not, and that a newer schema is refused rather than
guessed at. Never decides what the entries mean. Reading never writes, not even a lock file; every change is one
read-change-replace under the lock, so of two writers none loses anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from catalog_core.atomic import read_if_exists, remove_leftovers, write_atomic
from catalog_core.errors import CatalogIoError, CorruptIndexError, SchemaVersionError
from catalog_core.lock import locked
from contracts.base import Message

SCHEMA = 1


class Entry(Protocol):
    """What an index can hold: a msgspec struct that knows its own id."""

    @property
    def id(self) -> str:
        """The key of the entry."""


E = TypeVar("E", bound=Entry)


class Recovery(Message, frozen=True, kw_only=True):
    """What was done about an index that could not be read."""

    path: Path
    moved_to: Path
    reason: str
    kept: int
    """How many entries the rebuilt index has."""

    def render(self) -> str:
        """One line for a log or a terminal."""
        return (
            f"{self.path} could not be read ({self.reason}): kept as {self.moved_to.name}, {self.kept} entries rebuilt"
        )


class _Document(Message, frozen=True, kw_only=True):
    schema: int
    entries: msgspec.Raw


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Index(Generic[E]):
    """The index at ``path``, whose entries are of the struct ``kind``. Constructing it touches nothing.

    ``keep`` decides which of the entries that can still be read in a damaged index are worth keeping; ``discover`` adds
    what can be found on the disk and is not among them. All methods block: on a file, and for ``lock_wait_s`` at most
    on another writer.
    """

    def __init__(
        self,
        path: Path,
        kind: type[E],
        *,
        keep: Callable[[E], bool] = lambda _: True,
        discover: Callable[[], Iterable[E]] = tuple,
        lock_wait_s: float = 10.0,
    ) -> None:
        self.path = path
        self._entry = msgspec.json.Decoder(kind)
        self._keep = keep
        self._discover = discover
        self._lock_wait_s = lock_wait_s

    def read(self) -> dict[str, E]:
        """All entries by id; none where there is no file.

        Raises SchemaVersionError, CorruptIndexError, CatalogIoError.
        """
        with self._io():
            data = read_if_exists(self.path)
        if data is None:
            return {}
        document = self._document(data)
        try:
            entries = {name: self._entry.decode(raw) for name, raw in self._raw_entries(document).items()}
        except _UNREADABLE as error:
            raise CorruptIndexError(self.path, str(error)) from error
        wrong = next((name for name, entry in entries.items() if entry.id != name), None)
        if wrong is not None:
            raise CorruptIndexError(self.path, f"the entry {wrong!r} calls itself {entries[wrong].id!r}")
        return entries

    def update(self, change: Callable[[dict[str, E]], None]) -> Recovery | None:
        """Let ``change`` alter the entries in place, and write them if it did; nothing is written when it raises.

        Returns what had to be mended first. Raises what ``read`` raises but CorruptIndexError, and LockTimeoutError.
        """
        with self._exclusively():
            entries, recovery = self._read_or_recover()
            before = dict(entries)
            change(entries)
            if entries != before:
                self._write(entries)
            return recovery

    def recover(self) -> Recovery | None:
        """Mend the index if it needs it. Raises as ``update`` does."""
        with self._exclusively():
            return self._read_or_recover()[1]

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        with self._io():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self.path.with_name(f"{self.path.name}.lock"), wait_s=self._lock_wait_s):
                remove_leftovers(self.path)
                yield

    @contextlib.contextmanager
    def _io(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CatalogIoError(self.path, error) from error

    def _document(self, data: bytes) -> _Document:
        try:
            document = msgspec.json.decode(data, type=_Document)
        except _UNREADABLE as error:
            raise CorruptIndexError(self.path, str(error)) from error
        if document.schema > SCHEMA:
            raise SchemaVersionError(self.path, document.schema, SCHEMA)
        if document.schema < SCHEMA:
            raise CorruptIndexError(self.path, f"there is no schema {document.schema}")
        return document

    def _raw_entries(self, document: _Document) -> dict[str, msgspec.Raw]:
        return msgspec.json.decode(document.entries, type=dict[str, msgspec.Raw])

    def _read_or_recover(self) -> tuple[dict[str, E], Recovery | None]:
        try:
            return self.read(), None
        except CorruptIndexError as error:
            entries = {entry.id: entry for entry in self._discover()} | self._salvage()
            aside = self._set_aside()
            self._write(entries)
            return entries, Recovery(path=self.path, moved_to=aside, reason=error.reason, kept=len(entries))

    def _salvage(self) -> dict[str, E]:
        """The entries of a damaged index that are whole and worth keeping."""
        try:
            raws = self._raw_entries(self._document(self.path.read_bytes()))
        except (CorruptIndexError, *_UNREADABLE):
            return {}
        entries: dict[str, E] = {}
        for name, raw in raws.items():
            with contextlib.suppress(*_UNREADABLE):
                entry = self._entry.decode(raw)
                if entry.id == name and self._keep(entry):
                    entries[name] = entry
        return entries

    def _set_aside(self) -> Path:
        """Keep a copy for whoever wants to know what happened.

        A copy, for until the rebuilt index replaces it the damaged one has to stay: killed in between, the next writer
        starts over instead of finding nothing and asking no questions.
        """
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.corrupt-{number}")).exists():
            number += 1
        write_atomic(aside, self.path.read_bytes())
        return aside

    def _write(self, entries: dict[str, E]) -> None:
        document = {"schema": SCHEMA, "entries": dict(sorted(entries.items()))}
        write_atomic(self.path, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")

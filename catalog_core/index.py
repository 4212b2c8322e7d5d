"""A versioned JSON index: ``{"schema": 1, "entries": {"<id>": {...}}}`` in one file, beside its lock.

Decides what counts as readable, what becomes of an index that is not, that an older schema is converted once and its
file kept, and that a newer one is refused rather than guessed at. Never decides what the entries mean. Reading never
writes, not even a lock file; every change is one read-change-replace under the lock, so of two writers none loses
anything. What a newer version of the same schema added, to an entry or beside the entries, is kept as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec

from catalog_core.atomic import read_if_exists, remove_leftovers, write_atomic
from catalog_core.errors import CatalogIoError, CorruptIndexError, SchemaVersionError
from catalog_core.lock import locked
from catalog_core.migrations import Json, Steps, migrate, newest
from contracts.base import Message


class Entry(Protocol):
    """What an index can hold: a msgspec struct that knows its own id."""

    __struct_encode_fields__: ClassVar[tuple[str, ...]]

    @property
    def id(self) -> str:
        """The key of the entry."""


E = TypeVar("E", bound=Entry)


class Rebuilding(Message, frozen=True, kw_only=True):
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


class Conversion(Message, frozen=True, kw_only=True):
    """What was done about an index of an older schema."""

    path: Path
    kept_as: Path
    found: int
    schema: int

    def render(self) -> str:
        """One line for a log or a terminal."""
        return (
            f"{self.path} was converted from schema {self.found} to {self.schema}; "
            f"for an older version it is kept as {self.kept_as.name}"
        )


Recovery = Rebuilding | Conversion
"""What had to be done before an index could be changed."""

_Raw = dict[str, msgspec.Raw]


@dataclass(frozen=True, kw_only=True)
class _Content(Generic[E]):
    """What is in a file: the entries, and what stands there that this version does not know."""

    entries: dict[str, E] = field(default_factory=dict)
    raws: Mapping[str, _Raw] = field(default_factory=dict)
    """Every entry by id, in the present schema."""
    rest: Mapping[str, msgspec.Raw] = field(default_factory=dict)
    schema: int = 0


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Index(Generic[E]):
    """The index at ``path``, whose entries are of the struct ``kind``. Constructing it touches nothing.

    ``steps`` convert older schemas; the present one is that to which they lead. ``keep`` decides which of the entries
    that can still be read in a damaged index are worth keeping; ``discover`` adds what can be found on the disk and is
    not among them. All methods block: on a file, and for ``lock_wait_s`` at most on another writer.
    """

    def __init__(
        self,
        path: Path,
        kind: type[E],
        *,
        steps: Steps = MappingProxyType({}),
        keep: Callable[[E], bool] = lambda _: True,
        discover: Callable[[], Iterable[E]] = tuple,
        lock_wait_s: float = 10.0,
    ) -> None:
        self.path = path
        self.schema = newest(steps)
        self._steps = steps
        self._entry = msgspec.json.Decoder(kind)
        self._known = frozenset(kind.__struct_encode_fields__)
        self._keep = keep
        self._discover = discover
        self._lock_wait_s = lock_wait_s

    def read(self) -> dict[str, E]:
        """All entries by id; none where there is no file. An older schema is read as if it had been converted.

        Raises SchemaVersionError, CorruptIndexError, CatalogIoError.
        """
        return self._load().entries

    def identity(self) -> object:
        """What changes whenever the file does: every change makes a new one. Never raises."""
        try:
            status = self.path.stat()
        except OSError as error:
            return error.errno
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

    def update(self, change: Callable[[dict[str, E]], None]) -> Recovery | None:
        """Let ``change`` alter the entries in place, and write them if it did; nothing is written when it raises.

        Returns what had to be mended first. Raises what ``read`` raises but CorruptIndexError, and LockTimeoutError.
        """
        with self._exclusively():
            content, mended = self._load_or_mend()
            entries = dict(content.entries)
            change(entries)
            if entries != content.entries:
                self._write(entries, content)
            return mended

    def recover(self) -> Recovery | None:
        """Mend or convert the index if it needs it. Raises as ``update`` does."""
        with self._exclusively():
            return self._load_or_mend()[1]

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

    # --- reading ------------------------------------------------------------------------------------------------------

    def _load(self) -> _Content[E]:
        with self._io():
            data = read_if_exists(self.path)
        if data is None:
            return _Content(schema=self.schema)
        schema, rest, found = self._document(data)
        try:
            raws = {name: self._migrated(raw, schema) for name, raw in found.items()}
            entries = {name: self._decoded(raw) for name, raw in raws.items()}
        except _UNREADABLE as error:
            raise CorruptIndexError(self.path, str(error)) from error
        wrong = next((name for name, entry in entries.items() if entry.id != name), None)
        if wrong is not None:
            raise CorruptIndexError(self.path, f"the entry {wrong!r} calls itself {entries[wrong].id!r}")
        return _Content(entries=entries, raws=raws, rest=rest, schema=schema)

    def _document(self, data: bytes) -> tuple[int, _Raw, _Raw]:
        """The schema, what stands beside the entries, and the entries."""
        try:
            document = msgspec.json.decode(data, type=_Raw)
            schema = msgspec.json.decode(document.pop("schema", b"null"), type=int)
        except _UNREADABLE as error:
            raise CorruptIndexError(self.path, str(error)) from error
        if schema > self.schema:
            raise SchemaVersionError(self.path, schema, self.schema, kept=_kept_as(self.path, self.schema))
        if schema < 1:
            raise CorruptIndexError(self.path, f"there is no schema {schema}")
        try:
            entries = msgspec.json.decode(document.pop("entries", b"null"), type=_Raw)
        except _UNREADABLE as error:
            raise CorruptIndexError(self.path, str(error)) from error
        return schema, document, entries

    def _migrated(self, raw: msgspec.Raw, schema: int) -> _Raw:
        if schema != self.schema:
            raw = msgspec.Raw(msgspec.json.encode(migrate(msgspec.json.decode(raw, type=Json), schema, self._steps)))
        return msgspec.json.decode(raw, type=_Raw)

    def _decoded(self, raw: _Raw) -> E:
        return self._entry.decode(msgspec.json.encode(raw))

    # --- mending ------------------------------------------------------------------------------------------------------

    def _load_or_mend(self) -> tuple[_Content[E], Recovery | None]:
        try:
            content = self._load()
        except CorruptIndexError as error:
            return self._rebuild(error)
        if content.schema == self.schema:
            return content, None
        kept = _kept_as(self.path, content.schema)
        if not kept.exists():  # else it is from an earlier time, or from a conversion that was killed
            write_atomic(kept, self.path.read_bytes())
        self._write(content.entries, content)
        return content, Conversion(path=self.path, kept_as=kept, found=content.schema, schema=self.schema)

    def _rebuild(self, error: CorruptIndexError) -> tuple[_Content[E], Rebuilding]:
        salvaged = self._salvage()
        entries = {entry.id: entry for entry in self._discover()} | salvaged.entries
        content = _Content(entries=entries, raws=salvaged.raws, schema=self.schema)
        aside = self._set_aside()
        self._write(entries, content)
        return content, Rebuilding(path=self.path, moved_to=aside, reason=error.reason, kept=len(entries))

    def _salvage(self) -> _Content[E]:
        """The entries of a damaged index that are whole and worth keeping."""
        try:
            schema, _, found = self._document(self.path.read_bytes())
        except (CorruptIndexError, *_UNREADABLE):
            return _Content()
        entries: dict[str, E] = {}
        raws: dict[str, _Raw] = {}
        for name, raw in found.items():
            with contextlib.suppress(*_UNREADABLE):
                migrated = self._migrated(raw, schema)
                entry = self._decoded(migrated)
                if entry.id == name and self._keep(entry):
                    entries[name], raws[name] = entry, migrated
        return _Content(entries=entries, raws=raws)

    def _set_aside(self) -> Path:
        """Keep a copy for whoever wants to know what happened.

        A copy, for until the rebuilt index replaces it the damaged one has to stay: killed in between, the next writer
        starts over instead of finding nothing and asking no questions.
        """
        data = self.path.read_bytes()
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.corrupt-{number}")).exists():
            if aside.read_bytes() == data:
                return aside  # whoever made it was killed before it could replace the index
            number += 1
        write_atomic(aside, data)
        return aside

    # --- writing ------------------------------------------------------------------------------------------------------

    def _write(self, entries: Mapping[str, E], before: _Content[E]) -> None:
        made = {name: self._encoded(entry, before.raws.get(name, {})) for name, entry in sorted(entries.items())}
        document = {"schema": self.schema, "entries": made, **before.rest}
        write_atomic(self.path, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")

    def _encoded(self, entry: E, before: _Raw) -> _Raw:
        """The entry, with what the file says of it that this version does not know."""
        unknown = {name: value for name, value in before.items() if name not in self._known}
        return msgspec.json.decode(msgspec.json.encode(entry), type=_Raw) | unknown


def _kept_as(path: Path, schema: int) -> Path:
    """Where an index of an older schema is kept when it is converted."""
    return path.with_name(f"{path.name}.schema-{schema}")

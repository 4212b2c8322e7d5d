"""The engines of this machine: ``engines.json``, enough to say later what produced an answer.

Decides what may be asked of the engine catalog. Never touches the artifacts that an entry names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from catalog_core.errors import EntryNotFoundError
from catalog_core.index import Index, Recovery
from catalog_core.migrations import ENGINES
from contracts.engines import EngineEntry


class EngineCatalogStore(Protocol):
    """Where engine entries are kept. Every change returns what had to be mended first, None as a rule."""

    def put(self, entry: EngineEntry, *, now_ms: int) -> Recovery | None:
        """Add the entry, or replace the one with its id, whose ``created_ms`` stays."""

    def delete(self, identifier: str) -> Recovery | None:
        """Forget an engine; its artifacts stay. Raises EntryNotFoundError."""

    def get(self, identifier: str) -> EngineEntry:
        """One engine. Raises EntryNotFoundError."""

    def list(self) -> tuple[EngineEntry, ...]:
        """All engines, by id."""

    def exists(self, identifier: str) -> bool:
        """Whether the engine is catalogued. Never writes."""


class FsEngineCatalog:
    """The engine catalog in the directory ``root``. Constructing it touches nothing; every method blocks on files.

    ``discover`` finds engines on the disk when a damaged index has to be rebuilt. Every method raises CatalogError.
    """

    def __init__(
        self, root: Path, *, discover: Callable[[], Iterable[EngineEntry]] = tuple, lock_wait_s: float = 10.0
    ) -> None:
        self.root = root
        self._index = Index(
            root / "engines.json", EngineEntry, steps=ENGINES, discover=discover, lock_wait_s=lock_wait_s
        )

    def recover(self) -> Recovery | None:
        """Mend an index that cannot be read, convert an older one: a daemon does it first, and says it."""
        return self._index.recover()

    def put(self, entry: EngineEntry, *, now_ms: int) -> Recovery | None:
        """Add the entry, or replace the one with its id, whose ``created_ms`` stays."""

        def change(entries: dict[str, EngineEntry]) -> None:
            known = entries.get(entry.id)
            created_ms = known.created_ms if known else entry.created_ms or now_ms
            entries[entry.id] = replace(entry, created_ms=created_ms)

        return self._index.update(change)

    def delete(self, identifier: str) -> Recovery | None:
        """Forget an engine; its artifacts stay. Raises EntryNotFoundError."""

        def change(entries: dict[str, EngineEntry]) -> None:
            del entries[_entry_in(entries, identifier).id]

        return self._index.update(change)

    def get(self, identifier: str) -> EngineEntry:
        """One engine. Raises EntryNotFoundError."""
        return _entry_in(self._index.read(), identifier)

    def list(self) -> tuple[EngineEntry, ...]:
        """All engines, by id."""
        return tuple(entry for _, entry in sorted(self._index.read().items()))

    def exists(self, identifier: str) -> bool:
        """Whether the engine is catalogued. Never writes."""
        return identifier in self._index.read()


def _entry_in(entries: dict[str, EngineEntry], identifier: str) -> EngineEntry:
    try:
        return entries[identifier]
    except KeyError:
        raise EntryNotFoundError(
            f"there is no engine {identifier!r} in the catalog", "`llama-orch ensure` prepares one"
        ) from None

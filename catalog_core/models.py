"""The models of this machine: ``models.json``.

Decides what may be asked of the model catalog, and that a path that has to be below a directory cannot lead out of it.
Never reads, moves or removes a model's file: deleting an entry forgets the model and leaves the file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec.structs import replace

from catalog_core.errors import CatalogError, EntryNotFoundError, OutsideRootError
from catalog_core.index import Index, Recovery
from catalog_core.migrations import MODELS
from contracts.engines import ModelEntry, ModelState


class FsModelCatalog:
    """The model catalog in the directory ``root``. Constructing it touches nothing; every method blocks on files.

    ``discover`` finds models on the disk when a damaged index has to be rebuilt.
    """

    def __init__(
        self, root: Path, *, discover: Callable[[], Iterable[ModelEntry]] = tuple, lock_wait_s: float = 10.0
    ) -> None:
        self.root = root
        self._index = Index(
            root / "models.json",
            ModelEntry,
            steps=MODELS,
            keep=lambda entry: self._path_of(entry).exists(),
            discover=discover,
            lock_wait_s=lock_wait_s,
        )

    def recover(self) -> Recovery | None:
        """Mend an index that cannot be read, convert an older one: a daemon does it first, and says it."""
        return self._index.recover()

    def put(self, entry: ModelEntry, *, now_ms: int) -> Recovery | None:
        """Add the entry, or replace the one with its id, whose ``created_ms`` stays.

        This and every other change return what had to be mended first, None as a rule.
        """

        def change(entries: dict[str, ModelEntry]) -> None:
            known = entries.get(entry.id)
            created_ms = known.created_ms if known else entry.created_ms or now_ms
            entries[entry.id] = replace(entry, created_ms=created_ms)

        return self._index.update(change)

    def admit(self, entry: ModelEntry, *, now_ms: int) -> Recovery | None:
        """As ``put``, but what was decided about a known model stays: its state with the reason, and that it is pinned.

        So a model that was taken out of use does not come back because somebody starts a pool with it.
        """

        def change(entries: dict[str, ModelEntry]) -> None:
            known = entries.get(entry.id)
            if known is None:
                entries[entry.id] = replace(entry, created_ms=entry.created_ms or now_ms)
                return
            entries[entry.id] = replace(
                entry,
                created_ms=known.created_ms,
                state=known.state,
                state_reason=known.state_reason,
                pinned=known.pinned or entry.pinned,
            )

        return self._index.update(change)

    def set_state(self, identifier: str, state: ModelState, reason: str | None = None) -> Recovery | None:
        """Make a model Active or Retired; ``reason`` is why it is Retired. Raises EntryNotFoundError."""
        kept = reason if state is ModelState.RETIRED else None
        return self.alter(identifier, lambda entry: replace(entry, state=state, state_reason=kept))

    def rename(self, identifier: str, new: str) -> Recovery | None:
        """Give a model another id. Raises EntryNotFoundError; CatalogError where another model has it."""

        def change(entries: dict[str, ModelEntry]) -> None:
            entry = _entry_in(entries, identifier)
            if new in entries and new != identifier:
                raise CatalogError(f"the id {new!r} belongs to another model", "choose another one")
            del entries[identifier]
            entries[new] = replace(entry, id=new)

        return self._index.update(change)

    def alter(self, identifier: str, change: Callable[[ModelEntry], ModelEntry]) -> Recovery | None:
        """Replace an entry by what ``change`` makes of it as it is now. Raises EntryNotFoundError."""

        def apply(entries: dict[str, ModelEntry]) -> None:
            entries[identifier] = change(_entry_in(entries, identifier))

        return self._index.update(apply)

    def delete(self, identifier: str) -> Recovery | None:
        """Forget a model; its file stays. Raises EntryNotFoundError."""

        def change(entries: dict[str, ModelEntry]) -> None:
            del entries[_entry_in(entries, identifier).id]

        return self._index.update(change)

    def identity(self) -> object:
        """What changes whenever the index does, without reading it. Never raises."""
        return self._index.identity()

    def get(self, identifier: str) -> ModelEntry:
        """One model. Raises EntryNotFoundError, and like every reader CorruptIndexError and SchemaVersionError."""
        return _entry_in(self._index.read(), identifier)

    def list(self, state: ModelState | None = None) -> tuple[ModelEntry, ...]:
        """All models, or those in one state, by id."""
        entries = sorted(self._index.read().items())
        return tuple(entry for _, entry in entries if state is None or entry.state is state)

    def exists(self, identifier: str) -> bool:
        """Whether the model is catalogued. Never writes."""
        return identifier in self._index.read()

    def locate(self, identifier: str, *, within: Path | None = None) -> Path:
        """The file or the directory of a model, which is there. Never writes.

        An absolute path is its owner's affair unless ``within`` names the directory that it has to be in; a relative
        one is below the catalog's root. Raises EntryNotFoundError, and OutsideRootError for a path that leads out,
        be it by ``..`` or by a symbolic link.
        """
        entry = self.get(identifier)
        path = self._path_of(entry)
        root = within or (None if Path(entry.local_path).is_absolute() else self.root)
        if root is not None and not path.resolve().is_relative_to(root.resolve()):
            raise OutsideRootError(identifier, path, root)
        if not path.exists():
            raise EntryNotFoundError(
                f"the model {identifier!r} is gone: {path}", "put it back, or delete the catalog entry"
            )
        return path

    def _path_of(self, entry: ModelEntry) -> Path:
        return self.root / entry.local_path


def _entry_in(entries: dict[str, ModelEntry], identifier: str) -> ModelEntry:
    try:
        return entries[identifier]
    except KeyError:
        raise EntryNotFoundError(f"there is no model {identifier!r} in the catalog") from None

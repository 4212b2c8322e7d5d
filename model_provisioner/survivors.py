"""What is still known of models when the catalog is lost: from their provenance, the notes of the cache, the events.

Decides which entries a rebuilt catalog gets, and that it does not bring back what was forgotten or put back into use
what was Retired. What lies in the cache without a note is left alone: nobody knows what it was. Blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec
from msgspec.structs import replace

from catalog_core.errors import CatalogError
from catalog_core.journal import read_lines
from contracts.engines import ModelEntry, ModelState
from model_provisioner import events, local, provenance, reference
from model_provisioner.errors import ModelError
from model_provisioner.events import Event, EventKind
from model_provisioner.folder import Folder
from model_provisioner.reference import LocalFile
from model_provisioner.shelf import NOTES, Fetched

_ROOT = PurePosixPath("/")


def surviving(journals: Path, cache: Path) -> Iterator[ModelEntry]:
    """Entries for a catalog that cannot be read any more. Their content counts as not verified.

    ``journals`` is the directory of the provenance journals, ``cache`` that of fetched models. Raises CatalogError.
    """
    last = _last_events(journals)
    told = {entry.local_path: entry for entry in provenance.known_models(journals)}
    noted = {entry.local_path: entry for entry in _noted(cache)}
    taken: set[str] = set()
    for entry in (noted | told).values():
        if (kept := _as_it_was(entry, last.get(entry.id, ()))) is not None and kept.id not in taken:
            taken.add(kept.id)
            yield kept


def fetched_digests(root: Path, path: Path) -> dict[Path, str]:
    """What the files of the model at ``path`` were when they were fetched, as ``sha256:<hex>``; nothing if unknown."""
    for _, fetched in _notes(root):
        if root / fetched.path == path:
            return {root / fetched.folder / file.name: f"sha256:{file.sha256}" for file in fetched.files}
    return {}


def forget_fetched(root: Path, path: Path) -> None:
    """Nothing is remembered any more of what came to the model at ``path``. Raises OSError."""
    for note, fetched in _notes(root):
        if root / fetched.path == path:
            with Folder.open(root / NOTES, below=root) as notes:
                notes.remove(note.name)


def _notes(root: Path) -> Iterator[tuple[Path, Fetched]]:
    for note in sorted((root / NOTES).glob("*.json")):
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
            yield note, msgspec.json.decode(note.read_bytes(), type=Fetched)


def _noted(cache: Path) -> Iterator[ModelEntry]:
    """The models of which the cache has a note and all files, in their sizes."""
    root = cache.resolve()
    for note, fetched in _notes(root):
        with contextlib.suppress(OSError, ModelError):
            place = reference.parse(fetched.ref, _ROOT)
            folder = root / fetched.folder
            here = all((folder / file.name).stat().st_size == file.size_bytes for file in fetched.files)
            if isinstance(place, LocalFile) or not here or not (root / fetched.path).is_relative_to(root):
                continue
            found = local.inspect(str(root / fetched.path))
            single = fetched.files[0].sha256 if len(fetched.files) == 1 and fetched.entry is not None else None
            yield ModelEntry(
                id=reference.name_of(place),
                ref=fetched.ref,
                local_path=str(found.path),
                size_bytes=found.size_bytes,
                digest=f"sha256:{single}" if single else "",
                format=found.format,
                fetched=True,
                source=fetched.source,
                created_ms=note.stat().st_mtime_ns // 1_000_000,
            )


def _last_events(journals: Path) -> dict[str, tuple[Event, ...]]:
    found: dict[str, tuple[Event, ...]] = {}
    with contextlib.suppress(CatalogError):
        for event in read_lines(journals / events.FILE, Event):
            found[event.id] = (*found.get(event.id, ()), event)[-8:]
    return found


def _as_it_was(entry: ModelEntry, happened: tuple[Event, ...]) -> ModelEntry | None:
    """The entry as the events leave it; None where it was forgotten after it was last here."""
    for event in happened:
        match event.kind:
            case EventKind.DELETED | EventKind.REMOVED if event.at_ms >= entry.created_ms:
                return None
            case EventKind.RETIRED:
                entry = replace(entry, state=ModelState.RETIRED, state_reason=event.message)
            case EventKind.ACTIVATED:
                entry = replace(entry, state=ModelState.ACTIVE, state_reason=None)
            case _:
                continue
    return entry

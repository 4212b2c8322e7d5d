"""The models that were fetched: what they take on the disk, who used them when, and their removal.

Carries out what ``eviction`` decides. An entry leaves the catalog before its files leave the disk, so a manager that
dies in between leaves files without an entry, which the next one finds, and never an entry without its files. Never
touches a file outside the cache, nor one through a symbolic link. Every method blocks on files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import msgspec
from msgspec.structs import replace

from catalog_core.errors import CatalogError, EntryNotFoundError
from catalog_core.index import Index
from catalog_core.lock import locked
from catalog_core.models import FsModelCatalog
from contracts.base import Message
from contracts.config import Models
from contracts.engines import ModelEntry
from contracts.pools import Cause
from model_provisioner import events, quarantine, reference
from model_provisioner.errors import ModelError, ReferenceInvalidError
from model_provisioner.eviction import Cached, CachedFile, NoRoom, Removal, Wanted, decide
from model_provisioner.holds import Hold, holders
from model_provisioner.part import PART
from model_provisioner.quarantine import Quarantine, Suspect
from model_provisioner.reference import LocalFile
from model_provisioner.shelf import Fetched, Shelf
from model_provisioner.sources import listing
from model_provisioner.survivors import fetched_digests, forget_fetched

_log = logging.getLogger(__name__)

USES = "uses.json"
LOCK = ".room.lock"
BUSY_MS = 600_000
"""What was written to in the last ten minutes may be written to by another process."""
_AT = re.compile(r"\d{1,16}(?=-)")
"""When something was set aside, as its name begins."""


class _Use(Message, frozen=True, kw_only=True):
    id: str
    at_ms: int


class _UnderWay(Message, frozen=True, kw_only=True):
    """What is being fetched into one folder, all together, and how much lay there before."""

    before_bytes: int
    fetches: int = 0
    size_bytes: int = 0

    def to_come(self, now_bytes: int) -> int:
        """What will still be written, where so much lies there now."""
        return max(0, self.size_bytes - max(0, now_bytes - self.before_bytes))


class ModelCache:
    """The fetched models below ``root``. Constructing it touches nothing.

    ``holds`` says who needs which model right now; it is called in the thread of whoever calls here. ``journal`` is the
    directory of the provenance journals. Relative paths in references start from ``base_dir``. ``clock`` gives Unix
    milliseconds.
    """

    def __init__(
        self,
        root: Path,
        catalog: FsModelCatalog,
        *,
        settings: Models,
        journal: Path,
        base_dir: Path,
        clock: Callable[[], int],
        holds: Callable[[], Iterable[Hold]] = tuple,
    ) -> None:
        self._root = Path(os.path.realpath(root))
        self._shelf = Shelf(root, Quarantine(self._root, clock))
        self._catalog = catalog
        self._settings = settings
        self._journal = journal
        self._base_dir = PurePosixPath(base_dir)
        self._clock = clock
        self._holds = holds
        self._uses = Index(root / USES, _Use)
        self._changing = threading.Lock()
        self._under_way: dict[Path, _UnderWay] = {}
        """By the folder; replaced whole, for it is looked at in several threads."""

    def make_room(self, size_bytes: int, target: Path) -> tuple[str, ...]:
        """Have room for ``size_bytes`` more, to be written below ``target``, a folder of the cache.

        From now until ``release(target)`` nothing below ``target`` is removed, and the room counts as taken. Answers
        with what was removed, in lines for people. Raises ModelError, and then nothing was removed.
        """
        with self._alone():
            reserved = sum(each.to_come(_size_below(path)) for path, each in self._under_way.items())
            wanted = Wanted(size_bytes=size_bytes, max_bytes=self._settings.max_bytes, reserved_bytes=reserved)
            self._take(target, size_bytes)
            try:
                return self._remove(self._decided(wanted))
            except BaseException:
                self.release(target)
                raise

    def release(self, target: Path) -> None:
        """One fetch into ``target`` is over, well or badly. Call it once the catalog has the model. Never raises."""
        with self._changing:
            known = self._under_way.get(target)
            rest = {path: each for path, each in self._under_way.items() if path != target}
            if known is not None and known.fetches > 1:  # two models of one repository lie in one folder
                rest[target] = replace(known, fetches=known.fetches - 1)
            self._under_way = rest

    def _decided(self, wanted: Wanted) -> Removal:
        found = decide(self._stock(), wanted, self._clock())
        if isinstance(found, NoRoom):
            raise ModelError(Cause.MODEL_FETCH, found.message, found.hint)
        return found

    def _take(self, target: Path, size_bytes: int) -> None:
        with self._changing:
            known = self._under_way.get(target, _UnderWay(before_bytes=_size_below(target)))
            more = replace(known, fetches=known.fetches + 1, size_bytes=known.size_bytes + size_bytes)
            self._under_way = {**self._under_way, target: more}

    def sweep(self) -> tuple[str, ...]:
        """Remove what is left of old downloads, and models above the cap. Never raises."""
        try:
            with self._alone():
                wanted = Wanted(size_bytes=0, max_bytes=self._settings.max_bytes)
                stock = self._stock()
                found = decide(stock, wanted, self._clock())
                lines = (found.message,) if isinstance(found, NoRoom) else self._remove(found)
                forgotten = [each.name for each in stock if each.id is None and not each.leftover and not each.held_by]
                if forgotten:
                    some = ", ".join(forgotten[:3])
                    lines += (f"{len(forgotten)} files in the cache belong to no model of the catalog, such as {some}",)
                return lines
        except ModelError as error:
            return (f"{error.message}; {error.hint}",)

    def used(self, identifier: str) -> None:
        """A model was just used: a pool starts with it, or somebody pulled it. Never raises."""

        def change(uses: dict[str, _Use]) -> None:
            known = {entry.id for entry in self._catalog.list()} | {identifier}
            for gone in uses.keys() - known:
                del uses[gone]
            uses[identifier] = _Use(id=identifier, at_ms=self._clock())

        try:
            self._uses.update(change)
        except CatalogError as error:  # then it counts as used when it was fetched
            _log.warning("when %s was used is not remembered: %s", identifier, error.message)

    def remove_files(self, entry: ModelEntry) -> tuple[str, ...]:
        """Remove a model that the catalog has forgotten, as far as no other entry has its files. Raises ModelError."""
        with self._alone():
            claimed = self._claimed(self._entries())
            files = tuple(file for file in self._files_of(entry) if file.path not in claimed)
            forget_fetched(self._root, Path(entry.local_path))
            return self._remove(Removal(gone=(Cached(files=files, used_ms=0),), freed_bytes=0), entry.id)

    def files(self, entry: ModelEntry) -> tuple[Path, ...]:
        """The files of a fetched model that are here, whatever is in them; none where it is a user's own."""
        if not self._is_ours(entry):
            return ()
        return tuple(path for name in self._names_of(Path(entry.local_path)) for path in _files_below(name))

    def quarantine(self, entry: ModelEntry, found: Mapping[Path, str]) -> tuple[Path, ...]:
        """Set aside what is wrong of a fetched model; nothing where it is a user's own. Raises ModelError.

        ``found`` has the digests that were read. Where several files make up the model, those stay that are what came.
        """
        if not self._is_ours(entry):
            return ()
        with self._alone():
            files = self.files(entry)
            came = fetched_digests(self._root, Path(entry.local_path))
            wrong = [path for path in files if path not in found or found[path] != came.get(path)]
            aside = []
            for path in wrong if came and len(files) > 1 else files:
                inside = path.relative_to(self._root)
                suspect = Suspect(
                    ref=entry.ref,
                    source=entry.source or entry.ref,
                    file=path.name,
                    expected=(came.get(path) or entry.digest).removeprefix("sha256:"),
                    found=found.get(path, "").removeprefix("sha256:"),
                    came=False,
                )
                aside.append(self._shelf.set_aside(str(inside.parent), path.name, suspect))
                self._prune(path.parent)
            return tuple(aside)

    def with_paths(self, holds: Iterable[Hold]) -> tuple[Hold, ...]:
        """These holds, and what their references came to, by its path.

        An entry has the reference by which its model was asked for last; others may have come to the same files.
        """
        given = tuple(holds)
        came = ((hold, self._fetched_for(hold)) for hold in given)
        return (*given, *(replace(hold, ref=str(self._root / found.path)) for hold, found in came if found is not None))

    # --- what is there ------------------------------------------------------------------------------------------------

    def _stock(self) -> tuple[Cached, ...]:
        holds, uses = self._all_holds(), self._last_uses()
        models, entries = [], self._entries()
        for entry in entries:
            if files := self._files_of(entry):
                by = holders(entry, holds, self._base_dir) + (("its own entry",) if entry.pinned else ())
                under_way = tuple("a fetch under way" for file in files[:1] if self._is_under_way(Path(file.path)))
                used_ms = uses.get(entry.id, entry.created_ms)
                models.append(Cached(files=files, used_ms=used_ms, id=entry.id, held_by=by + under_way))
        return (*models, *self._unclaimed(self._claimed(entries), self._came_for(holds)))

    def _claimed(self, entries: Iterable[ModelEntry]) -> frozenset[str]:
        """The files in the cache that belong to an entry, also to one whose owner put them there by hand."""
        places = (Path(entry.local_path) for entry in entries)
        names = (name for place in places if place.is_relative_to(self._root) for name in self._names_of(place))
        return frozenset(str(path) for name in names for path in _files_below(name))

    def _came_for(self, holds: Iterable[Hold]) -> dict[str, tuple[str, ...]]:
        """Who holds which file by a reference that it came for, also where the catalog knows it as another's."""
        found: dict[str, tuple[str, ...]] = {}
        for hold in holds:
            if (fetched := self._fetched_for(hold)) is not None:
                for file in fetched.files:
                    path = str(self._root / fetched.folder / file.name)
                    found[path] = (*found.get(path, ()), hold.by)
        return found

    def _fetched_for(self, hold: Hold) -> Fetched | None:
        """What the reference of a hold came to; None where it names no remote place, or nothing is known."""
        try:
            place = reference.parse(hold.ref or "", self._base_dir)
            return None if isinstance(place, LocalFile) else self._shelf.remembered(place)
        except (ReferenceInvalidError, OSError):
            return None

    def _unclaimed(self, claimed: frozenset[str], came_for: Mapping[str, tuple[str, ...]]) -> Iterator[Cached]:
        """The files that no entry has: half fetched, set aside, or forgotten."""
        now_ms = self._clock()
        # When each folder was written to last: another process that fetches a split model is done with its first part.
        written_to: dict[Path, int] = {}
        found: list[tuple[CachedFile, int, Path]] = []
        for path in _files_below(self._root):
            inside = path.relative_to(self._root)
            if str(path) in claimed or len(inside.parts) == 1 or inside.parts[0].startswith("."):
                continue  # right below the root, and in its hidden folders, are our own notes
            with contextlib.suppress(OSError):
                file, written_ms = _file_at(path)
                if inside.parts[0] == quarantine.NAME:
                    aside_ms = _AT.match(path.name)
                    used_ms = int(aside_ms[0]) if aside_ms else written_ms
                    yield Cached(files=(file,), used_ms=used_ms, leftover=True)
                    continue
                found.append((file, written_ms, path))
                written_to[path.parent] = max(written_ms, written_to.get(path.parent, 0))
        for file, written_ms, path in found:
            busy = self._is_under_way(path) or now_ms - written_to[path.parent] < BUSY_MS
            by = dict.fromkeys(came_for.get(str(path), ()))
            yield Cached(
                files=(file,),
                used_ms=written_ms,
                held_by=(*by, *(("a fetch under way",) if busy else ())),
                leftover=PART in path.name,
            )

    def _files_of(self, entry: ModelEntry) -> tuple[CachedFile, ...]:
        found = []
        for path in self.files(entry):
            with contextlib.suppress(OSError):
                found.append(_file_at(path)[0])
        return tuple(found)

    def _names_of(self, path: Path) -> list[Path]:
        """The path of a model, or those of all parts of a split one, as far as they are here."""
        names = listing.parts_of(path.name) or (path.name,)
        return [each for name in names if (each := path.parent / name).exists()]

    def _is_ours(self, entry: ModelEntry) -> bool:
        """Whether it was fetched into this cache, and no link leads out of it."""
        path = Path(entry.local_path)
        if not entry.fetched or not path.is_absolute() or ".." in path.parts or not path.is_relative_to(self._root):
            return False
        return (path.parent.resolve() / path.name).is_relative_to(self._root.resolve()) and not path.is_symlink()

    def _is_under_way(self, path: Path) -> bool:
        return any(path.is_relative_to(target) for target in self._under_way)

    def _all_holds(self) -> tuple[Hold, ...]:
        pinned = (Hold(by="models.pinned", ref=ref) for ref in self._settings.pinned)
        return self.with_paths((*self._holds(), *pinned))

    def _entries(self) -> tuple[ModelEntry, ...]:
        try:
            return self._catalog.list()
        except CatalogError as error:
            raise ModelError(Cause.INTERNAL, error.message, error.hint) from error

    def _last_uses(self) -> dict[str, int]:
        try:
            return {use.id: use.at_ms for use in self._uses.read().values()}
        except CatalogError:
            return {}

    # --- removing -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time, among all processes. An error of the disk or of the catalog becomes a ModelError."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with locked(self._root / LOCK):
                yield
        except CatalogError as error:
            raise ModelError(Cause.INTERNAL, error.message, error.hint) from error
        except OSError as error:
            message = f"cannot make room in {self._root}: {error.strerror or error}"
            raise ModelError(Cause.MODEL_FETCH, message, "see that this user owns it and everything in it") from error

    def _remove(self, removal: Removal, name: str | None = None) -> tuple[str, ...]:
        lines = []
        for each in removal.gone:
            if each.id is not None:
                with contextlib.suppress(EntryNotFoundError):
                    path = Path(self._catalog.get(each.id).local_path)
                    self._catalog.delete(each.id)
                    forget_fetched(self._root, path)
            for file in each.files:
                Path(file.path).unlink(missing_ok=True)
                self._prune(Path(file.path).parent)
            size = sum(file.size_bytes for file in each.files)
            lines.append(f"removed {name or each.name} from the cache, {size} bytes")
            if identifier := each.id or name:
                event = events.Event(
                    at_ms=self._clock(), kind=events.EventKind.REMOVED, id=identifier, message=lines[-1]
                )
                events.note(self._journal, event)
        return tuple(lines)

    def _prune(self, folder: Path) -> None:
        """Remove a folder that has become empty, and those above it."""
        while folder != self._root and folder.is_relative_to(self._root):
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


def engines_left(handles: Path) -> tuple[Hold, ...]:
    """The models of engines that run or ran last, by their digest, as the handle files of a manager say.

    They outlive their manager, so a model may be in use although nobody answers for it.
    """
    found = []
    for path in sorted(handles.glob("*.json")):
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            handle = msgspec.json.decode(path.read_bytes(), type=_Handle)
            if handle.model_digest:
                found.append(Hold(by=f"an engine of pool {handle.pool_id}", digest=handle.model_digest, serves=True))
    return tuple(found)


class _Handle(Message, frozen=True, kw_only=True):
    pool_id: str
    model_digest: str | None = None


def _files_below(path: Path) -> Iterator[Path]:
    """The regular files at or below a path; no link is followed."""
    if path.is_symlink():
        return
    if path.is_file():
        yield path
        return
    for folder, _, names in os.walk(path):
        for name in sorted(names):
            file = Path(folder, name)
            if not file.is_symlink() and file.is_file():
                yield file


def _file_at(path: Path) -> tuple[CachedFile, int]:
    status = path.lstat()
    # Sparse or not, what counts is what it will take.
    file = CachedFile(path=str(path), size_bytes=status.st_size, inode=f"{status.st_dev}:{status.st_ino}")
    return file, status.st_mtime_ns // 1_000_000


def _size_below(folder: Path) -> int:
    """What lies in a folder; what goes away meanwhile counts no more."""
    size = 0
    for file in _files_below(folder):
        with contextlib.suppress(OSError):
            size += file.lstat().st_size
    return size

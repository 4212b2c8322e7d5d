"""The models of this machine: its catalog and its cache, with a daemon or without one.

Decides what counts as in use: what a running daemon's pools serve, else what the configuration's pools are to serve.
Daemon and command line go by the same locks. Never removes a file that nobody fetched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec
from msgspec.structs import replace

from catalog_core.errors import CatalogError, CorruptIndexError
from catalog_core.journal import read_lines
from catalog_core.models import FsModelCatalog
from contracts.catalog import CatalogModel
from contracts.config import Config
from contracts.engines import ModelEntry, ModelState
from daemon_core.paths import Paths
from llama_orch.errors import ApiError
from llama_orch.models.usage import configured, in_use, served, unknown
from llama_orch.models.values import Details, File, Happened, Known, Past, Pulled, Removed, Stock, Verdict, Wish
from llama_orch.models.words import ref_text
from llama_orch.progress import Shown
from llama_orch.session import Session
from model_provisioner import events, holds, local, provenance
from model_provisioner.cache import ModelCache, engines_left
from model_provisioner.digest import DigestMemory
from model_provisioner.errors import ModelError
from model_provisioner.events import Event, EventKind
from model_provisioner.holds import Hold
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.provisioner import ModelProvisioner
from model_provisioner.sources.base import Transferred
from model_provisioner.survivors import surviving
from model_provisioner.verify import ModelVerifier


class HereShelf:
    """See Shelf. ``session`` is how this machine's own daemon is reached, should it run."""

    place = None

    def __init__(self, config: Config, session: Session, environ: Mapping[str, str]) -> None:
        self._config = config
        self._paths = Paths.resolve(config.paths, environ)
        self._environ = environ
        self._session = session
        self._notices: list[str] = []
        """What had to be mended."""
        self._base_dir = PurePosixPath(session.config_path.absolute().parent)
        self._catalog = FsModelCatalog(
            self._paths.catalog, discover=partial(surviving, self._paths.provenance, self._paths.models)
        )

    async def stock(self) -> Stock:
        """See Shelf."""
        with _told():
            entries = self._entries()
        used = await self._holds()
        models = tuple(self._known(entry, used) for entry in entries)
        return Stock(models=models, max_bytes=self._config.models.max_bytes, notices=tuple(self._notices))

    async def details(self, name: str) -> Details:
        """See Shelf."""
        with _told():
            entry = self._named(name)
            journals = self._paths.provenance
            lines = [line for line in provenance.lines(journals) if line.id == entry.id]
            happened = [event for event in read_lines(journals / events.FILE, Event) if event.id == entry.id]
        return Details(
            known=self._known(entry, await self._holds()),
            files=tuple(_files(entry)),
            history=tuple(msgspec.convert(line, Past, from_attributes=True) for line in lines),
            events=tuple(msgspec.convert(event, Happened, from_attributes=True) for event in happened),
        )

    async def pull(self, wish: Wish, shown: Shown) -> Pulled:
        """See Shelf."""
        held, came = await self._holds(), False

        def moved(at: Transferred) -> None:
            nonlocal came
            came = True
            shown.moved(at)

        with _told():
            model = await self._provisioner(held).ensure_present(
                wish.ref, wish.digest, shown.say, wish.engine, refresh=wish.refresh, revive=True, transferred=moved
            )
            if wish.pinned:
                self._catalog.alter(model.id, lambda entry: replace(entry, pinned=True))
            return Pulled(known=self._known(self._catalog.get(model.id), held), fetched=came)

    async def verify(self, name: str, shown: Shown) -> Verdict:
        """See Shelf."""
        with _told():
            entry = self._named(name)
            verdict = await self._verifier(await self._holds()).verify(entry.id, shown.say)
        return Verdict(
            id=entry.id,
            result=verdict.result,
            reason=verdict.reason,
            message=verdict.message,
            hint=verdict.hint,
            digest=verdict.digest,
        )

    async def set_state(
        self, name: str, state: ModelState, reason: str | None = None, *, force: bool = False
    ) -> CatalogModel:
        """See Shelf."""
        with _told():
            entry, held = self._named(name), await self._sure_holds()
            if state is ModelState.RETIRED and not force:
                self._refuse_used(entry, held, "retired")
            self._catalog.set_state(entry.id, state, reason)
            kind = EventKind.RETIRED if state is ModelState.RETIRED else EventKind.ACTIVATED
            self._note(kind, entry.id, reason or "an operator asked for it")
            return self._known(self._catalog.get(entry.id), held).model

    async def remove(self, name: str, *, keep_files: bool) -> Removed:
        """See Shelf."""
        with _told():
            entry, held = self._named(name), await self._sure_holds()
            self._refuse_used(entry, held, "removed")
            files = () if keep_files or not entry.fetched else tuple(_files(entry))
            self._catalog.delete(entry.id)
            self._note(EventKind.DELETED, entry.id, f"forgotten: {entry.local_path}")
            if files:
                await asyncio.to_thread(self._cache(held).remove_files, entry)
            freed = await asyncio.to_thread(_gone, files)
        return Removed(id=entry.id, path=entry.local_path, freed_bytes=freed, own=not entry.fetched)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _entries(self) -> tuple[ModelEntry, ...]:
        try:
            return self._catalog.list()
        except CorruptIndexError:
            recovery = self._catalog.recover()
            if recovery is not None:
                self._notices.append(recovery.render())
                self._note(EventKind.RECOVERED, "", recovery.render())
            return self._catalog.list()

    def _named(self, name: str) -> ModelEntry:
        """A model by its id, else by its reference. Raises ApiError with the nearest ids."""
        entries = self._entries()
        for entry in entries:
            if entry.id == name:
                return entry
        wanted = holds.normal(name, self._base_dir)
        for entry in entries:
            if wanted in {holds.normal(entry.ref, self._base_dir), entry.local_path}:
                return entry
        raise unknown(name, [entry.id for entry in entries])

    def _known(self, entry: ModelEntry, used: Sequence[Hold]) -> Known:
        pools = holds.holders(entry, used, self._base_dir)
        return Known(model=_model(entry, pools), here=Path(entry.local_path).exists())

    def _refuse_used(self, entry: ModelEntry, held: Sequence[Hold], what: str) -> None:
        used = holds.holders(entry, held, self._base_dir)
        if used:
            raise in_use(entry.id, used, what)

    def _cache(self, held: Sequence[Hold]) -> ModelCache:
        return ModelCache(
            self._paths.models,
            self._catalog,
            settings=self._config.models,
            journal=self._paths.provenance,
            base_dir=Path(self._base_dir),
            clock=_unix_ms,
            holds=lambda: held,
        )

    def _provisioner(self, held: Sequence[Hold]) -> ModelProvisioner:
        return ModelProvisioner(
            self._paths.models,
            self._catalog,
            self._paths.provenance,
            Path(self._base_dir),
            _unix_ms,
            gate=OutboundGate(policy=self._config.policy, environ=self._environ),
            environ=self._environ,
            room=self._cache(held),
        )

    def _verifier(self, held: Sequence[Hold]) -> ModelVerifier:
        digests = DigestMemory(self._paths.models / "digests.json")
        return ModelVerifier(self._catalog, self._cache(held), digests, journal=self._paths.provenance, clock=_unix_ms)

    def _note(self, kind: EventKind, identifier: str, message: str) -> None:
        event = Event(at_ms=_unix_ms(), kind=kind, id=identifier, message=message)
        events.note(self._paths.provenance, event)

    async def _holds(self) -> tuple[Hold, ...]:
        """What the pools serve, or are to serve; where a daemon does not tell, what the configuration says."""
        try:
            return await self._sure_holds()
        except ApiError as error:
            self._notices.append(f"what the pools use is not known: {self._session.url}: {error.message}")
            return self._configured()

    async def _sure_holds(self) -> tuple[Hold, ...]:
        """As before, for what cannot be undone. Raises ApiError where a daemon runs and does not tell."""
        async with self._session.client() as client:
            if await client.is_up():
                pools = await client.pools()
                return self._by_path(served(pools, (await client.capabilities()).pools, self._config))
        return self._configured()

    def _configured(self) -> tuple[Hold, ...]:
        return self._by_path((*configured(self._config), *engines_left(self._paths.handles)))

    def _by_path(self, held: Sequence[Hold]) -> tuple[Hold, ...]:
        """The entry of a model has one reference; a pool may know it by another that came to the same files."""
        return self._cache(held).with_paths(held)


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong on this machine, as a command tells it."""
    try:
        yield
    except ModelError as error:
        retriable = bool(getattr(error, "retriable", False))
        raise ApiError(str(error.cause).upper(), error.message, hint=error.hint, retriable=retriable) from error
    except CatalogError as error:
        raise ApiError("CATALOG", error.message, hint=error.hint) from error


def _files(entry: ModelEntry) -> Iterator[File]:
    """The files of a model: one, all parts of a split one, or those of a folder in the order of their names. Blocks."""
    path = Path(entry.local_path)
    try:
        found = [file.path for file in local.inspect(entry.local_path).files]
    except ModelError:  # it is damaged, or gone: what lies there counts all the same
        found = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for file in found:
        try:
            yield File(path=str(file), size_bytes=file.stat().st_size)
        except OSError:
            yield File(path=str(file), size_bytes=None)


def _gone(files: Sequence[File]) -> int:
    """How many bytes left the disk: what another entry has as well is still there. Blocks."""
    return sum(file.size_bytes or 0 for file in files if not Path(file.path).exists())


def _model(entry: ModelEntry, pools: tuple[str, ...]) -> CatalogModel:
    """An entry as a client sees it."""
    more = {"ref": ref_text(entry.ref), "pools": pools, "created_ms": entry.created_ms or None}
    return msgspec.convert(msgspec.to_builtins(entry) | more, CatalogModel)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000

"""The models of this machine: its catalog and its cache, with a daemon or without one.

Decides what counts as in use: what a running daemon's pools serve, else what the configuration's pools are to serve.
Daemon and command line go by the same locks. Never removes a file that nobody fetched.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec

from catalog_core.errors import CatalogError, CorruptIndexError
from catalog_core.models import FsModelCatalog
from contracts.catalog import CatalogModel
from contracts.config import Config
from contracts.engines import ModelEntry, ModelState
from daemon_core.paths import Paths
from llama_orch.errors import ApiError
from llama_orch.models.usage import configured, in_use, served, unknown
from llama_orch.models.values import Details, File, Known, Past, Pulled, Removed, Stock, Verdict, Wish
from llama_orch.models.words import ref_text
from llama_orch.progress import Shown
from llama_orch.session import Session
from model_provisioner import holds, provenance
from model_provisioner.errors import ModelError
from model_provisioner.holds import Hold
from model_provisioner.provisioner import ModelProvisioner


class HereShelf:
    """See Shelf. ``session`` is how this machine's own daemon is reached, should it run."""

    place = None

    def __init__(self, config: Config, paths: Paths, session: Session) -> None:
        self._config = config
        self._paths = paths
        self._session = session
        self._base_dir = session.config_path.absolute().parent
        self._catalog = FsModelCatalog(paths.catalog, discover=partial(provenance.known_models, paths.provenance))
        self._models = ModelProvisioner(paths.models, self._catalog, paths.provenance, self._base_dir, _unix_ms)

    async def stock(self) -> Stock:
        """See Shelf."""
        with _told():
            entries = self._entries()
        used = await self._holds()
        models = tuple(self._known(entry, used) for entry in entries)
        return Stock(models=models, max_bytes=self._config.models.max_bytes)

    async def details(self, name: str) -> Details:
        """See Shelf."""
        with _told():
            entry = self._named(name)
            lines = [line for line in provenance.lines(self._paths.provenance) if line.id == entry.id]
        return Details(
            known=self._known(entry, await self._holds()),
            files=tuple(_files(Path(entry.local_path))),
            history=tuple(msgspec.convert(line, Past, from_attributes=True) for line in lines),
        )

    async def pull(self, wish: Wish, shown: Shown) -> Pulled:
        """See Shelf."""
        with _told():
            model = await self._models.ensure_present(wish.ref, wish.digest, shown.say, wish.engine)
            entry = self._catalog.get(model.id)
        return Pulled(known=self._known(entry, await self._holds()))

    async def verify(self, name: str, shown: Shown) -> Verdict:
        """See Shelf."""
        raise NotImplementedError

    async def set_state(self, name: str, state: ModelState, reason: str | None = None) -> CatalogModel:
        """See Shelf."""
        with _told():
            entry = self._named(name)
            if state is ModelState.RETIRED:
                await self._refuse_used(entry, "retired")
            self._catalog.set_state(entry.id, state, reason)
            return _model(self._catalog.get(entry.id), ())

    async def remove(self, name: str, *, keep_files: bool) -> Removed:
        """See Shelf."""
        with _told():
            entry = self._named(name)
            await self._refuse_used(entry, "removed")
            self._catalog.delete(entry.id)
        return Removed(id=entry.id, path=entry.local_path, own=not entry.fetched)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _entries(self) -> tuple[ModelEntry, ...]:
        try:
            return self._catalog.list()
        except CorruptIndexError:
            self._catalog.recover()
            return self._catalog.list()

    def _named(self, name: str) -> ModelEntry:
        """A model by its id, else by its reference. Raises ApiError with the nearest ids."""
        entries = self._entries()
        for entry in entries:
            if entry.id == name:
                return entry
        wanted = holds.normal(name, PurePosixPath(self._base_dir))
        for entry in entries:
            if wanted in {holds.normal(entry.ref, PurePosixPath(self._base_dir)), entry.local_path}:
                return entry
        raise unknown(name, [entry.id for entry in entries])

    def _known(self, entry: ModelEntry, used: Sequence[Hold]) -> Known:
        pools = holds.holders(entry, used, PurePosixPath(self._base_dir))
        return Known(model=_model(entry, pools), here=Path(entry.local_path).exists())

    async def _refuse_used(self, entry: ModelEntry, what: str) -> None:
        used = self._known(entry, await self._holds()).model.pools
        if used:
            raise in_use(entry.id, used, what)

    async def _holds(self) -> tuple[Hold, ...]:
        """What the pools serve, or are to serve. Raises ApiError where a daemon runs and does not tell."""
        async with self._session.client() as client:
            if await client.is_up():
                pools = await client.pools()
                return served(pools, (await client.capabilities()).pools, self._config)
        return configured(self._config)


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


def _files(path: Path) -> Iterator[File]:
    """The files of a model; a folder's in the order of their names."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            yield File(path=str(file), size_bytes=file.stat().st_size)
        except OSError:
            yield File(path=str(file), size_bytes=None)


def _model(entry: ModelEntry, pools: tuple[str, ...]) -> CatalogModel:
    """An entry as a client sees it."""
    more = {"ref": ref_text(entry.ref), "pools": pools, "created_ms": entry.created_ms or None}
    return msgspec.convert(msgspec.to_builtins(entry) | more, CatalogModel)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000

"""The catalog of models as orchestratord shows it: the index, read where it lies, and the jobs that it was told about.

Decides how an entry, a job and the pools become what a client sees. Never writes: what changes the catalog is
pool-managerd's. The index is read in a thread, and only when it is another file than before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from catalog_core.errors import CatalogError
from catalog_core.models import FsModelCatalog
from contracts.catalog import CatalogJob, CatalogModel, JobKind, JobState
from contracts.engines import ModelEntry, ModelState
from orchestratord.pools import PoolDirectory

log = logging.getLogger(__name__)

MAX_JOBS = 512
_ORDER = {state: min(number, 2) for number, state in enumerate(JobState)}
"""Waiting, running, over."""


class CatalogView:
    """The models of the catalog at ``root``."""

    def __init__(self, root: Path, pools: PoolDirectory) -> None:
        self._catalog = FsModelCatalog(root)
        self._pools = pools
        self._identity: object = self
        self._entries: dict[str, ModelEntry] = {}
        self._jobs: dict[tuple[JobKind, str], CatalogJob] = {}
        self._news = asyncio.Event()

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """The entries as they were last read, by id."""
        return tuple(self._entries.values())

    async def refresh(self) -> None:
        """Read the index if it has changed. Raises CatalogError, and then what was read before stands."""
        identity = await asyncio.to_thread(self._catalog.identity)
        if identity != self._identity:
            entries = await asyncio.to_thread(self._catalog.list)
            self._entries = {entry.id: entry for entry in entries}
            self._identity = identity

    async def refresh_quietly(self) -> None:
        """As ``refresh``; an index that cannot be read is logged, and what was read before stands."""
        try:
            await self.refresh()
        except CatalogError as error:
            log.warning("the catalog cannot be read: %s; %s", error.message, error.hint)

    def take(self, job: CatalogJob) -> bool:
        """Take a job as pool-managerd tells it; whether it was seen to end now."""
        key = (job.kind, job.asked_id)
        known = self._jobs.get(key)
        same = known is not None and (known.number, known.started_ms) == (job.number, job.started_ms)
        if known is not None and same and _ORDER[known.state] > _ORDER[job.state]:
            return False  # the answer to a call, and the news have overtaken it
        self._jobs.pop(key, None)
        self._jobs[key] = job
        if len(self._jobs) > MAX_JOBS:
            del self._jobs[next(iter(self._jobs))]
        self._news.set()
        return job.over and same and known is not None and not known.over

    async def ended(self, job: CatalogJob, patience_s: float) -> CatalogJob:
        """The job at its end, or as it is when the patience ends."""
        key = (job.kind, job.asked_id)
        try:
            async with asyncio.timeout(patience_s):
                while not (now := self._jobs.get(key, job)).over or now.number != job.number:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            now = self._jobs.get(key, job)
        return now if now.number == job.number else job

    def get(self, identifier: str) -> CatalogModel | None:
        """A model that is catalogued, or is being pulled or failed to be."""
        job = self._job_of(identifier)
        entry = self._entries.get(identifier) or (self._entries.get(job.model_id) if job is not None else None)
        if entry is not None:
            return self._shown(entry, job)
        if job is None or job.kind is not JobKind.PULL or job.state is JobState.CANCELED:
            return None
        return CatalogModel(id=job.asked_id, ref=job.model_ref, job=job)

    def models(self, state: ModelState | None) -> Iterable[CatalogModel]:
        """Every model, or those in one state, by id; those that are being pulled too, unless a state is asked for."""
        pulled = {job.asked_id for job in self._jobs.values() if job.model_id not in self._entries}
        found = (self.get(name) for name in sorted({*self._entries, *pulled}))
        return (model for model in found if model is not None and state in {None, model.state})

    @property
    def ids(self) -> list[str]:
        """Every id that ``get`` knows."""
        return sorted({*self._entries, *(job.asked_id for job in self._jobs.values())})

    def _job_of(self, identifier: str) -> CatalogJob | None:
        """The newest job on a model."""
        found = [job for job in self._jobs.values() if identifier in {job.asked_id, job.model_id}]
        return max(found, key=lambda job: (job.started_ms, job.number), default=None)

    def _shown(self, entry: ModelEntry, job: CatalogJob | None) -> CatalogModel:
        fields = msgspec.structs.asdict(entry)
        fields |= {"ref": without_query(entry.ref), "digest": entry.digest or None, "created_ms": entry.created_ms}
        return CatalogModel(**fields, job=job, pools=self._users(entry))

    def _users(self, entry: ModelEntry) -> tuple[str, ...]:
        """The pools that are configured with a model, serve it or prepare it."""
        return tuple(
            each.id
            for each in self._pools
            if each.snapshot.model_id == entry.id
            or entry.ref in {each.config.model, each.snapshot.model_ref, each.snapshot.next_model_ref}
        )


def without_query(ref: str) -> str:
    """A reference without what may be a signature."""
    return ref.partition("?")[0] if ref.lower().startswith("https:") else ref

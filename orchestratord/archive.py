"""Keeps artifacts and records: the way from the event loop to the disk and back.

Decides nothing about what is kept (``shelf`` does). One thread does all that waits for a disk. A record is taken
without waiting and written a moment later, several at a time, so that no answer waits for a disk; what waits is
bounded, and what a disk does not take is counted and said. Leaving its context writes what waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from contracts.artifacts import ID_PREFIX, Artifact, ArtifactInfo, ArtifactRequest, canonical
from contracts.config import Profile
from contracts.events import End, StreamError
from contracts.receipts import Link
from daemon_core.redaction import Redactor
from daemon_core.unhurried import leisure
from orchestratord.artifacts import ArtifactError, ArtifactStore
from orchestratord.records import record_of
from orchestratord.shelf import Head, Sealed, artifact_of, sealed
from orchestratord.task import Task

log = logging.getLogger(__name__)

GATHER_S = 0.2
"""How long records gather before they are written together."""
SWEEP_S = 60.0
"""How often what became too old is looked for, where nothing is written."""
MAX_WAITING_BYTES = 16 << 20
"""Records that wait for the disk. With more a disk is too slow, or full, and the next ones are lost."""

Answer = TypeVar("Answer")


class Archive:
    """One store and its thread. Use it as an async context manager."""

    def __init__(self, store: ArtifactStore, redactor: Redactor, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._redactor = redactor
        self._now_ms = now_ms
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive")
        self._waiting: dict[str, Sealed] = {}
        self._waiting_bytes = 0
        self._news = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._closing = asyncio.Event()
        self._lost = 0
        self._said = ""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        opening = asyncio.get_running_loop().run_in_executor(self._thread, self._store.open)  # before all else
        self._group.create_task(self._keep(opening), name="archive")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._news.set()
        try:
            await self._group.__aexit__(None, None, None)
        finally:
            self._thread.shutdown()
        if self._lost:
            log.warning("%d records of tasks were lost in all", self._lost)

    # --- records ------------------------------------------------------------------------------------------------------

    def take(self, record: Sealed) -> bool:
        """Have a record written soon; False where too many wait already. Never waits."""
        size = len(record.content)
        if self._waiting_bytes + size > MAX_WAITING_BYTES:
            self._lose(1, "more wait for the disk than it takes")
            return False
        self._waiting[record.name] = record
        self._waiting_bytes += size
        self._news.set()
        return True

    async def written(self) -> None:
        """Wait until all that waits is written, or lost."""
        await self._write()

    # --- artifacts ----------------------------------------------------------------------------------------------------

    async def put(self, given: ArtifactRequest) -> ArtifactInfo | None:
        """Keep what a client sent, without secrets; None for what is more than all together may take.

        Raises ArtifactError.
        """
        return await self._do(self._put, given)

    async def get(self, artifact_id: str) -> Artifact | None:
        """An artifact by its id; None where there is none. Raises ArtifactError."""
        if not artifact_id.startswith(ID_PREFIX):
            return None
        name = artifact_id.removeprefix(ID_PREFIX)
        waiting = self._waiting.get(name)
        return artifact_of(waiting) if waiting is not None else await self._do(self._store.get, name)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _put(self, given: ArtifactRequest) -> ArtifactInfo | None:
        plain = msgspec.json.decode(given.content)
        content, tags = self._redactor.value(plain), tuple(map(self._redactor.text, given.tags))
        head = Head(kind=given.kind, created_ms=self._now_ms(), tags=tags, redacted=content != plain)
        new = sealed(canonical(content), head)
        return self._store.put(new, durable=True) if self._store.shelf.fits(len(new.content)) else None

    async def _do(self, work: Callable[..., Answer], *given: object) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    async def _keep(self, opening: Awaitable[None]) -> None:
        await self._quietly(opening)
        while not self._closing.is_set():
            try:
                async with asyncio.timeout(SWEEP_S):
                    await self._news.wait()
            except TimeoutError:
                await self._quietly(self._do(self._store.sweep))
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._closing.wait()
            await leisure()  # the thread and the loop take turns: what it writes in a rush holds tokens up
            await self._write()
        await self._write()

    async def _write(self) -> None:
        """Write all that waits."""
        self._news.clear()
        records = list(self._waiting.values())
        if not records:
            return
        lost, why = await self._do(_write_all, self._store, records)
        for record in records:
            if self._waiting.pop(record.name, None) is not None:
                self._waiting_bytes -= len(record.content)
        if lost:
            self._lose(lost, why)
        else:
            self._said = ""

    async def _quietly(self, work: Awaitable[None]) -> None:
        try:
            await work
        except ArtifactError as error:
            log.warning("%s; %s", error.message, error.hint)
        except Exception:  # a mistake of ours about artifacts must not end the tasks
            log.exception("artifacts could not be looked after")

    def _lose(self, count: int, why: str) -> None:
        """Said once for each reason in a row: a full disk makes one line, not thousands."""
        self._lost += count
        if why != self._said:
            log.warning("records of tasks are being lost: %s", why)
        self._said = why


class Recorder:
    """Makes the record of a task at its end, and hands it to the archive."""

    def __init__(self, archive: Archive, profile: Profile, redactor: Redactor, now_ms: Callable[[], int]) -> None:
        self._archive = archive
        self._profile = profile
        self._redactor = redactor
        self._now_ms = now_ms
        self._next = Link(number=1, previous=None)

    def seal(self, task: Task, event: End | StreamError) -> str | None:
        """The id of the record; None where it cannot be kept. Never raises: the task has to have its end."""
        try:
            link = self._next
            record = record_of(
                task, event, link=link, profile=self._profile, redactor=self._redactor, ended_ms=self._now_ms()
            )
        except Exception:  # a mistake of ours about a record must not end the tasks
            log.exception("the record of task %s could not be made", task.id)
            return None
        if not self._archive.take(record):
            return None
        self._next = Link(number=link.number + 1, previous=record.id)
        return record.id


def _write_all(store: ArtifactStore, records: list[Sealed]) -> tuple[int, str]:
    """How many could not be written, and why."""
    lost, why = 0, ""
    for record in records:
        try:
            store.put(record, durable=False)
        except ArtifactError as error:
            lost, why = lost + 1, f"{error.message}; {error.hint}"
        except Exception:  # as above
            log.exception("the record %s could not be written", record.id)
            lost, why = lost + 1, "internal error"
    return lost, why

"""Keeps the artifacts of clients: the way from the event loop to the disk and back.

Decides nothing about what is kept (``shelf`` does). One thread does all that waits for a disk. Receipts of tasks are
the ``keeper``'s.
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
from daemon_core.redaction import Redactor
from orchestratord.artifacts import ArtifactError, ArtifactStore
from orchestratord.shelf import Head, sealed

log = logging.getLogger(__name__)

SWEEP_S = 60.0
"""How often what became too old is looked for, where nothing is written."""
Answer = TypeVar("Answer")


class Archive:
    """One store and its thread. Use it as an async context manager."""

    def __init__(self, store: ArtifactStore, redactor: Redactor, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._redactor = redactor
        self._now_ms = now_ms
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive")
        self._group = asyncio.TaskGroup()
        self._closing = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        opening = asyncio.get_running_loop().run_in_executor(self._thread, self._store.open)  # before all else
        self._group.create_task(self._keep(opening), name="archive")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        try:
            await self._group.__aexit__(None, None, None)
        finally:
            self._thread.shutdown()

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
        return await self._do(self._store.get, artifact_id.removeprefix(ID_PREFIX))

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
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_S):
                    await self._closing.wait()
            await self._quietly(self._do(self._store.sweep))

    async def _quietly(self, work: Awaitable[None]) -> None:
        try:
            await work
        except ArtifactError as error:
            log.warning("%s; %s", error.message, error.hint)
        except Exception:  # a mistake of ours about artifacts must not end the tasks
            log.exception("artifacts could not be looked after")

"""Reads a catalogued model again from its first byte to its last, and does what follows from what it is.

Decides the order: what is wrong is Retired before its files are set aside, so that nobody can load what is being moved.
What follows from what is ``verdict``'s. Never believes a remembered digest, never moves a file of the user's own, and
never blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from catalog_core.errors import CatalogError
from catalog_core.models import FsModelCatalog
from contracts.catalog import VerifyReason, VerifyResult
from contracts.engines import ModelEntry, ModelState
from contracts.pools import Cause
from model_provisioner import events, local
from model_provisioner.cache import ModelCache
from model_provisioner.content import digest_of
from model_provisioner.digest import ChangedError, DigestMemory, Identity, NotRegularError, sha256_of
from model_provisioner.errors import ModelError
from model_provisioner.events import Event, EventKind
from model_provisioner.hf_directory import ModelFile
from model_provisioner.verdict import Seen, Verdict, judge, size_tells

Progress = Callable[[str], None]


class ModelVerifier:
    """Verifies models of one catalog. ``clock`` gives Unix milliseconds."""

    def __init__(
        self,
        catalog: FsModelCatalog,
        cache: ModelCache,
        digests: DigestMemory,
        *,
        journal: Path,
        clock: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._cache = cache
        self._digests = digests
        self._journal = journal
        self._clock = clock

    async def verify(self, identifier: str, progress: Progress) -> Verdict:
        """Read a model again and keep what follows. Raises ModelError where the catalog or the disk refuses."""
        entry = await asyncio.to_thread(self._entry, identifier)
        found: dict[Path, str] = {}
        verdict = judge(entry, await self._look(entry, found, progress))
        # From here on nothing is left half done: the thread goes on where its caller is cancelled.
        return await asyncio.to_thread(self._settle, entry, verdict, found)

    def _entry(self, identifier: str) -> ModelEntry:
        try:
            return self._catalog.get(identifier)
        except CatalogError as error:
            raise ModelError(Cause.MODEL_MISSING, error.message, error.hint) from error

    async def _look(self, entry: ModelEntry, found: dict[Path, str], progress: Progress) -> Seen:
        try:
            inspected = await asyncio.to_thread(local.inspect, entry.local_path)
            one = len(inspected.files) == 1  # of several the good ones stay, so it has to be known which
            if size_tells(entry, inspected.size_bytes) and (one or not entry.fetched):
                return Seen(size_bytes=inspected.size_bytes)
            digest = await digest_of(inspected, lambda file: self._read(file, found, progress))
        except ModelError as error:
            seen = await asyncio.to_thread(_without_inspection, entry, error)
            if seen.trouble is VerifyReason.DIGEST_MISMATCH:
                await self._read_each(entry, found, progress)
            return seen
        except ChangedError as error:
            return Seen(trouble=VerifyReason.CHANGED, message=f"{error.args[0]} was written to while it was read")
        except (OSError, NotRegularError) as error:
            return Seen(trouble=VerifyReason.UNREADABLE, message=f"{entry.local_path} cannot be read: {error}")
        return Seen(size_bytes=inspected.size_bytes, digest=digest)

    async def _read_each(self, entry: ModelEntry, found: dict[Path, str], progress: Progress) -> None:
        """See which files of a fetched model are the right ones; what cannot be read is none."""
        paths = await asyncio.to_thread(self._cache.files, entry)
        for path in paths if len(paths) > 1 else ():
            with contextlib.suppress(OSError, NotRegularError, ChangedError):
                identity = Identity.of(await asyncio.to_thread(path.stat))
                await self._read(ModelFile(name=path.name, path=path, identity=identity), found, progress)

    async def _read(self, file: ModelFile, found: dict[Path, str], progress: Progress) -> str:
        progress(f"reading {file.name}, {file.identity.size_bytes} bytes")
        found[file.path] = digest = await sha256_of(file.path, file.identity, progress)
        await asyncio.to_thread(self._digests.remember, file.path, file.identity, digest)
        return digest

    def _settle(self, entry: ModelEntry, verdict: Verdict, found: dict[Path, str]) -> Verdict:
        now_ms = self._clock()
        try:
            if not self._kept(entry, verdict, now_ms):
                seen = Seen(trouble=VerifyReason.CHANGED, message=f"{entry.id} was replaced while it was read")
                verdict = judge(entry, seen)
            elif verdict.retires:
                self._note(now_ms, entry, EventKind.RETIRED, f"verification: {verdict.reason}: {verdict.message}")
                if aside := self._cache.quarantine(entry, found):
                    text = f"{verdict.message}; set aside: {', '.join(map(str, aside[:3]))}"
                    verdict = replace(verdict, message=text)
                    self._note(now_ms, entry, EventKind.QUARANTINED, text)
        except CatalogError as error:
            raise ModelError(Cause.INTERNAL, error.message, error.hint) from error
        self._note(now_ms, entry, EventKind.VERIFIED, f"{verdict.result}: {verdict.reason}: {verdict.message}")
        return verdict

    def _kept(self, entry: ModelEntry, verdict: Verdict, now_ms: int) -> bool:
        """Write down what follows, unless the entry is another one by now. Raises CatalogError."""
        same = False

        def change(now: ModelEntry) -> ModelEntry:
            nonlocal same
            same = (now.local_path, now.digest) == (entry.local_path, entry.digest)
            return _after(now, verdict, now_ms) if same else now

        self._catalog.alter(entry.id, change)
        return same

    def _note(self, now_ms: int, entry: ModelEntry, kind: EventKind, message: str) -> None:
        events.note(self._journal, Event(at_ms=now_ms, kind=kind, id=entry.id, message=message))


def _after(now: ModelEntry, verdict: Verdict, now_ms: int) -> ModelEntry:
    """The entry after its verification."""
    if verdict.result is VerifyResult.OK:
        return replace(now, verified_ms=now_ms)
    if verdict.reason is VerifyReason.NO_DIGEST and verdict.digest is not None:
        return replace(now, digest=verdict.digest)
    if verdict.retires:
        reason = f"verification: {verdict.reason}: {verdict.message}"
        return replace(now, state=ModelState.RETIRED, state_reason=reason, verified_ms=None)
    return now


def _without_inspection(entry: ModelEntry, error: ModelError) -> Seen:
    """What it means that a model which could be read once cannot be read."""
    path = Path(entry.local_path)
    try:
        if not path.exists():
            return Seen(trouble=VerifyReason.MISSING, message=f"{path} is gone")
    except OSError:
        return Seen(trouble=VerifyReason.UNREADABLE, message=error.message)
    match error.cause:
        case Cause.MODEL_INVALID if entry.digest:
            return Seen(trouble=VerifyReason.DIGEST_MISMATCH, message=f"it is not what it was: {error.message}")
        case Cause.MODEL_MISSING if path.is_dir():
            return Seen(trouble=VerifyReason.MISSING, message=error.message)
        case _:
            return Seen(trouble=VerifyReason.UNREADABLE, message=error.message)

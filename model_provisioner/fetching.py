"""Remote references: from what is remembered of them, or by way of their source, to files in the cache.

Decides what counts as here, in which order things are written (the files, then the note that says that they are all
here), and what becomes of a file that is not what it should be. What is here needs no network, also where the reference
is a moving one (a branch, a tag): it is asked again only on demand. Never touches the catalog, and nothing outside the
cache; below it no link is followed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, assert_never

from msgspec.structs import replace

from contracts.engines import ModelFormat
from contracts.pools import Cause
from model_provisioner import fetch_words, places, quarantine, reference, shelf
from model_provisioner.digest import ChangedError, Digests, Identity, NotRegularError
from model_provisioner.errors import FetchError, ModelError, Trouble
from model_provisioner.one_fetch import alone
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.part import PART
from model_provisioner.quarantine import Quarantine, Suspect
from model_provisioner.reference import HfRef, HttpsRef, OciRef, RemoteRef, S3Ref
from model_provisioner.shelf import Fetched, FileHere, Shelf
from model_provisioner.sources import hf, hf_words, listing, oci_auth
from model_provisioner.sources.base import Located, RemoteFile, Transferred
from model_provisioner.sources.registry import source_for
from model_provisioner.threads import in_thread
from model_provisioner.transfer import Progress, Transfer, disk_error

_WEIGHTS = (listing.GGUF, listing.WEIGHTS)


class Room(Protocol):
    """Who keeps the cache below its limit: ``make_room`` before a fetch, ``release`` when the catalog has the model."""

    def make_room(self, size_bytes: int, target: Path) -> tuple[str, ...]:
        """Have room for so many bytes more below ``target``; lines for people. Blocks. Raises ModelError."""

    def release(self, target: Path) -> None:
        """One fetch into ``target``, for which room was made, is over. Never raises."""


class Fetcher:
    """Fetches models into the cache at ``root``. Constructing it touches nothing."""

    def __init__(
        self,
        root: Path,
        *,
        gate: OutboundGate,
        environ: Mapping[str, str],
        digests: Digests,
        aside: Quarantine,
        transfer: Transfer | None = None,
        room: Room | None = None,
    ) -> None:
        self._shelf = Shelf(root, aside)
        self._gate = gate
        self._environ = environ
        self._digests = digests
        self._transfer = transfer or Transfer(gate)
        self._room = room

    def where(self, fetched: Fetched) -> Path:
        """The file or the folder to load."""
        return self._shelf.root / fetched.path

    async def present(self, ref: RemoteRef, progress: Progress) -> Fetched | None:
        """What is here of a reference, if it is all here and still what came. Asks no network. Raises ModelError."""
        try:
            fetched = await asyncio.to_thread(self._shelf.remembered, ref)
            if fetched is None:
                return None
            for file in fetched.files:
                if not await self._is_right(fetched.folder, file.name, file.size_bytes, file.sha256, progress):
                    return None
        except OSError as error:
            raise fetch_words.model_error(disk_error(self._shelf.root, error), ref) from error
        return fetched

    async def fetch(
        self,
        ref: RemoteRef,
        *,
        expected: str | None,
        accepts: Callable[[str, ModelFormat], None],
        progress: Progress,
        transferred: Callable[[Transferred], None],
    ) -> Fetched:
        """Bring a reference's files here, as they are upstream now. Raises ModelError.

        ``expected`` is the sha256 in bare hex that a model of one file must have. ``accepts`` is called with the
        model's name and its format before anything is fetched, and may raise ModelError.
        """
        has_token = False
        try:
            progress(f"looking for {reference.shown(ref)}")
            located = await self._locate(ref)
            has_token = any(file.headers for file in located.files)
            directory = located.entry is None
            accepts(reference.shown(ref), ModelFormat.HF_DIRECTORY if directory else ModelFormat.GGUF)
            _require_names(located)
            return await self._brought(ref, located, expected, progress, transferred)
        except FetchError as error:
            if isinstance(ref, HfRef) and error.trouble is Trouble.ANSWER and error.status is not None:
                endpoint = hf.endpoint_of(self._environ)
                raise hf_words.refusal(ref, error.status, error.code, endpoint=endpoint, has_token=has_token) from error
            raise fetch_words.model_error(error, ref) from error
        except OSError as error:
            raise fetch_words.model_error(disk_error(self._shelf.root, error), ref) from error

    async def forget(self, ref: RemoteRef) -> None:
        """Ask upstream again next time: what is here turned out to be no model."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._shelf.forget, ref)

    def release(self, fetched: Fetched) -> None:
        """The catalog has the model that ``fetch`` brought, or never will."""
        if self._room is not None:
            self._room.release(self._shelf.root / fetched.folder)

    async def _locate(self, ref: RemoteRef) -> Located:
        gate = self._gate.through(places.scheme_of(ref))
        return await source_for(ref, gate, self._environ).locate(ref)

    async def _brought(
        self,
        ref: RemoteRef,
        located: Located,
        expected: str | None,
        progress: Progress,
        transferred: Callable[[Transferred], None],
    ) -> Fetched:
        """Bring the files, with new addresses and tokens as often as the old ones expire on the way."""
        while True:
            held = None if any(file.sha256 for file in located.files) else expected
            located = _with_digest(ref, located, expected)
            folder = str(places.folder_of(ref, located.revision))
            missing = await asyncio.to_thread(self._shelf.missing_bytes, folder, located)
            try:
                return await self._bring(ref, located, held, progress, transferred)
            except FetchError as error:
                may_expire = isinstance(ref, S3Ref | OciRef) and error.status in {401, 403}
                if not may_expire or await asyncio.to_thread(self._shelf.missing_bytes, folder, located) >= missing:
                    raise
            progress("what it was fetched with has expired: asking for something new")
            located = await self._locate(ref)

    async def _bring(
        self,
        ref: RemoteRef,
        located: Located,
        held: str | None,
        progress: Progress,
        transferred: Callable[[Transferred], None],
    ) -> Fetched:
        folder = places.folder_of(ref, located.revision)
        missing = await asyncio.to_thread(self._shelf.missing_bytes, str(folder), located)
        for line in await self._made_room(missing, self._shelf.root / folder):
            progress(line)
        try:
            transfer = self._transfer.through(places.scheme_of(ref))
            await asyncio.to_thread(self._shelf.make, str(folder))
            known = await asyncio.to_thread(self._shelf.remembered, ref)
            same = known is not None and known.folder == str(folder)
            before = {file.name: file.sha256 for file in known.files} if known is not None and same else {}
            if missing:
                transfer.require_room(self._shelf.root / folder, missing)
            one = _Errand(
                ref=ref,
                located=located,
                folder=str(folder),
                held=held,
                before=before,
                transfer=transfer,
                progress=progress,
                transferred=transferred,
            )
            files = [await self._file(one, file) for file in located.files]
            fetched = Fetched(
                ref=reference.shown(ref),
                source=located.source,
                revision=located.revision,
                folder=str(folder),
                entry=located.entry,
                files=tuple(files),
                checked=all(file.sha256 for file in located.files if file.name.endswith(_WEIGHTS)),
            )
            await asyncio.to_thread(self._shelf.remember, ref, fetched)
        except BaseException:
            if self._room is not None:
                self._room.release(self._shelf.root / folder)
            raise
        return fetched

    async def _made_room(self, size_bytes: int, target: Path) -> tuple[str, ...]:
        """Room, until it is released; a cancelled caller has none."""
        if (room := self._room) is None:
            return ()
        made: list[tuple[str, ...]] = []
        try:
            await in_thread(lambda _: made.append(room.make_room(size_bytes, target)))
        except asyncio.CancelledError:
            if made:
                room.release(target)
            raise
        return made[0]

    async def _file(self, one: _Errand, file: RemoteFile) -> FileHere:
        """Have one file here. Whoever else wants it waits, and finds it."""
        target = self._shelf.root / one.folder / file.name
        lock = self._shelf.lock(one.folder, file.name)
        async with alone(lock, file.name, one.progress):
            here = await self._here(one, file)
            if here is not None:
                return here
            await self._look_aside(one, file)
            try:
                sha256 = await one.transfer.fetch(
                    file, target, below=self._shelf.root, progress=one.progress, transferred=one.transferred
                )
            except FetchError as error:
                if error.trouble is not Trouble.DIGEST or error.found is None:
                    raise
                raise await self._wrong(one, file, target, error.found) from error
            identity = await asyncio.to_thread(self._shelf.identity, one.folder, file.name)
            if identity is None:
                raise FetchError(Trouble.DISK, f"{target} was removed while it was fetched")
            await self._digests.learn(target, identity, f"sha256:{sha256}")
            return FileHere(name=file.name, size_bytes=identity.size_bytes, sha256=sha256)

    async def _wrong(self, one: _Errand, file: RemoteFile, target: Path, found: str) -> ModelError:
        """What came is not what was wanted: it is set aside."""
        wanted = file.sha256 or ""
        suspect = one.suspect(file, found, came=True)
        aside = await asyncio.to_thread(self._shelf.set_aside, one.folder, f"{file.name}{PART}", suspect)
        await one.transfer.discard(target, below=self._shelf.root)
        shown = f"{file.name} of {one.located.source}"
        return fetch_words.wrong_digest(shown, found, wanted, str(aside), held=one.held is not None)

    async def _here(self, one: _Errand, file: RemoteFile) -> FileHere | None:
        """The file, where it was fetched before; one of another content is set aside."""
        identity = await asyncio.to_thread(self._shelf.identity, one.folder, file.name)
        if identity is None or (file.size_bytes is not None and identity.size_bytes != file.size_bytes):
            return None
        digest = await self._digest(self._shelf.root / one.folder / file.name, identity, one.progress)
        wanted = file.sha256 or one.before.get(file.name, digest)
        if digest != wanted:
            suspect = one.suspect(replace(file, sha256=wanted), digest, came=False)
            await asyncio.to_thread(self._shelf.set_aside, one.folder, file.name, suspect)
            one.progress(f"{file.name} is not what was fetched any more: it is set aside and fetched anew")
            return None
        return FileHere(name=file.name, size_bytes=identity.size_bytes, sha256=digest)

    async def _look_aside(self, one: _Errand, file: RemoteFile) -> None:
        """Nothing is fetched that was fetched before and set aside: it would be the same again."""
        if file.sha256 is None:
            return
        part = f"{file.name}{PART}"
        if await asyncio.to_thread(self._shelf.give_back, file.sha256, one.folder, part):
            one.progress(f"{file.name} had been set aside, and is what is wanted now")
            return
        if one.held is None:
            return  # what came was not even what its source names: it may come right now
        known = await asyncio.to_thread(self._shelf.came_before, one.located.source, file.name)
        if known is not None and known.found != one.held:
            aside = str(self._shelf.root / quarantine.NAME)
            shown = f"{file.name} of {one.located.source}"
            raise fetch_words.wrong_digest(shown, known.found, one.held, aside, held=True)

    async def _is_right(self, folder: str, name: str, size: int, sha256: str, progress: Progress) -> bool:
        identity = await asyncio.to_thread(self._shelf.identity, folder, name)
        if identity is None or identity.size_bytes != size:
            return False
        return await self._digest(self._shelf.root / folder / name, identity, progress) == sha256

    async def _digest(self, path: Path, identity: Identity, progress: Progress) -> str:
        try:
            return (await self._digests.of(path, identity, progress)).removeprefix("sha256:")
        except (ChangedError, NotRegularError) as error:
            message = f"{path} was changed while it was read"
            raise ModelError(Cause.MODEL_INVALID, message, "see who else writes into the cache") from error


def is_remembered(cache_dir: Path, ref: RemoteRef) -> bool:
    """Whether a reference was fetched before, which does not say that all of it is still here. Blocks."""
    return (cache_dir / shelf.NOTES / places.note_of(ref)).is_file()


def require_way(ref: RemoteRef, gate: OutboundGate) -> None:
    """See that the first server of a reference may be spoken to. Blocks, and connects to nothing. Raises ModelError."""
    match ref:
        case HfRef():
            url = hf.endpoint_of(gate.environ)
        case HttpsRef(url=url):
            pass
        case OciRef(registry=registry):
            url = f"https://{oci_auth.server_of(registry)}"
        case S3Ref():
            return  # where it lies is the configuration of the S3 client's to say
        case _:
            assert_never(ref)
    try:
        gate.through(places.scheme_of(ref)).require_name(url)
    except FetchError as error:
        raise fetch_words.model_error(error, ref) from error


@dataclass(frozen=True, kw_only=True)
class _Errand:
    """One reference on its way."""

    ref: RemoteRef
    located: Located
    folder: str
    held: str | None
    """The digest that the configuration alone says, where the source names none."""
    before: Mapping[str, str]
    """The digests of the files as they came when they were fetched before."""
    transfer: Transfer
    progress: Progress
    transferred: Callable[[Transferred], None]

    def suspect(self, file: RemoteFile, found: str, *, came: bool) -> Suspect:
        """What is known of a file with a wrong digest."""
        return Suspect(
            ref=reference.shown(self.ref),
            source=self.located.source,
            file=file.name,
            expected=file.sha256 or "",
            found=found,
            came=came,
        )


def _require_names(located: Located) -> None:
    """What a server offers may be called anything: only what stays in the model's folder is fetched."""
    names = [file.name for file in located.files]
    wrong = [name for name in names if not listing.safe_name(name)]
    if not names or wrong or len(set(names)) < len(names) or located.entry not in {None, *names}:
        message = f"{located.source} offers files whose names are not safe on a disk: {listing.shown(wrong or names)}"
        raise ModelError(Cause.MODEL_INVALID, message, "nothing was fetched; ask whoever offers it")


def _with_digest(ref: RemoteRef, located: Located, expected: str | None) -> Located:
    """The same files, of which a single one must have the digest that is configured."""
    if expected is None or len(located.files) != 1 or located.entry is None:
        return located
    (file,) = located.files
    if file.sha256 is not None and file.sha256 != expected:
        raise fetch_words.other_digest_there(ref, file.sha256, expected)
    return replace(located, files=(replace(file, sha256=expected),))

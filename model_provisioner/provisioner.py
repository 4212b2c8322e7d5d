"""Makes sure that a model is on this disk, is what it should be, and is in the catalog.

Decides the order: reference, files, digest, id, provenance, and the catalog entry last, so that whatever fails before
leaves the catalog as it was. Fetching is ``fetching``'s. Never blocks the event loop, and can be cancelled at any
point. Never moves, changes or removes a file that is the user's own.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from msgspec.structs import replace

from catalog_core.errors import CatalogError, CorruptIndexError
from catalog_core.index import Recovery
from catalog_core.models import FsModelCatalog
from contracts.base import Message
from contracts.config import Engine
from contracts.engines import ModelEntry, ModelFormat, ModelState, ResolvedModel
from contracts.pools import Cause
from model_provisioner import events, fetching, holds, local, provenance, reference
from model_provisioner.content import digest_of
from model_provisioner.digest import ChangedError, DigestMemory, Digests, NotRegularError
from model_provisioner.errors import ModelError
from model_provisioner.fetching import Fetcher
from model_provisioner.hf_directory import ModelFile
from model_provisioner.local import Inspected
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.quarantine import Quarantine
from model_provisioner.shelf import Fetched
from model_provisioner.sources.base import Transferred
from model_provisioner.transfer import Transfer

_SHA256 = re.compile(r"(?:sha256:)?(?P<hex>[0-9a-fA-F]{64})")


class Room(fetching.Room, Protocol):
    """Who keeps the cache below its limit, and wants to know what is used."""

    def used(self, identifier: str) -> None:
        """A model was just used. Never raises."""


class ModelProvisioner:
    """The one place where a model reference becomes a file that an engine can load.

    ``cache_dir`` holds what can be had again: fetched models, and remembered digests. ``provenance`` is the directory
    of the provenance journals. Relative paths in references start from ``base_dir``, an absolute path. ``clock`` gives
    Unix milliseconds. ``gate`` is asked before anything is connected to; ``environ`` has tokens and the like, and is
    read by sources alone. ``room`` keeps the cache below its limit. Constructing it touches nothing.
    """

    def __init__(
        self,
        cache_dir: Path,
        catalog: FsModelCatalog,
        provenance: Path,
        base_dir: Path,
        clock: Callable[[], int],
        *,
        gate: OutboundGate | None = None,
        environ: Mapping[str, str] | None = None,
        room: Room | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        self._catalog = catalog
        self._provenance = provenance
        self._base_dir = PurePosixPath(base_dir)
        self._clock = clock
        self._digests = Digests(DigestMemory(cache_dir / "digests.json"))
        self._room = room
        self._fetcher = Fetcher(
            cache_dir,
            gate=gate or OutboundGate(),
            environ=os.environ if environ is None else environ,
            digests=self._digests,
            aside=Quarantine(cache_dir, clock),
            transfer=transfer,
            room=room,
        )
        self._admitting = asyncio.Lock()

    async def ensure_present(
        self,
        ref: str,
        digest: str | None = None,
        progress: Callable[[str], None] = lambda _: None,
        engine: Engine | None = None,
        *,
        refresh: bool = False,
        revive: bool = False,
        transferred: Callable[[Transferred], None] = lambda _: None,
    ) -> ResolvedModel:
        """The model that ``ref`` means, on this disk and in the catalog.

        ``digest`` is what the model must have, as ``sha256:<hex>`` or bare hex. ``progress`` gets lines for people, in
        the event loop's thread, and ``transferred`` how far each file has come. Where ``engine`` is known, a model that
        it cannot load is refused. What is here is used without the network; ``refresh`` asks upstream all the same,
        where the reference is remote, and says what changed. A model that is Retired is refused before anything is
        done, unless ``revive`` says that somebody asks for it by name: then it is Active afterwards. Raises ModelError,
        and then nothing was added to the catalog.
        """
        expected = _expected(digest)
        if not revive:
            await asyncio.to_thread(self._refuse_retired, ref)
        place = reference.parse(ref, self._base_dir)
        if isinstance(place, reference.LocalFile):
            inspected = await asyncio.to_thread(_inspect, place.path, engine)
            return await self._admitted(inspected, _Origin(ref=ref, revive=revive), expected, progress)
        present = await self._fetcher.present(place, progress)
        if present is not None and not refresh:
            return await self._catalogued(place, present, expected, engine, progress, revive=revive)
        fetched = await self._fetched(place, expected, engine, progress, transferred, present=present)
        try:
            return await self._catalogued(place, fetched, expected, engine, progress, revive=revive)
        finally:
            self._fetcher.release(fetched)

    async def _catalogued(
        self,
        place: reference.RemoteRef,
        fetched: Fetched,
        expected: str | None,
        engine: Engine | None,
        progress: Callable[[str], None],
        *,
        revive: bool,
    ) -> ResolvedModel:
        """What is in the cache, in the catalog."""
        try:
            inspected = await asyncio.to_thread(local.inspect, str(self._fetcher.where(fetched)))
        except ModelError as error:
            await self._fetcher.forget(place)
            message = f"{error.message} (fetched: {fetched.source})"
            raise ModelError(error.cause, message, error.hint) from error
        local.require_fit(inspected, engine)
        origin = _Origin(
            ref=fetched.ref,
            source=fetched.source,
            checked=fetched.checked,
            name=reference.name_of(place),
            revive=revive,
        )
        return await self._admitted(inspected, origin, expected, progress)

    async def _fetched(
        self,
        place: reference.RemoteRef,
        expected: str | None,
        engine: Engine | None,
        progress: Callable[[str], None],
        transferred: Callable[[Transferred], None],
        *,
        present: Fetched | None,
    ) -> Fetched:
        fetched = await self._fetcher.fetch(
            place,
            expected=expected and expected.removeprefix("sha256:"),
            accepts=lambda name, found: local.require_format(name, found, engine),
            progress=progress,
            transferred=transferred,
        )
        if present is not None:
            changed = fetched.revision != present.revision
            progress(
                f"{fetched.ref} has changed: it was {present.source}, and is {fetched.source} now"
                if changed
                else f"{fetched.ref} has not changed: it is {fetched.source}"
            )
        return fetched

    async def _admitted(
        self, inspected: Inspected, origin: _Origin, expected: str | None, progress: Callable[[str], None]
    ) -> ResolvedModel:
        """The model in the catalog, if it has the digest that it must have."""
        digest = await digest_of(inspected, lambda file: self._digest_of(file, progress))
        path = inspected.path
        if expected is not None and digest != expected:
            raise ModelError(
                Cause.MODEL_DIGEST,
                f"{path} has the digest {digest}, but {expected} is required",
                "get the right model, or put the digest of this one into model_sha256 if you trust it",
            )
        if expected is None and origin.checked:
            progress(f"{path.name} has the digest that its source names; model_sha256 can hold it to {digest}")
        elif expected is None:
            progress(f"{path.name} was not verified, because no digest is configured; it has {digest}")
        verified = expected is not None or origin.checked
        async with self._admitting:  # two models of one name at once must see each other's id
            model, recovery = await asyncio.to_thread(self._admit, inspected, origin, digest, verified=verified)
        if recovery is not None:
            progress(recovery.render())
        if self._room is not None:
            await asyncio.to_thread(self._room.used, model.id)
        return model

    async def _digest_of(self, file: ModelFile, progress: Callable[[str], None]) -> str:
        try:
            return await self._digests.of(file.path, file.identity, progress)
        except ChangedError as error:
            message = f"{file.path} was changed while it was read"
            raise ModelError(Cause.MODEL_INVALID, message, "wait until it is whole, then try again") from error
        except (OSError, NotRegularError) as error:
            raise local.unusable(file.path, error) from error

    def _admit(
        self, inspected: Inspected, origin: _Origin, digest: str, *, verified: bool
    ) -> tuple[ResolvedModel, Recovery | None]:
        """Write down what is new about the model, if anything is. Blocks."""
        now_ms = self._clock()
        try:
            entries, recovery = self._entries()
            identifier = choose_id(_named(inspected, origin), inspected.path, digest, entries, origin.moving_ref)
            model = _resolved(inspected, origin.ref, digest, identifier)
            known = entries.get(identifier)
            if known is not None and not origin.revive:
                require_active(known)
            origin = _first_origin(origin, known, model)
            entry = _entry(model, known, origin, now_ms if verified else None)
            if known is None or replace(entry, created_ms=known.created_ms) != known:
                provenance.record(self._provenance, model, now_ms=now_ms, source=origin.source)
                keep = self._catalog.put if origin.revive else self._catalog.admit
                recovery = keep(entry, now_ms=now_ms) or recovery
        except CatalogError as error:
            raise ModelError(Cause.INTERNAL, error.message, error.hint) from error
        if recovery is not None:
            events.note_recovery(self._provenance, recovery, at_ms=now_ms)
        return model, recovery

    def _refuse_retired(self, ref: str) -> None:
        """A start must not bring back what was taken out of use. Blocks. Raises ModelError."""
        try:
            entries = self._catalog.list(ModelState.RETIRED)
        except CatalogError:
            return  # whoever writes the catalog down mends or reports it
        for entry in entries:
            if holds.holders(entry, (holds.Hold(by="this", ref=ref),), self._base_dir):
                require_active(entry)

    def _entries(self) -> tuple[dict[str, ModelEntry], Recovery | None]:
        recovery = None
        try:
            entries = self._catalog.list()
        except CorruptIndexError:
            recovery = self._catalog.recover()
            entries = self._catalog.list()
        return {entry.id: entry for entry in entries}, recovery


def preflight(ref: str, base_dir: PurePosixPath, engine: Engine | None, *, cache_dir: Path, gate: OutboundGate) -> None:
    """See what is in the way of a model, as far as can be told without fetching it: its first bytes, or the policy.

    Relative paths start from ``base_dir``, which is absolute. Blocks, and changes nothing. Raises ModelError.
    """
    place = reference.parse(ref, base_dir)
    if isinstance(place, reference.LocalFile):
        _inspect(place.path, engine)
    elif not fetching.is_remembered(cache_dir, place):
        fetching.require_way(place, gate)


def _inspect(path: str, engine: Engine | None) -> Inspected:
    inspected = local.inspect(path)
    local.require_fit(inspected, engine)
    return inspected


class _Origin(Message, frozen=True, kw_only=True):
    """Where a model came from: ``source`` and ``name``, which a directory has, are those of a fetched one."""

    ref: str
    source: str | None = None
    checked: bool = False
    name: str | None = None
    revive: bool = False
    """It is Active afterwards, whatever it was."""

    @property
    def moving_ref(self) -> str | None:
        """The reference of a fetched model, which may come to other files later and is the same model all the same."""
        return None if self.source is None else self.ref


def require_active(entry: ModelEntry) -> None:
    """Raises ModelError where a model was taken out of use."""
    if entry.state is ModelState.RETIRED:
        why = entry.state_reason or "an operator took it out of use"
        hint = f"`llama-orch models activate {entry.id}` brings it back; or give the pool another model"
        raise ModelError(Cause.MODEL_RETIRED, f"the model {entry.id} is Retired: {why}", hint)


def choose_id(stem: str, path: Path, digest: str, entries: dict[str, ModelEntry], moving_ref: str | None = None) -> str:
    """The id under which a model is catalogued: the one it has, else ``stem``.

    A stem that belongs to another model, in another place that is still there, gets the first digits of the digest.
    What ``moving_ref`` came to before is no other model: a branch that has moved keeps its id.
    """
    mine = [entry.id for entry in entries.values() if entry.local_path == str(path)]
    if mine:
        return stem if stem in mine else mine[0]
    taken = entries.get(stem)
    if taken is None or taken.digest == digest or not Path(taken.local_path).exists():
        return stem
    if moving_ref is not None and taken.fetched and taken.ref == moving_ref:
        return stem
    return f"{stem}-{digest.removeprefix('sha256:')[:8]}"


def _named(inspected: Inspected, origin: _Origin) -> str:
    if inspected.format is ModelFormat.GGUF:
        return reference.model_id(PurePosixPath(inspected.path.name))
    # The name of a directory has no suffix: Llama-3.1-8B is all of it.
    return origin.name or reference.model_id(PurePosixPath(f"{inspected.path.name}.d"))


def _resolved(inspected: Inspected, ref: str, digest: str, identifier: str) -> ResolvedModel:
    facts = inspected.facts
    return ResolvedModel(
        id=identifier,
        ref=ref,
        local_path=str(inspected.path),
        size_bytes=inspected.size_bytes,
        digest=digest,
        ctx_max=facts.ctx_max,
        arch=facts.arch,
        quant=facts.quant,
        layers=facts.layers,
        heads=facts.heads,
        kv_heads=facts.kv_heads,
        embedding=facts.embedding,
        format=inspected.format,
        key_length=facts.key_length,
        value_length=facts.value_length,
        vocabulary=facts.vocabulary,
        experts=facts.experts,
        dense_layers=facts.dense_layers,
        kv=facts.kv,
        weights=inspected.weights,
        parts=tuple(str(file.path) for file in inspected.parts),
        tokenizer=facts.tokenizer,
        chat_template_sha256=facts.chat_template_sha256,
    )


def _first_origin(origin: _Origin, known: ModelEntry | None, model: ResolvedModel) -> _Origin:
    """Where the model came from: one that was fetched stays so where somebody names it by its path in the cache."""
    if known is None or not known.fetched or origin.source is not None:
        return origin
    same = (known.local_path, known.digest) == (model.local_path, model.digest)
    return replace(origin, ref=known.ref, source=known.source) if same else origin


def _entry(model: ResolvedModel, known: ModelEntry | None, origin: _Origin, verified_ms: int | None) -> ModelEntry:
    # The first time that this content was verified counts, so that a start that learns nothing writes nothing.
    before = known.verified_ms if known is not None and known.digest == model.digest else None
    return ModelEntry(
        id=model.id,
        ref=origin.ref,
        local_path=model.local_path,
        size_bytes=model.size_bytes,
        digest=model.digest,
        format=model.format,
        ctx_max=model.ctx_max,
        arch=model.arch,
        quant=model.quant,
        layers=model.layers,
        heads=model.heads,
        tokenizer=model.tokenizer,
        chat_template_sha256=model.chat_template_sha256,
        fetched=origin.source is not None,
        source=origin.source,
        pinned=known is not None and known.pinned,
        verified_ms=before if before is not None else verified_ms,
    )


def _expected(digest: str | None) -> str | None:
    if digest is None:
        return None
    match = _SHA256.fullmatch(digest.strip())
    if match is None:
        message = f"{digest!r} is no sha256 digest"
        raise ModelError(Cause.MODEL_DIGEST, message, "it has 64 hexadecimal digits: `sha256sum FILE` prints it")
    return f"sha256:{match['hex'].lower()}"

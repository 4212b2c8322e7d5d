"""Makes sure that a model is on this disk, is what it should be, and is in the catalog.

Decides the order: reference, file, digest, id, provenance, and the catalog entry last, so that whatever fails before
leaves the catalog as it was. Never blocks the event loop, and can be cancelled at any point. Never moves, changes or
removes a file that is the user's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from weakref import WeakValueDictionary

from msgspec.structs import replace

from catalog_core.errors import CatalogError, CorruptIndexError
from catalog_core.index import Recovery
from catalog_core.models import FsModelCatalog
from contracts.config import Engine
from contracts.engines import ModelEntry, ModelFormat, ModelState, ResolvedModel
from contracts.pools import Cause
from model_provisioner import hf_directory, local, provenance, reference
from model_provisioner.digest import ChangedError, DigestMemory, NotRegularError, sha256_of
from model_provisioner.errors import ModelError
from model_provisioner.hf_directory import ModelFile
from model_provisioner.local import Inspected

_SHA256 = re.compile(r"(?:sha256:)?(?P<hex>[0-9a-fA-F]{64})")


class ModelProvisioner:
    """The one place where a model reference becomes a file that an engine can load.

    ``cache_dir`` holds what can be had again: remembered digests now, downloads later. ``provenance`` is the directory
    of the provenance journals. Relative paths in references start from ``base_dir``, an absolute path. ``clock`` gives
    Unix milliseconds. Constructing it touches nothing.
    """

    def __init__(
        self,
        cache_dir: Path,
        catalog: FsModelCatalog,
        provenance: Path,
        base_dir: Path,
        clock: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._provenance = provenance
        self._base_dir = PurePosixPath(base_dir)
        self._clock = clock
        self._digests = DigestMemory(cache_dir / "digests.json")
        self._hashing: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        self._admitting = asyncio.Lock()

    async def ensure_present(
        self,
        ref: str,
        digest: str | None = None,
        progress: Callable[[str], None] = lambda _: None,
        engine: Engine | None = None,
    ) -> ResolvedModel:
        """The model that ``ref`` means, on this disk and in the catalog as Active.

        ``digest`` is what the model must have, as ``sha256:<hex>`` or bare hex. ``progress`` gets lines for people, in
        the event loop's thread. Where ``engine`` is known, a model that it cannot load is refused. Raises ModelError,
        and then nothing was added to the catalog.
        """
        expected = _expected(digest)
        inspected = await asyncio.to_thread(examine, ref, self._base_dir, engine)
        digest = await self._digest(inspected, progress)
        path = inspected.path
        if expected is not None and digest != expected:
            raise ModelError(
                Cause.MODEL_DIGEST,
                f"{path} has the digest {digest}, but {expected} is required",
                "get the right model, or put the digest of this one into model_sha256 if you trust it",
            )
        if expected is None:
            progress(f"{path.name} was not verified, because no digest is configured; it has {digest}")
        async with self._admitting:  # two models of one name at once must see each other's id
            model, recovery = await asyncio.to_thread(
                self._admit, inspected, ref, digest, verified=expected is not None
            )
        if recovery is not None:
            progress(recovery.render())
        return model

    async def _digest(self, inspected: Inspected, progress: Callable[[str], None]) -> str:
        """Of a file its own; of a directory or a split model that of the list of its files with theirs."""
        if inspected.format is ModelFormat.GGUF and len(inspected.files) == 1:
            return await self._digest_of(inspected.files[0], progress)
        digests = [(file.name, await self._digest_of(file, progress)) for file in inspected.files]
        return f"sha256:{hashlib.sha256(hf_directory.digest_lines(digests)).hexdigest()}"

    async def _digest_of(self, file: ModelFile, progress: Callable[[str], None]) -> str:
        path, identity = file.path, file.identity
        async with self._hashing.setdefault(path, asyncio.Lock()):  # two pools with one model read it once
            known = await asyncio.to_thread(self._digests.recall, path, identity)
            if known is not None:
                return known
            progress(f"computing the digest of {path.name}, {identity.size_bytes} bytes")
            try:
                digest = await sha256_of(path, identity, progress)
            except ChangedError as error:
                message = f"{path} was changed while it was read"
                raise ModelError(Cause.MODEL_INVALID, message, "wait until it is whole, then try again") from error
            except (OSError, NotRegularError) as error:
                raise local.unusable(path, error) from error
            await asyncio.to_thread(self._digests.remember, path, identity, digest)
            return digest

    def _admit(
        self, inspected: Inspected, ref: str, digest: str, *, verified: bool
    ) -> tuple[ResolvedModel, Recovery | None]:
        """Write down what is new about the model, if anything is. Blocks."""
        now_ms = self._clock()
        try:
            entries, recovery = self._entries()
            identifier = choose_id(_named(inspected), inspected.path, digest, entries)
            model = _resolved(inspected, ref, digest, identifier)
            known = entries.get(identifier)
            entry = _entry(model, known, now_ms if verified else None)
            if known is None or replace(entry, created_ms=known.created_ms) != known:
                provenance.record(self._provenance, model, now_ms=now_ms)
                recovery = self._catalog.put(entry, now_ms=now_ms) or recovery
        except CatalogError as error:
            raise ModelError(Cause.INTERNAL, error.message, error.hint) from error
        return model, recovery

    def _entries(self) -> tuple[dict[str, ModelEntry], Recovery | None]:
        recovery = None
        try:
            entries = self._catalog.list()
        except CorruptIndexError:
            recovery = self._catalog.recover()
            entries = self._catalog.list()
        return {entry.id: entry for entry in entries}, recovery


def examine(ref: str, base_dir: PurePosixPath, engine: Engine | None) -> Inspected:
    """The model that ``ref`` means, as its name and its first bytes show it: all that is known before its digest.

    Relative paths start from ``base_dir``, which is absolute. Blocks, and changes nothing. Raises ModelError.
    """
    place = reference.parse(ref, base_dir)
    if not isinstance(place, reference.LocalFile):
        message = f"{reference.shown(place)} cannot be fetched by this version; download it and give its path"
        raise ModelError(Cause.MODEL_FETCH, message, "a path is written as /models/name.gguf or name.gguf")
    inspected = local.inspect(place.path)
    local.require_fit(inspected, engine)
    return inspected


def choose_id(stem: str, path: Path, digest: str, entries: dict[str, ModelEntry]) -> str:
    """The id under which a model is catalogued: the one it has, else ``stem``.

    A stem that belongs to another model, in another place that is still there, gets the first digits of the digest.
    """
    mine = [entry.id for entry in entries.values() if entry.local_path == str(path)]
    if mine:
        return stem if stem in mine else mine[0]
    taken = entries.get(stem)
    if taken is None or taken.digest == digest or not Path(taken.local_path).exists():
        return stem
    return f"{stem}-{digest.removeprefix('sha256:')[:8]}"


def _named(inspected: Inspected) -> str:
    name = inspected.path.name
    # The name of a directory has no suffix: Llama-3.1-8B is all of it.
    return reference.model_id(PurePosixPath(name if inspected.format is ModelFormat.GGUF else f"{name}.d"))


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
    )


def _entry(model: ResolvedModel, known: ModelEntry | None, verified_ms: int | None) -> ModelEntry:
    # The first time that this content was verified counts, so that a start that learns nothing writes nothing.
    before = known.verified_ms if known is not None and known.digest == model.digest else None
    return ModelEntry(
        id=model.id,
        ref=model.ref,
        local_path=model.local_path,
        size_bytes=model.size_bytes,
        digest=model.digest,
        state=ModelState.ACTIVE,
        ctx_max=model.ctx_max,
        arch=model.arch,
        quant=model.quant,
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

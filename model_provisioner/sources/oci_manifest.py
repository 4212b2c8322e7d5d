"""What a registry's manifest says: an artifact whose layers are files of a model, an index of such, or neither.

Decides how the conventions in use are read: files as layers with titles (as ``oras push`` makes them), Docker's and the
CNCF's model artifacts, Ollama's; which manifest of an index is meant; and that a body is the one that was asked for.
Whoever fills a registry is not trusted: titles become names only when ``listing`` finds them safe, a layer's own
addresses are ignored, and nothing is believed without a sha256. Never unpacks an archive, so layers that are archives
are no files of a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated

import msgspec

from model_provisioner.sources import listing

MAX_BYTES = 4 << 20
"""Of a manifest; registries take no larger ones."""
MAX_CHILDREN = 16
"""Manifests of an index that are looked at."""

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPT = ", ".join((*MANIFESTS, *INDEXES))

_GGUF = frozenset(
    {
        "application/vnd.docker.ai.gguf.v3",
        "application/vnd.docker.ai.model.file.v1+gguf",
        "application/vnd.cncf.model.weight.v1.gguf",
        "application/vnd.ollama.image.model",
    }
)
_NOT_THE_MODEL = frozenset({"application/vnd.docker.ai.mmproj", "application/vnd.ollama.image.projector"})
_ARCHIVES = (".tar", "+tar", "+gzip", "+zstd", ".gzip", ".zstd")
_TITLES = (
    "org.opencontainers.image.title",
    "org.cncf.model.filepath",
    "org.cnai.model.filepath",
)
_ATTESTATION = "vnd.docker.reference.type"
_Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """What is named by a digest: a layer, a configuration, or a manifest of an index."""

    digest: _Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
    media_type: str = ""
    annotations: dict[str, str] | None = None

    @property
    def sha256(self) -> str:
        """The digest as bare hex."""
        return self.digest.removeprefix("sha256:")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact. ``digest`` is that of its bytes."""

    digest: str
    layers: tuple[Descriptor, ...]


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """Several manifests, of which one may be meant. ``digest`` is that of its bytes."""

    digest: str
    manifests: tuple[Descriptor, ...]


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A model: its files by name, and the name of the one to load (None: the folder)."""

    files: tuple[tuple[str, Descriptor], ...]
    entry: str | None


class ManifestError(Exception):
    """It is no manifest, or not the one that was asked for. The text is the end of a sentence about it."""


class NotAModelError(ManifestError):
    """A manifest like any other, but its layers are no model."""


class _Document(msgspec.Struct, rename="camel"):
    schema_version: int
    media_type: str = ""
    layers: tuple[Descriptor, ...] | None = None
    manifests: tuple[Descriptor, ...] | None = None


def read(body: bytes, digest: str | None) -> Manifest | Index:
    """What these bytes say. ``digest`` is what they were asked for by. Raises ManifestError."""
    found = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if digest is not None and digest != found:
        raise ManifestError(f"was asked for as {digest}, and what came is {found}")
    try:
        document = msgspec.json.decode(body, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"cannot be read: {error}") from error
    if document.schema_version != 2 or (document.layers is None) == (document.manifests is None):
        raise ManifestError(f"is no manifest of an artifact (its schema is {document.schema_version})")
    if document.manifests is not None:
        return Index(digest=found, manifests=document.manifests)
    layers = document.layers or ()
    if len(layers) > listing.MAX_FILES:
        raise ManifestError(f"has {len(layers)} layers, more than the {listing.MAX_FILES} that a model may have")
    return Manifest(digest=found, layers=layers)


def candidates(index: Index) -> tuple[Descriptor, ...]:
    """The manifests of an index that may be a model. Raises ManifestError."""
    found = tuple(each for each in index.manifests if _ATTESTATION not in (each.annotations or {}))
    if not found:
        raise NotAModelError("is an index without manifests")
    if len(found) > MAX_CHILDREN:
        raise ManifestError(f"is an index of {len(found)} manifests, more than the {MAX_CHILDREN} that are looked at")
    return found


def artifact(manifest: Manifest, fallback: str) -> Artifact:
    """The model that a manifest is; files without a title are called ``fallback``. Raises ManifestError."""
    named = _titled(manifest.layers)
    untitled = [layer for layer in manifest.layers if layer.media_type in _GGUF and not _is_gguf(_title(layer))]
    for number, layer in enumerate(untitled, 1):
        part = f"-{number:05}-of-{len(untitled):05}" if len(untitled) > 1 else ""
        named.append((f"{fallback}{part}{listing.GGUF}", layer))
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise ManifestError("has two layers of one name")
    try:
        choice = listing.choose(names)
    except listing.NoChoiceError as error:
        raise _refusal(manifest.layers, str(error)) from error
    layers = dict(named)
    return Artifact(files=tuple((name, layers[name]) for name in choice.names), entry=choice.entry)


def _titled(layers: Sequence[Descriptor]) -> list[tuple[str, Descriptor]]:
    """The layers that are files with names, without a folder that all of them are in."""
    named = [
        (title, layer)
        for layer in layers
        if (title := _title(layer))
        and layer.media_type not in _NOT_THE_MODEL
        and not _is_archive(layer)
        and (_is_gguf(title) or layer.media_type not in _GGUF)
    ]
    while named and len(folders := {title.partition("/")[0] for title, _ in named if "/" in title}) == 1:
        folder = f"{folders.pop()}/"
        if not all(title.startswith(folder) and listing.safe_name(title) for title, _ in named):
            break
        named = [(title.removeprefix(folder), layer) for title, layer in named]
    return named


def _title(layer: Descriptor) -> str:
    annotations = layer.annotations or {}
    return next((annotations[key] for key in _TITLES if annotations.get(key)), "")


def _is_gguf(title: str) -> bool:
    return title.endswith(listing.GGUF)


def _is_archive(layer: Descriptor) -> bool:
    return layer.media_type.endswith(_ARCHIVES)


def _refusal(layers: Sequence[Descriptor], why: str) -> ManifestError:
    archives = [layer for layer in layers if _is_archive(layer)]
    if archives and len(archives) == len(layers):
        return NotAModelError("is a container image, or files in archives: its layers are not files of a model")
    if archives:
        return NotAModelError(f"{why}; its layers that are archives are not unpacked")
    return NotAModelError(why) if "no model" in why or not layers else ManifestError(why)

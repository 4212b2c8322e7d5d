"""A model directory in Hugging Face layout: which of its files are the model, and whether they are whole.

Decides that a directory is a model when it has a config.json and its weights in safetensors files; that nothing in it
may lead out of it, for an engine in a container sees this directory alone; and which files its digest covers: the
weights, and what tells an engine how to use them. Never reads the weights, and never changes a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import msgspec

from contracts.base import Message
from contracts.pools import Cause
from model_provisioner import hf_config
from model_provisioner.digest import Identity, open_regular
from model_provisioner.errors import ModelError

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = ".safetensors"
MAX_FILES = 4096
MAX_INDEX_BYTES = 64 << 20
MAX_HEAD_BYTES = 64 << 20
"""Of one safetensors file; real ones have a few megabytes at most."""

_COVERED = frozenset({WEIGHTS, ".json", ".model", ".txt", ".jinja", ".tiktoken", ".py"})
"""What the digest covers beside weights: configuration, tokenizers, chat templates and code."""
_LAYOUT = "a model for this engine is a directory with config.json and *.safetensors, as `hf download` makes it"
_OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".gguf")


class ModelFile(Message, frozen=True, kw_only=True):
    """One file of a model. ``name`` is relative to the model's directory."""

    name: str
    path: Path
    identity: Identity


class Directory(Message, frozen=True, kw_only=True):
    """A directory that can be used. ``files`` are those that the digest covers, by name."""

    facts: hf_config.Facts
    files: tuple[ModelFile, ...]
    weights_bytes: int


class _WeightIndex(msgspec.Struct):
    weight_map: dict[str, str]


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int] | None = None


def inspect(directory: Path) -> Directory:
    """Read what the directory says of its model, and the heads of its weights. Blocks.

    Raises ModelError; OSError, whose ``filename`` is the file; NotRegularError.
    """
    names = _names(directory)
    if CONFIG not in names:
        message = f"{directory} is a directory without {CONFIG}, so it is no model"
        raise ModelError(Cause.MODEL_INVALID, message, _hint_for(names))
    try:
        facts = hf_config.parse(_read(_inside(directory, CONFIG), hf_config.MAX_CONFIG_BYTES))
    except hf_config.ConfigError as error:
        message = f"{directory / CONFIG} cannot be used: {error}"
        raise ModelError(Cause.MODEL_INVALID, message, "get the file again from where the model is") from error
    weights = _weights(directory, names)
    covered = sorted({name for name in names if PurePosixPath(name).suffix in _COVERED - {WEIGHTS}} | set(weights))
    files = tuple(_file(directory, name) for name in covered)
    for file in files:
        if file.name in weights:
            _require_whole(file)
    size = sum(file.identity.size_bytes for file in files if file.name in weights)
    return Directory(facts=facts, files=files, weights_bytes=size)


def digest_lines(digests: Iterable[tuple[str, str]]) -> bytes:
    """What the digest of a directory is the digest of, from the names of its files and their ``sha256:<hex>``."""
    return "".join(f"{digest.removeprefix('sha256:')}  {name}\n" for name, digest in sorted(digests)).encode()


def _names(directory: Path) -> tuple[str, ...]:
    with os.scandir(directory) as found:
        names = sorted(entry.name for entry in found if not entry.name.startswith("."))
    if len(names) > MAX_FILES:
        message = f"{directory} has {len(names)} files, more than the {MAX_FILES} that a model may have"
        raise ModelError(Cause.MODEL_INVALID, message, _LAYOUT)
    return tuple(name for name in names if not (directory / name).is_dir())


def _weights(directory: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """The files with the weights: those that the index names, else all; not a second copy of them in one file."""
    found = tuple(name for name in names if name.endswith(WEIGHTS))
    if INDEX in names:
        wanted = _indexed(directory)
        if missing := [name for name in wanted if name not in found]:
            message = f"{directory} lacks {len(missing)} of the {len(wanted)} files that {INDEX} names: {missing[0]}"
            raise ModelError(Cause.MODEL_INVALID, message, "download or copy the missing files")
        return wanted
    if not found:
        message = f"{directory} has no weights: there is no *{WEIGHTS} in it"
        raise ModelError(Cause.MODEL_INVALID, message, _hint_for(names))
    own = tuple(name for name in found if not name.startswith(("consolidated", "adapter_")))
    return own or found


def _indexed(directory: Path) -> tuple[str, ...]:
    path = _inside(directory, INDEX)
    try:
        index = msgspec.json.decode(_read(path, MAX_INDEX_BYTES), type=_WeightIndex)
        wanted = _names_in(index)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, hf_config.ConfigError) as error:
        message = f"{path} cannot be used: {error}"
        raise ModelError(Cause.MODEL_INVALID, message, "get the file again from where the model is") from error
    return wanted


def _names_in(index: _WeightIndex) -> tuple[str, ...]:
    wanted = tuple(sorted(set(index.weight_map.values())))
    if not wanted or len(wanted) > MAX_FILES or any("/" in name or not name.endswith(WEIGHTS) for name in wanted):
        raise hf_config.ConfigError("its weight_map does not name files of this directory")
    return wanted


def _inside(directory: Path, name: str) -> Path:
    path = directory / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory)):
        message = f"{path} is a link that leads out of the model's directory, where an engine may not see it"
        raise ModelError(Cause.MODEL_INVALID, message, f"copy the directory with its files: cp -rL {directory} COPY")
    return path


def _file(directory: Path, name: str) -> ModelFile:
    path = _inside(directory, name)
    descriptor = open_regular(path)
    try:
        return ModelFile(name=name, path=path, identity=Identity.of(os.fstat(descriptor)))
    finally:
        os.close(descriptor)


def _require_whole(file: ModelFile) -> None:
    """A safetensors file begins with the length of its head, 8 bytes, then the head, JSON, then the tensors."""
    size = file.identity.size_bytes
    with os.fdopen(open_regular(file.path), "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or not 2 <= length <= MAX_HEAD_BYTES:
            message = f"{file.path} is no safetensors file"
            raise ModelError(Cause.MODEL_INVALID, message, "download or copy it again")
        head = opened.read(length)
    try:
        tensors = msgspec.json.decode(head, type=dict[str, _Tensor]) if len(head) == length else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"{file.path} is no safetensors file: {error}"
        raise ModelError(Cause.MODEL_INVALID, message, "download or copy it again") from error
    needed = 8 + length + max((each.data_offsets[1] for each in tensors.values() if each.data_offsets), default=0)
    if size < needed:
        message = f"{file.path} was cut off: it has {size} bytes, and its tensors need {needed}"
        raise ModelError(Cause.MODEL_INVALID, message, "download or copy it again")


def _read(path: Path, limit: int) -> bytes:
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise hf_config.ConfigError(f"it is longer than {limit >> 20} MiB")
    return data


def _hint_for(names: tuple[str, ...]) -> str:
    other = next((name for name in names if name.endswith(_OTHER_WEIGHTS)), None)
    if other is None:
        return _LAYOUT
    if other.endswith(".gguf"):
        return f"for llama.cpp give the path of the file itself, {other}; {_LAYOUT}"
    return f"{other} cannot be used: get the model with safetensors; {_LAYOUT}"

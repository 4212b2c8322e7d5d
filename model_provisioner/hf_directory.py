"""A model directory in Hugging Face layout: which of its files are the model, and whether they are whole.

Decides that a directory is a model when it has a config.json and its weights in safetensors files; that nothing in it
may lead out of it, for an engine in a container sees this directory alone; and which files its digest covers: the
weights, and what tells an engine how to use them. Never reads the weights, and never changes a file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TypeVar

from msgspec.structs import replace

from contracts.base import Message
from contracts.pools import Cause
from model_provisioner import hf_config, hf_tokenizer, safetensors
from model_provisioner.digest import Identity, open_regular
from model_provisioner.errors import ModelError
from model_provisioner.json_fields import ConfigError
from model_provisioner.safetensors import MAX_FILES, WEIGHTS

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"

_T = TypeVar("_T")
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


def inspect(directory: Path) -> Directory:
    """Read what the directory says of its model, and the heads of its weights. Blocks.

    Raises ModelError; OSError, whose ``filename`` is the file; NotRegularError.
    """
    names = _names(directory)
    if CONFIG not in names:
        message = f"{directory} is a directory without {CONFIG}, so it is no model"
        raise ModelError(Cause.MODEL_INVALID, message, _hint_for(names))
    facts = _facts(directory, names)
    weights = _weights(directory, names)
    covered = sorted({name for name in names if PurePosixPath(name).suffix in _COVERED - {WEIGHTS}} | set(weights))
    _require_text(directory, covered)
    files = tuple(_file(directory, name) for name in covered)
    for file in files:
        if file.name in weights:
            _require_whole(file)
    size = sum(file.identity.size_bytes for file in files if file.name in weights)
    return Directory(facts=facts, files=files, weights_bytes=size)


def digest_lines(digests: Iterable[tuple[str, str]]) -> bytes:
    """What the digest of a directory is the digest of, from the names of its files and their ``sha256:<hex>``."""
    return "".join(f"{digest.removeprefix('sha256:')}  {name}\n" for name, digest in sorted(digests)).encode()


def _facts(directory: Path, names: tuple[str, ...]) -> hf_config.Facts:
    tokenizer = _tokenizer(directory, names)
    limit = hf_config.MAX_CONFIG_BYTES
    facts = _parsed(directory, CONFIG, limit, lambda data: hf_config.parse(data, tokenizer.limit))
    return replace(
        facts,
        tokenizer=tokenizer.kind,
        chat_template=tokenizer.default,
        chat_template_sha256=tokenizer.templates.get(tokenizer.default or ""),
        chat_templates=tuple(sorted(tokenizer.templates)),
    )


def _tokenizer(directory: Path, names: tuple[str, ...]) -> hf_tokenizer.Tokenizer:
    """What the files say together: a template that has a file of its own goes before one among the settings."""

    def read(name: str, parse: Callable[[bytes], _T], default: _T) -> _T:
        return _parsed(directory, name, hf_tokenizer.LIMITS[name], parse) if name in names else default

    none: dict[str, str] = {}
    found = read(hf_tokenizer.CONFIG, hf_tokenizer.config, hf_tokenizer.Tokenizer())
    templates = read(hf_tokenizer.TEMPLATE, hf_tokenizer.template, none) or found.templates
    templates = templates or read(hf_tokenizer.TEMPLATE_JSON, hf_tokenizer.template_json, none)
    kind = found.kind
    if kind is None and hf_tokenizer.TOKENIZER in names:
        path = _inside(directory, hf_tokenizer.TOKENIZER)
        kind = hf_tokenizer.kind_of_model(_front(path, hf_tokenizer.LIMITS[hf_tokenizer.TOKENIZER]))
    return replace(found, kind=kind, templates=templates)


def _parsed(directory: Path, name: str, limit: int, parse: Callable[[bytes], _T]) -> _T:
    """What one of its documents says. Raises ModelError where it cannot be used."""
    path = _inside(directory, name)
    try:
        return parse(_all_of(path, limit))
    except ConfigError as error:
        message = f"{path} cannot be used: {error}"
        raise ModelError(Cause.MODEL_INVALID, message, "get the file again from where the model is") from error


def _all_of(path: Path, limit: int) -> bytes:
    data = _front(path, limit + 1)
    if len(data) > limit:
        raise ConfigError(f"it is longer than {limit >> 20} MiB")
    return data


def _front(path: Path, limit: int) -> bytes:
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read(min(limit, os.fstat(file.fileno()).st_size + 1))  # what is asked for is allocated at once


def _names(directory: Path) -> tuple[str, ...]:
    with os.scandir(directory) as found:
        entries = (entry.name for entry in found if not entry.name.startswith("."))
        names = sorted(itertools.islice(entries, MAX_FILES + 1))
    if len(names) > MAX_FILES:
        message = f"{directory} has more files than the {MAX_FILES} that a model may have"
        raise ModelError(Cause.MODEL_INVALID, message, _LAYOUT)
    return tuple(name for name in names if not (directory / name).is_dir())


def _weights(directory: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """The files with the weights: those that the index names, else all; not a second copy of them in one file."""
    found = tuple(name for name in names if name.endswith(WEIGHTS))
    if INDEX in names:
        wanted = _parsed(directory, INDEX, safetensors.MAX_INDEX_BYTES, safetensors.files_in)
        if missing := [name for name in wanted if name not in found]:
            message = f"{directory} lacks {len(missing)} of the {len(wanted)} files that {INDEX} names: {missing[0]}"
            raise ModelError(Cause.MODEL_INVALID, message, "download or copy the missing files")
        return wanted
    if not found:
        message = f"{directory} has no weights: there is no *{WEIGHTS} in it"
        raise ModelError(Cause.MODEL_INVALID, message, _hint_for(names))
    own = tuple(name for name in found if not name.startswith(("consolidated", "adapter_")))
    return own or found


def _require_text(directory: Path, names: Iterable[str]) -> None:
    """The digest covers the names too."""
    for name in names:
        shown = name.encode(errors="backslashreplace").decode()
        if shown != name:
            message = f"{directory} has a file whose name is no UTF-8 text: {shown}"
            raise ModelError(Cause.MODEL_INVALID, message, "rename it, or remove it where the model does not need it")


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
    size, again = file.identity.size_bytes, "download or copy it again"
    with os.fdopen(open_regular(file.path), "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or not 2 <= length <= safetensors.MAX_HEAD_BYTES:
            raise ModelError(Cause.MODEL_INVALID, f"{file.path} is no safetensors file", again)
        head = opened.read(length) if 8 + length <= size else b""
    try:
        needed = 8 + length + (safetensors.tensors_end(head) if len(head) == length else 0)
    except ConfigError as error:
        raise ModelError(Cause.MODEL_INVALID, f"{file.path} is no safetensors file: {error}", again) from error
    if size < needed:
        message = f"{file.path} was cut off: it has {size} bytes, and its tensors need {needed}"
        raise ModelError(Cause.MODEL_INVALID, message, again)
    if size > needed:
        message = f"{file.path} goes on after its tensors: it has {size} bytes, and they need {needed}"
        raise ModelError(Cause.MODEL_INVALID, message, again)


def _hint_for(names: tuple[str, ...]) -> str:
    other = next((name for name in names if name.endswith(_OTHER_WEIGHTS)), None)
    if other is None:
        return _LAYOUT
    if other.endswith(".gguf"):
        return f"for llama.cpp give the path of the file itself, {other}; {_LAYOUT}"
    return f"{other} cannot be used: get the model with safetensors; {_LAYOUT}"

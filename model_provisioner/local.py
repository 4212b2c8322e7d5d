"""A model on this machine, a file or a directory: opened, checked and read from the front.

Decides what can be used at all, and by which engine, and words every way in which it cannot. Never changes, moves or
removes a file: it is the user's.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from contracts.base import Message
from contracts.config import Engine
from contracts.engines import ModelFormat, WeightSizes
from contracts.pools import Cause
from model_provisioner import gguf, gguf_split, hf_config, hf_directory
from model_provisioner.digest import Identity, NotRegularError, open_regular
from model_provisioner.errors import GgufError, ModelError
from model_provisioner.hf_directory import ModelFile

_READS = "a model is a .gguf file for llama.cpp, or a directory with config.json and *.safetensors for other engines"


class Inspected(Message, frozen=True, kw_only=True):
    """A model that can be used, and what it says of itself. ``size_bytes`` is that of its weights.

    ``path`` is what an engine is given: of a split GGUF the first part, and ``files`` has all of them in order.
    """

    path: Path
    format: ModelFormat
    files: tuple[ModelFile, ...]
    size_bytes: int
    facts: gguf.Facts | hf_config.Facts
    weights: WeightSizes | None

    @property
    def parts(self) -> tuple[ModelFile, ...]:
        """Of a split GGUF all files but the first."""
        return self.files[1:] if self.format is ModelFormat.GGUF else ()


def inspect(text: str) -> Inspected:
    """Read the head of the model at the path ``text``, which is absolute or begins with ``~``.

    Blocks. Raises ModelError.
    """
    path = _absolute(text)
    try:
        return _directory(path) if path.is_dir() else _gguf(path)
    except OSError as error:
        raise unusable(path if error.filename is None else Path(error.filename), error) from error
    except NotRegularError as error:
        raise unusable(error.args[0], error) from error


FORMATS: MappingProxyType[Engine, ModelFormat] = MappingProxyType(
    {
        Engine.LLAMACPP: ModelFormat.GGUF,
        Engine.VLLM: ModelFormat.HF_DIRECTORY,
        Engine.TGI: ModelFormat.HF_DIRECTORY,
        Engine.TRITON: ModelFormat.HF_DIRECTORY,
    }
)
"""What each engine loads."""


def require_fit(model: Inspected, engine: Engine | None) -> None:
    """Raises ModelError where this engine cannot load a model of this format."""
    require_format(str(model.path), model.format, engine)


def require_format(name: str, found: ModelFormat, engine: Engine | None) -> None:
    """Raises ModelError where this engine cannot load what ``name`` is, a model that need not be here yet."""
    wanted = None if engine is None else FORMATS.get(engine)
    if wanted is None or wanted is found:
        return
    if wanted is ModelFormat.GGUF:
        message = f"{name} is a directory, and {engine} loads one GGUF file"
        hint = "give a .gguf file (llama.cpp's convert_hf_to_gguf.py makes one), or set engine: vllm"
    else:
        message = f"{name} is a GGUF file, and {engine} loads a directory with config.json and *.safetensors"
        hint = "give such a directory, or set engine: llamacpp"
    raise ModelError(Cause.MODEL_INVALID, message, hint)


def _gguf(path: Path) -> Inspected:
    file, facts = _gguf_file(path)
    files = [file]
    if facts.split_count > 1:
        try:
            found = [(file, facts), *map(_gguf_file, _other_parts(path, facts))]
            files = [each for each, _ in found]
            facts = gguf_split.join([each.name for each in files], [said for _, said in found])
        except gguf_split.SplitError as error:
            raise ModelError(Cause.MODEL_INVALID, f"{path} cannot be used: {error}", error.hint) from error
    return Inspected(
        path=path,
        format=ModelFormat.GGUF,
        files=tuple(files),
        size_bytes=sum(each.identity.size_bytes for each in files),
        facts=facts,
        weights=facts.weights,
    )


def _gguf_file(path: Path) -> tuple[ModelFile, gguf.Facts]:
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        identity = Identity.of(os.fstat(file.fileno()))
        facts = _facts(path, file.fileno(), identity.size_bytes)
    return ModelFile(name=path.name, path=path, identity=identity), facts


def _other_parts(path: Path, facts: gguf.Facts) -> list[Path]:
    """All but the first one, which lie beside it."""
    parts = [path.parent / name for name in gguf_split.names_of(path.name, facts)]
    missing = [part for part in parts if not part.exists()]
    if missing:
        message = f"{path} is split into {len(parts)} parts, and {len(missing)} of them are missing: {missing[0]}"
        raise ModelError(Cause.MODEL_MISSING, message, f"download or copy all parts into {path.parent}")
    return parts[1:]


def _directory(path: Path) -> Inspected:
    found = hf_directory.inspect(path)
    return Inspected(
        path=path,
        format=ModelFormat.HF_DIRECTORY,
        files=found.files,
        size_bytes=found.weights_bytes,
        facts=found.facts,
        weights=WeightSizes(layers=found.weights_bytes),
    )


def unusable(path: Path, error: OSError | NotRegularError) -> ModelError:
    """Why the file cannot be opened or read, with its mend."""
    match error:
        case NotRegularError():
            return ModelError(Cause.MODEL_INVALID, f"{path} is not a regular file", _READS)
        case IsADirectoryError():
            return ModelError(Cause.MODEL_INVALID, f"{path} is a directory, not a file", _READS)
        case FileNotFoundError() | NotADirectoryError():
            return ModelError(Cause.MODEL_MISSING, f"there is no model file {path}", _nearest(path))
        case PermissionError():
            hint = f"let the user of pool-managerd read it: chmod a+r {path}, and a+x on the directories above"
            return ModelError(Cause.MODEL_MISSING, f"the model file {path} cannot be read: permission denied", hint)
        case _:
            message = f"the model file {path} cannot be read: {error.strerror or error}"
            mend = "the disk reports an error: see `dmesg`" if error.errno == errno.EIO else "check the path in model:"
            return ModelError(Cause.MODEL_MISSING, message, mend)


def _absolute(text: str) -> Path:
    """One name for one place: folders are resolved. The file's own name stays as it was given, for it names the model.

    A download cache has a link with the model's name that leads to a file with a meaningless one.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        message = f"the home directory in {text} cannot be found"
        raise ModelError(Cause.MODEL_MISSING, message, "write the whole path") from error
    return Path(os.path.realpath(path.parent)) / path.name


def _facts(path: Path, descriptor: int, size: int) -> gguf.Facts:
    try:
        facts = _read_head(descriptor, size)
    except GgufError as error:
        raise ModelError(Cause.MODEL_INVALID, f"{path} cannot be used: {error}", _mend(path)) from error
    if facts.min_file_size > size:
        message = f"{path} was cut off: it has {size} bytes, and its tensors need {facts.min_file_size}"
        raise ModelError(Cause.MODEL_INVALID, message, "download or copy it again")
    return facts


def _read_head(descriptor: int, size: int) -> gguf.Facts:
    reading = gguf.read(size)
    try:
        wanted = next(reading)
        while True:
            wanted = reading.send(_bytes_at(descriptor, wanted.at, wanted.size))
    except StopIteration as done:
        facts: gguf.Facts = done.value
        return facts


def _bytes_at(descriptor: int, at: int, size: int) -> bytes:
    """So many bytes, or as many as there are."""
    found = os.pread(descriptor, size, at)
    if len(found) == size or not found:
        return found
    parts = bytearray(found)  # a read may give less than it was asked for
    while len(parts) < size and (part := os.pread(descriptor, size - len(parts), at + len(parts))):
        parts += part
    return bytes(parts)


def _mend(path: Path) -> str:
    return _READS if PurePosixPath(path).suffix != ".gguf" else "the file is damaged: download or copy it again"


def _nearest(path: Path) -> str:
    """What somebody who mistyped a path wants to know: how far it exists, and which models are there."""
    folder = next(parent for parent in path.parents if parent.is_dir() or parent == parent.parent)
    if folder != path.parent:
        return f"{folder} exists, but not {folder / path.relative_to(folder).parts[0]}"
    models = sorted(file.name for file in folder.glob("*.gguf"))[:5]
    return f"in {folder} there is: {', '.join(models)}" if models else f"there is no .gguf file in {folder}"

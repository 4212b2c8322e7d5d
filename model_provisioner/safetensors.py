"""The heads of safetensors files, and the index over several of them.

Decides where the tensors of a file end and which files an index names. Takes bytes, never touches a file. Documents may
have megabytes of entries, so they are gone through entry by entry: no more is kept than the bytes themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from model_provisioner.json_fields import ConfigError, require_utf8

MAX_HEAD_BYTES = 16 << 20
"""Of one file; real ones have a few megabytes at most."""
MAX_INDEX_BYTES = 32 << 20
MAX_FILES = 4096
MAX_NAME_BYTES = 1024
"""Of a file, with every letter of it escaped."""
WEIGHTS = ".safetensors"

# No quantifier here gives anything back, so each byte is looked at once.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT = rb'\{[^"{}]*+(?:' + _STRING + rb'[^"{}]*+)*+\}'
_NAMED_OBJECT = re.compile(rb"\s*+(" + _STRING + rb")\s*+:\s*+(" + _FLAT + rb")\s*+([,}])", re.DOTALL)
_NAMED_STRING = re.compile(rb"\s*+(" + _STRING + rb")\s*+:\s*+(" + _STRING + rb")\s*+([,}])", re.DOTALL)
_OPENED = re.compile(rb"\s*+\{\s*+(\})?")
_METADATA = b'"__metadata__"'


class _Index(msgspec.Struct):
    weight_map: msgspec.Raw


class _Tensor(msgspec.Struct):
    data_offsets: tuple[int, int]


def tensors_end(head: bytes) -> int:
    """Where the last tensor ends, in bytes from the end of the head. Raises ConfigError."""
    require_utf8(head)
    end = sizes = 0
    for name, value in _entries(head, _NAMED_OBJECT):
        if name == _METADATA:
            continue
        try:
            first, last = msgspec.json.decode(value, type=_Tensor).data_offsets
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"a tensor is not described: {error}") from error
        if not 0 <= first <= last:
            raise ConfigError(f"a tensor goes from {first} to {last}")
        end = max(end, last)
        sizes += last - first
    if sizes != end:
        raise ConfigError(f"its tensors have {sizes} bytes and end at {end}, so they overlap or leave gaps")
    return end


def files_in(index: bytes) -> tuple[str, ...]:
    """The files with weights that a ``model.safetensors.index.json`` names. Raises ConfigError."""
    require_utf8(index)
    try:
        weight_map = memoryview(msgspec.json.decode(index, type=_Index).weight_map)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"it is no JSON object with a weight_map: {error}") from error
    names: set[bytes] = set()
    for _, value in _entries(weight_map, _NAMED_STRING):
        if len(value) > MAX_NAME_BYTES:
            raise ConfigError("its weight_map names files that nobody can have: a name without end")
        names.add(value)
        if len(names) > MAX_FILES:
            raise ConfigError(f"its weight_map names more than {MAX_FILES} files")
    try:
        wanted = sorted({msgspec.json.decode(name, type=str) for name in names})
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"its weight_map names files that nobody can have: {error}") from error
    if not wanted or not all(_is_plain(name) for name in wanted):
        raise ConfigError("its weight_map does not name files of this directory")
    return tuple(wanted)


def _is_plain(name: str) -> bool:
    return "/" not in name and name.endswith(WEIGHTS) and name.isprintable()


def _entries(document: bytes | memoryview, form: re.Pattern[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The names and values of an object of which all values have this form. Raises ConfigError."""
    try:
        msgspec.json.decode(document, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"it is no JSON: {error}") from error
    opened = _OPENED.match(document)
    if opened is None:
        raise ConfigError("it is no JSON object")
    at, closed = opened.end(), opened[1] is not None
    while not closed:
        found = form.match(document, at)
        if found is None:
            raise ConfigError(f"it has something else at byte {at} than it should")
        yield found[1], found[2]
        at, closed = found.end(), found[3] == b"}"

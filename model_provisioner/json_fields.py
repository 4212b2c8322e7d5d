"""A JSON document that somebody else wrote, read a field at a time.

Decides what a whole number and a text are, and words what is none. A field stays a piece of the document's own bytes
until it is asked for, and a long one is not decoded: a document costs little more memory than its bytes, whatever is in
it.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

import msgspec

MAX_NUMBER = (1 << 31) - 1
MAX_FLOAT = 1e300
MAX_NAME = 128
"""Characters of a name that is shown."""
MAX_FIELD_BYTES = 256 << 10
"""No list, number or name that matters here is longer."""

_CHUNK = 1 << 16

Fields = Mapping[str, bytes]
"""The fields that are there and not null, by name; each as it stands in the document."""


class ConfigError(Exception):
    """No document that can be used."""


class Shape:
    """An object of which these fields matter, and no other."""

    def __init__(self, *names: str) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._type: Any = msgspec.defstruct("Document", [(name, msgspec.Raw, msgspec.Raw()) for name in self._names])

    def read(self, data: bytes) -> Fields:
        """The fields. Raises ConfigError."""
        require_utf8(data)
        try:
            found = msgspec.json.decode(data, type=self._type)
        except msgspec.ValidationError:
            raise ConfigError("it is no JSON object") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError(f"it is no JSON: {error}") from error
        fields = ((name, bytes(getattr(found, name))) for name in self._names)
        return {name: value for name, value in fields if value not in {b"", b"null"}}


def require_utf8(data: bytes | memoryview) -> None:
    """Raise ConfigError where it is no text; the reader of JSON looks only at what is asked for."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(data), _CHUNK):
            decoder.decode(data[at : at + _CHUNK])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ConfigError("it is no JSON: it is no UTF-8") from error


def integer(name: str, value: bytes) -> int:
    """A whole number that can be true. Raises ConfigError."""
    found = _scalar(name, value)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int):
        raise ConfigError(f"{name} is {_shown(value)}, which is no whole number")
    if not 0 <= found <= MAX_NUMBER:
        raise ConfigError(f"{name} is {_shown(value)}")
    return found


def number(name: str, value: bytes) -> float:
    """Any number. Raises ConfigError."""
    found = _scalar(name, value)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or abs(found) > MAX_FLOAT:
        raise ConfigError(f"{name} is {_shown(value)}, which is no number")
    return float(found)


def text(name: str, value: bytes, limit: int = MAX_FIELD_BYTES) -> str:
    """A text of at most so many bytes, as it is. Raises ConfigError."""
    if len(value) > limit:
        raise ConfigError(f"{name} is longer than {limit >> 10} KiB")
    found = _scalar(name, value, limit)
    if not isinstance(found, str):
        raise ConfigError(f"{name} is {_shown(value)}, which is no text")
    return found


def name_in(name: str, value: bytes) -> str:
    """A short text, fit for a terminal. Raises ConfigError."""
    return printable(text(name, value))


def flag(value: bytes | None) -> bool | None:
    """Yes or no; None where it is neither."""
    return {b"true": True, b"false": False}.get(value or b"")


def items(value: bytes | None) -> list[bytes] | None:
    """What a list holds; None where it is no list, or longer than one that matters."""
    if value is None or not value.startswith(b"[") or len(value) > MAX_FIELD_BYTES:
        return None
    return [bytes(each) for each in msgspec.json.decode(value, type=list[msgspec.Raw])]


def is_object(value: bytes | None) -> bool:
    """Whether it is ``{...}``."""
    return value is not None and value.startswith(b"{")


def printable(found: str) -> str:
    """Text that will be on somebody's terminal."""
    return "".join(mark if mark.isprintable() else "?" for mark in found[:MAX_NAME])


def _scalar(name: str, value: bytes, limit: int = MAX_FIELD_BYTES) -> object:
    """A number, a text or a truth; None where it is something else."""
    if value[:1] in {b"{", b"["}:
        return None
    if len(value) > limit:
        raise ConfigError(f"{name} is longer than {limit >> 10} KiB")
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigError(f"{name} is {_shown(value)}, which cannot be read") from None


def _shown(value: bytes) -> str:
    if value[:1] in {b"{", b"["}:
        return "an object" if is_object(value) else "a list"
    return printable(value[: 4 * MAX_NAME].decode(errors="replace"))

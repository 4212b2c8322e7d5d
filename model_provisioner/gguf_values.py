"""The keys and values of a GGUF head: their types, and how one is asked for.

Decides what counts as a whole number, a name and a list by layer, and words every value that is none. What was not
kept, because no fact is that long, is refused here when a fact turns out to need it.
"""

from __future__ import annotations

import struct
from types import MappingProxyType

import msgspec

from model_provisioner import kv_layout
from model_provisioner.errors import GgufError

MAX_NAME_BYTES = 4096
MAX_NUMBER = (1 << 31) - 1
"""The most that a fact may be: a count of layers, heads or tokens beyond it is damage."""

BOOL, STRING, ARRAY = 7, 8, 9
FORMATS: MappingProxyType[int, struct.Struct] = MappingProxyType(
    {
        kind: struct.Struct(f"<{code}")
        for kind, code in {
            0: "B",
            1: "b",
            2: "H",
            3: "h",
            4: "I",
            5: "i",
            6: "f",
            BOOL: "B",
            10: "Q",
            11: "q",
            12: "d",
        }.items()
    }
)
SMALLEST = MappingProxyType({kind: form.size for kind, form in FORMATS.items()} | {STRING: 8, ARRAY: 12})
"""The bytes that one of each type has at least."""
U32, U64 = FORMATS[4], FORMATS[10]

_INTEGERS = frozenset({0, 1, 2, 3, 4, 5, 10, 11})


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """One value. ``at`` is where it lies in the file, ``items`` how many an array has and None for anything else.

    ``data`` is None where the value was passed over: an array of strings or arrays, or longer than a fact can be.
    """

    kind: int
    at: int
    items: int | None = None
    data: bytes | None = None
    sha256: str | None = None
    """Of a chat template, bare hex."""


class Values:
    """What a head says, by key. Every method raises GgufError where the key is there with something else."""

    def __init__(self, values: dict[bytes, Value]) -> None:
        self._values = values

    def get(self, key: str) -> Value | None:
        """What was found, of whatever type."""
        return self._values.get(key.encode())

    def at(self, key: str) -> int:
        """Where the value is, in bytes from the start of the file; 0 where there is none."""
        value = self.get(key)
        return 0 if value is None else value.at

    def starting_with(self, prefix: str) -> dict[str, Value]:
        """All keys that go on from there -> their values, by the rest of the key as people may see it."""
        start = prefix.encode()
        return {printable(key[len(start) :]): value for key, value in self._values.items() if key.startswith(start)}

    def string(self, key: str) -> str | None:
        """A name, fit for a terminal."""
        value = self.get(key)
        if value is None:
            return None
        if value.kind != STRING or value.items is not None:
            raise GgufError(f"{key} is no string", value.at)
        if value.data is None:
            raise GgufError(f"{key} is longer than {MAX_NAME_BYTES} bytes", value.at)
        return printable(value.data)

    def integer(self, key: str) -> int | None:
        """A whole number; the largest of those that an array has by layer."""
        value = self.get(key)
        if value is None or value.items == 0:
            return None
        number = max(_numbers(key, value, _INTEGERS))
        if not 0 <= number <= MAX_NUMBER:
            raise GgufError(f"{key} is {number}", value.at)
        return number

    def by_layer(self, key: str) -> tuple[int, ...] | None:
        """The numbers of an array; None where there is none, or one number for all."""
        value = self.get(key)
        return None if value is None or not value.items else _in_range(key, value, _INTEGERS)

    def flags_by_layer(self, key: str) -> tuple[bool, ...] | None:
        """As ``by_layer``, where each is yes or no."""
        value = self.get(key)
        if value is None or not value.items:
            return None
        return tuple(bool(each) for each in _in_range(key, value, _INTEGERS | {BOOL}))


def printable(found: bytes) -> str:
    """Text that will be on somebody's terminal."""
    return "".join(mark if mark.isprintable() else "?" for mark in found.decode(errors="replace"))


def _in_range(key: str, value: Value, kinds: frozenset[int]) -> tuple[int, ...]:
    numbers = _numbers(key, value, kinds)
    if not 0 <= min(numbers) <= max(numbers) <= MAX_NUMBER:
        raise GgufError(f"{key} is {min(numbers)} to {max(numbers)}", value.at)
    return numbers


def _numbers(key: str, value: Value, kinds: frozenset[int]) -> tuple[int, ...]:
    if value.kind not in kinds:
        raise GgufError(f"{key} is no whole number", value.at)
    if value.data is None:
        message = f"{key} has {value.items} numbers, and no model has more than {kv_layout.MAX_LAYERS} layers"
        raise GgufError(message, value.at)
    return tuple(int(found) for (found,) in FORMATS[value.kind].iter_unpack(value.data))

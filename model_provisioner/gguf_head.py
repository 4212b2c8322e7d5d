"""The head of a GGUF file, walked from its first byte to its last tensor, a window at a time.

Decides what is asked of the file and when a head is hostile, damaged or cut off. It is told how long the file is and
asks for bytes; it never touches the file and never sees the weights. Whatever the bytes are, it ends in a head or in
GgufError, within these bounds:

- it asks for at most WINDOW bytes at a time, goes forward only, and never past MAX_HEAD_BYTES;
- what it keeps, all keys, short values and names of tensors together, is at most MAX_KEPT_BYTES;
- a count is believed only when what it counts fits into what is left of the file, and no count above its own limit
  (MAX_KEYS, MAX_TENSORS, MAX_ITEMS, MAX_NESTED) is: no loop runs longer, nothing is allocated by a number in the file;
- arrays nest no deeper than MAX_DEPTH.

Real heads are far below: 30 MB for the largest vocabularies, 500,000 items, 100 keys, 2,000 tensors.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Generator

import msgspec

from model_provisioner import kv_layout
from model_provisioner.errors import GgufError
from model_provisioner.gguf_values import ARRAY, FORMATS, MAX_NAME_BYTES, SMALLEST, STRING, U32, U64, Value, Values
from model_provisioner.gguf_weights import Tally, Tensors

WINDOW = 1 << 18
MAX_HEAD_BYTES = 128 << 20
MAX_KEPT_BYTES = 4 << 20
MAX_KEYS = 1 << 12
MAX_KEY_BYTES = (1 << 16) - 1
MAX_ITEMS = 1 << 22
MAX_NESTED = 1 << 16
MAX_TENSORS = 1 << 16
MAX_TENSOR_NAME_BYTES = 1024
MAX_DIMENSIONS = 8
MAX_DEPTH = 4
MAX_SHOWN = 64
"""Characters of a key in a message."""

MAGIC = b"GGUF"
VERSIONS = (2, 3)
CHAT_TEMPLATE = b"tokenizer.chat_template"

_ITEM = 1 << 17
"""The most that has to lie in the window at once: a key with a list by layer, or a tensor."""
_KEPT_BESIDE = 64
"""What keeping costs beside the bytes themselves."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """These bytes of the file are needed next: ``size`` of them, from ``at``. Fewer mean that it became shorter."""

    at: int
    size: int


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """All of a head. ``min_file_size`` is where the last tensor ends: a shorter file was cut off."""

    version: int
    values: Values
    tensors: Tensors
    min_file_size: int


Steps = Generator[Wanted, bytes, Head]
_Steps = Generator[Wanted, bytes, None]


def walk(size: int) -> Steps:
    """Read the head of a file of ``size`` bytes: send it the bytes that it asks for. Raises GgufError."""
    return _Walk(size).read()


class _Walk:
    """``at`` points into the window, which begins at ``base``; ``where`` is what is being read, for messages."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.end = min(size, MAX_HEAD_BYTES)
        self.base = self.at = 0
        self.window = b""
        self.where = "the header"
        self.items = self.nested = 0
        self.kept = 0

    @property
    def place(self) -> int:
        return self.base + self.at

    def read(self) -> Steps:
        yield from self._ready()
        version, tensor_count, key_count = self._fixed_part()
        values: dict[bytes, Value] = {}
        for number in range(key_count):
            yield from self._ready()
            self.where = f"key {number + 1} of {key_count}"
            start = self.place
            key = self._text(MAX_KEY_BYTES)
            self._keep(len(key))
            shown = repr(key[:MAX_SHOWN].decode(errors="replace"))
            self.where = f"the value of {shown}"
            if key in values:
                raise GgufError(f"the key {shown} is there twice", start)
            values[key] = yield from self._value(key)
        found = Values(values)
        alignment = self._alignment(found)
        tensors = yield from self._tensors(tensor_count, alignment)
        end = -(-self.place // alignment) * alignment + tensors.end if tensor_count else self.place
        return Head(version=version, values=found, tensors=tensors, min_file_size=end)

    def _fixed_part(self) -> tuple[int, int, int]:
        magic = self.window[: len(MAGIC)]
        if magic != MAGIC[: len(magic)]:
            # What it begins with instead is not told: any file of this machine can be named over HTTP.
            raise GgufError(f"this is no GGUF file: it does not begin with {MAGIC.decode()}", 0)
        self._bytes(len(MAGIC))
        version = self._number(U32)
        if version not in VERSIONS:
            if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
                raise GgufError("this GGUF file is big-endian, which no engine here reads", 4)
            raise GgufError(f"GGUF version {version} is not one of: {', '.join(map(str, VERSIONS))}", 4)
        tensor_count = self._count("tensors", MAX_TENSORS, 24)
        key_count = self._count("keys", MAX_KEYS, 13)
        return version, tensor_count, key_count

    def _value(self, key: bytes) -> Generator[Wanted, bytes, Value]:
        kind = self._number(U32)
        at = self.place
        if kind == ARRAY:
            kind, items, data = yield from self._array(1)
            return Value(kind=kind, at=at, items=items, data=data)
        if kind == STRING:
            length = self._length(MAX_HEAD_BYTES)
            if key == CHAT_TEMPLATE or key.startswith(CHAT_TEMPLATE + b"."):
                digest = yield from self._hash(length)
                return Value(kind=kind, at=at, sha256=digest if length else None)
            return Value(kind=kind, at=at, data=self._kept_or_skipped(length, MAX_NAME_BYTES))
        if kind not in FORMATS:
            raise GgufError(f"{self.where} has the unknown type {kind}", at - 4)
        return Value(kind=kind, at=at, data=self._bytes(FORMATS[kind].size))

    def _array(self, depth: int) -> Generator[Wanted, bytes, tuple[int, int, bytes | None]]:
        if depth > MAX_DEPTH:
            raise GgufError(f"{self.where} nests arrays deeper than {MAX_DEPTH}", self.place)
        kind = self._number(U32)
        if kind not in SMALLEST:
            raise GgufError(f"{self.where} is an array of the unknown type {kind}", self.place - 4)
        count = self._count(f"items in {self.where}", MAX_ITEMS, SMALLEST[kind])
        if kind in FORMATS:
            size = FORMATS[kind].size
            return kind, count, self._kept_or_skipped(count * size, kv_layout.MAX_LAYERS * size if depth == 1 else 0)
        self.items += count
        if self.items > MAX_ITEMS:
            raise GgufError(f"more than {MAX_ITEMS} strings and arrays", self.place)
        if kind == STRING:
            yield from self._strings(count)
            return kind, count, None
        self.nested += count
        if self.nested > MAX_NESTED:
            raise GgufError(f"more than {MAX_NESTED} arrays in arrays", self.place)
        for _ in range(count):
            yield from self._ready()
            yield from self._array(depth + 1)
        return kind, count, None

    def _strings(self, count: int) -> _Steps:
        """Pass over so many; this is the one loop that is long in every model."""
        unpack = U64.unpack_from
        while count:
            window, at = self.window, self.at
            last = len(window) - 8
            while count and at <= last:
                at += 8 + unpack(window, at)[0]
                count -= 1
            self.at = at
            self._require(8 * count)
            if count:
                yield from self._refill(8)

    def _hash(self, length: int) -> Generator[Wanted, bytes, str]:
        self._require(length)
        digest = hashlib.sha256()
        while length:
            if self.at >= len(self.window):
                yield from self._refill(1)
            part = self.window[self.at : self.at + length]
            digest.update(part)
            length -= len(part)
            self.at += len(part)
        return digest.hexdigest()

    def _tensors(self, count: int, alignment: int) -> Generator[Wanted, bytes, Tensors]:
        tally = Tally(alignment)
        names: set[bytes] = set()
        for number in range(count):
            yield from self._ready()
            self.where = f"tensor {number + 1} of {count}"
            start = self.place
            name = self._text(MAX_TENSOR_NAME_BYTES)
            self._keep(len(name))
            if name in names:
                raise GgufError(f"{self.where} has the name of another", start)
            names.add(name)
            dimensions = self._number(U32)
            if dimensions > MAX_DIMENSIONS:
                raise GgufError(f"{self.where} has {dimensions} dimensions", self.place - 4)
            shape = [self._number(U64) for _ in range(dimensions)]
            tally.add(name, shape, self._number(U32), self._number(U64), start)
        return tally.sum()

    def _alignment(self, values: Values) -> int:
        alignment = values.integer("general.alignment")
        if alignment is None:
            return 32
        if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise GgufError(f"general.alignment is {alignment}, which is no power of two up to 1048576", self.place)
        return alignment

    def _text(self, limit: int) -> bytes:
        return self._bytes(self._length(limit))

    def _length(self, limit: int) -> int:
        length = self._number(U64)
        if length > limit:
            raise GgufError(f"{self.where} has a string of {length} bytes, more than {limit}", self.place - 8)
        return length

    def _count(self, what: str, limit: int, smallest: int) -> int:
        count = self._number(U64)
        if count > limit or count * smallest > MAX_HEAD_BYTES - self.place:
            raise GgufError(f"{count} {what} are more than a head can hold", self.place - 8)
        self._require(count * smallest)  # at once, not item by item
        return count

    def _kept_or_skipped(self, length: int, limit: int) -> bytes | None:
        if length <= limit:
            self._keep(length)
            return self._bytes(length)
        self._require(length)
        self.at += length
        return None

    def _keep(self, size: int) -> None:
        self.kept += size + _KEPT_BESIDE
        if self.kept > MAX_KEPT_BYTES:
            raise GgufError(f"keys and names have more than {MAX_KEPT_BYTES >> 20} MiB", self.place)

    def _number(self, form: struct.Struct) -> int:
        return int(form.unpack(self._bytes(form.size))[0])

    def _bytes(self, size: int) -> bytes:
        self._require(size)
        found = self.window[self.at : self.at + size]
        if len(found) < size:
            raise self._cut_off()
        self.at += size
        return found

    def _require(self, size: int) -> None:
        """So many bytes more have to be there before the head may end."""
        if self.place + size <= self.end:
            return
        if self.size > MAX_HEAD_BYTES:
            message = f"{self.where} would end past the {MAX_HEAD_BYTES >> 20} MiB that a head may have"
            raise GgufError(message, min(self.place, self.end))
        raise self._cut_off()

    def _cut_off(self) -> GgufError:
        return GgufError(f"the file ends in the middle of {self.where}", min(self.place, self.end))

    def _ready(self) -> _Steps:
        """Have what one item may need in the window, as far as the file goes."""
        if len(self.window) - self.at < _ITEM and self.base + len(self.window) < self.end:
            yield from self._refill(0)

    def _refill(self, least: int) -> _Steps:
        """Move the window to where we are. Raises GgufError where not even ``least`` bytes are there."""
        self.base, self.at = self.place, 0
        self.window = yield Wanted(at=self.base, size=max(min(WINDOW, self.end - self.base), 0))
        if len(self.window) < least:
            raise self._cut_off()

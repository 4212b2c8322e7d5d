"""What a GGUF file says of itself, read from its head alone.

Decides which facts there are and when a head is hostile, damaged or not for us. Takes the first bytes of a file and
either answers or says how many more it needs, so it never touches the file and never sees the weights. Whatever the
bytes are, it ends in facts, a request for more, or GgufError, within these bounds:

- it asks for no more than MAX_HEAD_BYTES in all, so that is the most that anybody has to hold in memory;
- a count is believed only when the bytes that it needs at least fit in what is left of those, and no count above its
  own limit (MAX_KEYS, MAX_TENSORS, MAX_ITEMS) is: no loop runs longer, nothing is allocated by a number in the file;
- arrays nest no deeper than MAX_DEPTH.

Real heads are far below: 30 MB for the largest vocabularies, 500,000 items, 2,000 tensors.
"""

from __future__ import annotations

import re
import struct
from types import MappingProxyType

import msgspec

from contracts.engines import KvLayout, WeightSizes
from model_provisioner import ggml, kv_layout
from model_provisioner.errors import GgufError

MAX_HEAD_BYTES = 128 << 20
MAX_KEYS = 1 << 16
MAX_KEY_BYTES = (1 << 16) - 1
MAX_ITEMS = 1 << 22
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 8
MAX_DEPTH = 4
MAX_NAME_BYTES = 4096
MAX_SHOWN = 64
"""Characters of a key in a message."""
MAX_NUMBER = (1 << 31) - 1
"""The most that a fact may be: a count of layers, heads or tokens beyond it is damage."""
MAX_SIZE = 1 << 62
"""The most that a tensor may be, in weights or bytes."""

MAGIC = b"GGUF"
VERSIONS = (2, 3)


class NeedMore(msgspec.Struct, frozen=True, kw_only=True):
    """The head goes on: ``total`` bytes from the start of the file are needed at least, to read ``where``."""

    total: int
    where: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the head says; None where it does not. Where a number differs by layer, it is the largest."""

    version: int
    tensor_count: int
    parameters: int
    """How many weights all tensors have."""
    min_file_size: int
    """The tensors end here: a shorter file was cut off. In bytes from the start of the file."""
    arch: str | None = None
    name: str | None = None
    ctx_max: int | None = None
    quant: str | None = None
    """llama.cpp's name of the file type, ``Q4_K_M``."""
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    embedding: int | None = None
    tokenizer: str | None = None
    has_chat_template: bool = False
    split_count: int = 1
    """How many files the model was split into, of which this is one."""
    key_length: int | None = None
    value_length: int | None = None
    vocabulary: int | None = None
    experts: int | None = None
    dense_layers: int = 0
    kv: KvLayout | None = None
    weights: WeightSizes | None = None
    """None where there is no tensor, or one of a type that is not known here."""


def parse(prefix: bytes) -> Facts | NeedMore:
    """Read the head that ``prefix`` begins with. Raises GgufError."""
    head = _Head(prefix)
    try:
        return head.read()
    except _Short as short:
        if short.total > MAX_HEAD_BYTES:
            message = f"{short.where} would end past the {MAX_HEAD_BYTES >> 20} MiB that a head may have"
            raise GgufError(message, head.at) from None
        return NeedMore(total=short.total, where=short.where)


class _Short(Exception):  # noqa: N818 - not an error: the caller asks for more
    def __init__(self, total: int, where: str) -> None:
        super().__init__(total, where)
        self.total = total
        self.where = where


class _Value(msgspec.Struct, frozen=True):
    """Where a value lies. ``items`` is None for a scalar, and ``at`` then is where it begins."""

    kind: int
    at: int
    items: int | None = None


class _Tensors(msgspec.Struct, frozen=True):
    """All tensors together. ``end`` is where the last one ends, in bytes from the start of the file."""

    count: int
    parameters: int
    end: int
    weights: WeightSizes | None


_BOOL, _STRING, _ARRAY = 7, 8, 9
_FORMATS: MappingProxyType[int, struct.Struct] = MappingProxyType(
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
            7: "B",
            10: "Q",
            11: "q",
            12: "d",
        }.items()
    }
)
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_INTEGERS = frozenset({0, 1, 2, 3, 4, 5, 10, 11})
_SMALLEST = MappingProxyType({kind: form.size for kind, form in _FORMATS.items()} | {_STRING: 8, _ARRAY: 12})
_U32, _U64 = _FORMATS[4], _FORMATS[10]


_PERIODS: MappingProxyType[str, int] = MappingProxyType(
    {
        "afmoe": 4,
        "cohere2": 4,
        "exaone-moe": 4,
        "exaone4": 4,
        "gemma-embedding": 6,
        "gemma2": 2,
        "gemma3": 6,
        "gemma3n": 5,
        "gpt-oss": 2,
        "llama4": 4,
        "mellum": 4,
        "olmo2": 4,
        "plamo3": 8,
    }
)
"""Where llama.cpp decides which layers have the window: all but each n-th. Others say so in the file, or have none."""
_WINDOWS: MappingProxyType[str, int] = MappingProxyType({"gemma2": 4096, "llama4": 8192})
_OWN_CACHES: MappingProxyType[str, int] = MappingProxyType({"gemma3n": 20})
"""So many layers at the front have a cache of their own; the others use theirs."""

# The experts are those that llama.cpp's --cpu-moe means; the input is what it never offloads.
_EXPERTS = re.compile(r"\.ffn_(?:up|down|gate|gate_up)_(?:ch)?exps")
_INPUT = ("token_embd", "per_layer_token_embd", "token_types", "position_embd")


def _part(name: str) -> str:
    if _EXPERTS.search(name):
        return "experts"
    if name.startswith("output"):
        return "output"
    return "input" if name.startswith(_INPUT) else "layers"


def _weights(sizes: dict[str, int], *, tied: bool) -> WeightSizes:
    return WeightSizes(
        layers=sizes["layers"] + sizes["experts"],
        experts=sizes["experts"],
        output=sizes["output"] + (sizes["input"] if tied else 0),
        input=sizes["input"],
    )


class _Head:
    """A walk over the bytes, which ``at`` points into; ``where`` is what is being read, for messages."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.where = "the header"
        self.items = 0

    def read(self) -> Facts:
        version, tensor_count, key_count = self._fixed_part()
        values: dict[str, _Value] = {}
        for number in range(key_count):
            self.where = f"key {number + 1} of {key_count}"
            start = self.at
            key = self._text(MAX_KEY_BYTES)
            shown = repr(key[:MAX_SHOWN])
            self.where = f"the value of {shown}"
            if key in values:
                raise GgufError(f"the key {shown} is there twice", start)
            values[key] = self._value()
        alignment = self._alignment(values)
        tensors = self._tensors(tensor_count, alignment)
        return self._facts(values, version, tensors)

    def _fixed_part(self) -> tuple[int, int, int]:
        self._need(4)
        if self.data[:4] != MAGIC:
            raise GgufError(f"this is no GGUF file: it begins with {self.data[:4]!r} instead of {MAGIC!r}", 0)
        self.at = 4
        version = self._number(_U32)
        if version not in VERSIONS:
            if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
                raise GgufError("this GGUF file is big-endian, which no engine here reads", 4)
            raise GgufError(f"GGUF version {version} is not one of: {', '.join(map(str, VERSIONS))}", 4)
        tensor_count = self._count("tensors", MAX_TENSORS, 24)
        key_count = self._count("keys", MAX_KEYS, 13)
        return version, tensor_count, key_count

    def _value(self) -> _Value:
        kind = self._number(_U32)
        at = self.at
        if kind == _ARRAY:
            items_at, item_kind, items = self._array(1)
            return _Value(item_kind, items_at, items)
        self._skip(kind, 0)
        return _Value(kind, at)

    def _array(self, depth: int) -> tuple[int, int, int]:
        if depth > MAX_DEPTH:
            raise GgufError(f"{self.where} nests arrays deeper than {MAX_DEPTH}", self.at)
        kind = self._number(_U32)
        if kind not in _SMALLEST:
            raise GgufError(f"{self.where} is an array of the unknown type {kind}", self.at - 4)
        count = self._count(f"items in {self.where}", MAX_ITEMS, _SMALLEST[kind])
        at = self.at
        if kind in _FORMATS:
            self._take(count * _FORMATS[kind].size)
            return at, kind, count
        self.items += count
        if self.items > MAX_ITEMS:
            raise GgufError(f"more than {MAX_ITEMS} strings and arrays", at)
        self._need(count * _SMALLEST[kind])  # asked for at once, not item by item
        for _ in range(count):
            self._skip(kind, depth)
        return at, kind, count

    def _skip(self, kind: int, depth: int) -> None:
        if kind == _STRING:
            self._take(self._length(MAX_HEAD_BYTES))
        elif kind == _ARRAY:
            self._array(depth + 1)
        elif kind in _FORMATS:
            self._take(_FORMATS[kind].size)
        else:
            raise GgufError(f"{self.where} has the unknown type {kind}", self.at - 4)

    def _tensors(self, count: int, alignment: int) -> _Tensors:
        parameters = end = 0
        tied = True  # without an output of its own, the token embeddings are it
        sizes: dict[str, int] | None = dict.fromkeys(("layers", "experts", "output", "input"), 0)
        for number in range(count):
            self.where = f"tensor {number + 1} of {count}"
            start = self.at
            name = self._text(MAX_NAME_BYTES)
            dimensions = self._number(_U32)
            if dimensions > MAX_DIMENSIONS:
                raise GgufError(f"{self.where} has {dimensions} dimensions", self.at - 4)
            weights = 1
            for _ in range(dimensions):
                weights *= self._number(_U64)
            block, size = ggml.BLOCKS.get(self._number(_U32), (1, 0))  # an unknown type is a newer llama.cpp's
            offset = self._number(_U64)
            if max(weights, offset, weights * size) > MAX_SIZE:
                raise GgufError(f"{self.where} is larger than any disk", start)
            parameters += weights
            length = -(-weights // block) * size
            end = max(end, offset + length)
            if not size:
                sizes = None
            if sizes is not None:
                sizes[_part(name)] += length
            tied = tied and name != "output.weight"
        data_at = -(-self.at // alignment) * alignment
        ends_at = data_at + end if count else self.at
        return _Tensors(count, parameters, ends_at, _weights(sizes, tied=tied) if sizes and count else None)

    def _alignment(self, values: dict[str, _Value]) -> int:
        alignment = self._integer(values, "general.alignment")
        if alignment is None:
            return 32
        if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise GgufError(f"general.alignment is {alignment}, which is no power of two up to 1048576", self.at)
        return alignment

    def _facts(self, values: dict[str, _Value], version: int, tensors: _Tensors) -> Facts:
        arch = self._string(values, "general.architecture")
        if arch is not None and _ARCHITECTURE.fullmatch(arch) is None:
            raise GgufError("general.architecture is no name of an architecture", values["general.architecture"].at)
        heads = self._integer(values, f"{arch}.attention.head_count")
        embedding = self._integer(values, f"{arch}.embedding_length")
        file_type = self._integer(values, "general.file_type")
        # llama.cpp's defaults: every head has its own keys and values, and the embedding is shared out among the heads
        kv_heads = heads if (kv := self._integer(values, f"{arch}.attention.head_count_kv")) is None else kv
        each = embedding // heads if embedding and heads else None
        key_length = self._integer(values, f"{arch}.attention.key_length")
        value_length = self._integer(values, f"{arch}.attention.value_length")
        tokens = values.get("tokenizer.ggml.tokens")
        facts = Facts(
            version=version,
            tensor_count=tensors.count,
            parameters=tensors.parameters,
            min_file_size=tensors.end,
            arch=arch,
            name=self._string(values, "general.name"),
            ctx_max=self._integer(values, f"{arch}.context_length"),
            quant=None if file_type is None else ggml.FILE_TYPES.get(file_type & ~ggml.FILE_TYPE_GUESSED),
            layers=self._integer(values, f"{arch}.block_count"),
            heads=heads,
            kv_heads=kv_heads,
            embedding=embedding,
            tokenizer=self._string(values, "tokenizer.ggml.model"),
            has_chat_template="tokenizer.chat_template" in values,
            split_count=self._integer(values, "split.count") or 1,
            key_length=each if key_length is None else key_length,
            value_length=each if value_length is None else value_length,
            vocabulary=tokens.items if tokens and tokens.items else self._integer(values, f"{arch}.vocab_size"),
            experts=self._integer(values, f"{arch}.expert_count") or None,
            dense_layers=self._integer(values, f"{arch}.leading_dense_block_count") or 0,
            weights=tensors.weights,
        )
        return msgspec.structs.replace(facts, kv=self._kv(values, facts))

    def _kv(self, values: dict[str, _Value], facts: Facts) -> KvLayout | None:
        arch, layers = facts.arch, facts.layers
        if not layers or facts.kv_heads is None or facts.key_length is None or facts.value_length is None:
            return None
        latent = f"{arch}.attention.key_length_mla" in values
        every_key, every_value = (facts.key_length, 0 if latent else facts.value_length)
        window = self._integer(values, f"{arch}.attention.sliding_window")
        if window is None:
            window = _WINDOWS.get(arch or "", 0)
        interval = self._integer(values, f"{arch}.full_attention_interval") or 0
        shared = self._integer(values, f"{arch}.attention.shared_kv_layers")
        if shared is None:
            shared = max(layers - _OWN_CACHES.get(arch or "", layers), 0)
        return kv_layout.layout(
            kv_layout.Layers(
                count=layers,
                kv_heads=self._integers(values, f"{arch}.attention.head_count_kv") or (facts.kv_heads,),
                key=every_key,
                value=every_value,
                window=window,
                windowed=self._windowed(values, f"{arch}.attention.sliding_window_pattern", facts),
                windowed_key=self._integer(values, f"{arch}.attention.key_length_swa"),
                windowed_value=0 if latent else self._integer(values, f"{arch}.attention.value_length_swa"),
                shared=shared,
                state=self._state(values, arch),
                recurrent=kv_layout.every(interval, layers),
            )
        )

    def _windowed(self, values: dict[str, _Value], key: str, facts: Facts) -> tuple[bool, ...]:
        """Which layers have the window; nothing where that is not known: they then count as remembering everything."""
        pattern = values.get(key)
        if pattern is not None and pattern.items is not None:
            return tuple(bool(each) for each in self._integers(values, key, kinds=_INTEGERS | {_BOOL}) or ())
        period = self._integer(values, key) or _PERIODS.get(facts.arch or "", 0)
        return kv_layout.every(period, facts.layers or 0)

    def _state(self, values: dict[str, _Value], arch: str | None) -> int:
        """Elements of one recurrent layer: llama.cpp's sizes of a state-space layer, or of a short convolution."""
        inner, state, groups, kernel = (
            self._integer(values, f"{arch}.ssm.{part}") or 0
            for part in ("inner_size", "state_size", "group_count", "conv_kernel")
        )
        if inner:
            return state * inner + max(kernel - 1, 0) * (inner + 2 * groups * state)
        cache = self._integer(values, f"{arch}.shortconv.l_cache") or 0
        return max(cache - 1, 0) * (self._integer(values, f"{arch}.embedding_length") or 0)

    def _string(self, values: dict[str, _Value], key: str) -> str | None:
        value = values.get(key)
        if value is None:
            return None
        if value.kind != _STRING or value.items is not None:
            raise GgufError(f"{key} is no string", value.at)
        length = _U64.unpack_from(self.data, value.at)[0]
        if length > MAX_NAME_BYTES:
            raise GgufError(f"{key} is longer than {MAX_NAME_BYTES} bytes", value.at)
        found = self.data[value.at + 8 : value.at + 8 + length].decode(errors="replace")
        return "".join(mark if mark.isprintable() else "?" for mark in found)  # it will be on somebody's terminal

    def _integer(self, values: dict[str, _Value], key: str) -> int | None:
        value = values.get(key)
        if value is None or value.items == 0:
            return None
        if value.kind not in _INTEGERS:
            raise GgufError(f"{key} is no whole number", value.at)
        form = _FORMATS[value.kind]
        data = self.data[value.at : value.at + form.size * (1 if value.items is None else value.items)]
        number = int(max(found for (found,) in form.iter_unpack(data)))
        if not 0 <= number <= MAX_NUMBER:
            raise GgufError(f"{key} is {number}", value.at)
        return number

    def _integers(
        self, values: dict[str, _Value], key: str, kinds: frozenset[int] = _INTEGERS
    ) -> tuple[int, ...] | None:
        """An array by layer; None where there is none, or one number for all."""
        value = values.get(key)
        if value is None or value.items is None or not 0 < value.items <= kv_layout.MAX_LAYERS:
            return None
        if value.kind not in kinds:
            raise GgufError(f"{key} is no whole number", value.at)
        form = _FORMATS[value.kind]
        data = self.data[value.at : value.at + form.size * value.items]
        numbers = tuple(int(found) for (found,) in form.iter_unpack(data))
        if not 0 <= min(numbers) <= max(numbers) <= MAX_NUMBER:
            raise GgufError(f"{key} is {min(numbers)} to {max(numbers)}", value.at)
        return numbers

    def _text(self, limit: int) -> str:
        length = self._length(limit)
        start = self.at
        self._take(length)
        return self.data[start : start + length].decode(errors="replace")

    def _length(self, limit: int) -> int:
        length = self._number(_U64)
        if length > limit:
            raise GgufError(f"{self.where} has a string of {length} bytes, more than {limit}", self.at - 8)
        return length

    def _count(self, what: str, limit: int, smallest: int) -> int:
        count = self._number(_U64)
        if count > limit or count * smallest > MAX_HEAD_BYTES - self.at:
            raise GgufError(f"{count} {what} are more than a head can hold", self.at - 8)
        return count

    def _number(self, form: struct.Struct) -> int:
        start = self.at
        self._take(form.size)
        return int(form.unpack_from(self.data, start)[0])

    def _need(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise _Short(self.at + size, self.where)

    def _take(self, size: int) -> None:
        self._need(size)
        self.at += size

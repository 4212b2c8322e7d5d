"""Documents that are almost right: built from a stream of choices, with the lies that a hostile one would tell.

The choices come from hypothesis, which makes them small when one fails, or from a coverage-guided fuzzer's bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Protocol, TypeVar

T = TypeVar("T")

BORDERS = (0, 1, 2, 7, 8, 31, 32, 255, 4095, 4096, 4097, 65_535, 65_536, 1 << 20, (1 << 22) + 1, 1 << 27, 1 << 31)
HUGE = ((1 << 31) - 1, (1 << 32) - 1, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
KEYS = (
    *("general.architecture", "general.name", "general.alignment", "general.file_type", "general.quantization_version"),
    *("split.no", "split.count", "split.tensors.count"),
    *("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"),
    *("tokenizer.chat_template", "tokenizer.chat_template.tool_use", "tokenizer.chat_templates"),
    *("x.context_length", "x.block_count", "x.embedding_length", "x.vocab_size", "x.expert_count"),
    *("x.attention.head_count", "x.attention.head_count_kv", "x.attention.key_length", "x.attention.value_length"),
    *("x.attention.sliding_window", "x.attention.sliding_window_pattern", "x.attention.shared_kv_layers"),
    *("x.attention.key_length_mla", "x.attention.key_length_swa", "x.full_attention_interval"),
    *("x.ssm.inner_size", "x.ssm.state_size", "x.ssm.conv_kernel", "x.ssm.group_count", "x.shortconv.l_cache"),
    *("x.leading_dense_block_count", "", "\x1b[2J", "k" * 300),
)
TEXT_KEYS = (b"general.ar", b"general.n", b"tokenizer.ggml.m", b"tokenizer.ggml.p", b"tokenizer.chat_template")
TENSORS = ("token_embd.weight", "output.weight", "blk.0.ffn_up_exps.weight", "blk.0.attn_q.weight", "", "\x1b]0;x\x07")
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
TEXTS = (
    b"x",
    b"llama",
    b"",
    b"gpt2",
    b"x",
    b"x",
    b"\xff\xfe",
    b"\x1b[2J",
    "é{{ messages }}".encode(),
    b"n" * 5000,
    b"1" * 200,
)
FIELDS = (
    *("architectures", "model_type", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size"),
    *("head_dim", "kv_lora_rank", "qk_rope_head_dim", "layer_types", "sliding_window", "sliding_window_pattern"),
    *("use_sliding_window", "max_position_embeddings", "model_max_length", "n_ctx", "rope_scaling", "rope_parameters"),
    *("type", "rope_type", "factor", "original_max_position_embeddings", "full_attention", "vocab_size", "text_config"),
    *("quantization_config", "quant_method", "torch_dtype", "multi_query", "num_experts", "v_head_dim"),
    *("tokenizer_class", "chat_template", "name", "template", "weight_map", "metadata", "data_offsets", "dtype"),
    *("__metadata__", "w", "\\u0000", "\x1b", "\u00e9", "\U0001f600"),
)
SCALARS = (
    *("null", "true", "false", "0", "1", "-1", "7", "4096", "2147483647", "2147483648", "18446744073709551616"),
    *("1e400", "-1e400", "1e308", "1.5", "32.0", "-0.0", "1e-400", "NaN", "Infinity", "-Infinity", "0x10", "01", "+1"),
    *("9" * 400, "9" * 5000, '""', '"x"', '"12"', '"yarn"', '"linear"', '"llama3"', '"gemma3"', '"full_attention"'),
    *('"sliding_attention"', '"\\ud800"', '"\\u001b[2J"', '"a.safetensors"', '"../../etc/passwd"'),
    *('"../b.safetensors"', '"/c.safetensors"', '"d/e.safetensors"', '"f.safetensors\\u0000"', '"' + "t" * 3000 + '"'),
)


PLAUSIBLE = ("1", "8", "32", "64", "128", "4096", "2.0", "null")


class Choices(Protocol):
    """Where the choices come from."""

    def number(self, low: int, high: int) -> int:
        """One of them, the ends included."""

    def pick(self, things: Sequence[T]) -> T:
        """One of these."""

    def some_bytes(self, most: int) -> bytes:
        """Any bytes, no more than so many."""


def gguf_file(choices: Choices) -> bytes:
    """A GGUF file: mostly right, with a lie here and there, damaged afterwards or not."""
    keys = [_key(choices) for _ in range(choices.number(0, 7))]
    if choices.number(0, 3):
        keys.insert(choices.number(0, len(keys)), _text(b"general.architecture") + struct.pack("<I", 8) + _text(b"x"))
    tensors, offset = [], 0
    for _ in range(choices.number(0, 4)):
        tensor, size = _tensor(choices, offset)
        tensors.append(tensor)
        offset += -(-size // 32) * 32
    magic = choices.pick((b"GGUF",) * 60 + (b"GGJT",))
    version = choices.pick((3,) * 60 + (2, 1, 0x03000000))
    counts = (_count(choices, len(tensors)), _count(choices, len(keys)))
    data = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return damaged(choices, data + b"\0" * choices.number(0, 64))


def parts(choices: Choices) -> bytes:
    """What the target ``split`` takes: several GGUF files that say that they belong together."""
    count = choices.number(1, 4)
    said = bytes([choices.pick((count,) * 30 + (choices.number(0, 7),))])
    for number in range(count):
        tensors = [_tensor(choices, 0)[0] for _ in range(choices.number(0, 1))]
        numbers = {b"split.no": number, b"split.count": count, b"split.tensors.count": choices.number(0, 4)}
        keys = [_text(b"general.architecture") + struct.pack("<I", 8) + _text(choices.pick((b"x", b"x", b"y")))]
        for name, value in numbers.items():
            lie = choices.pick((value,) * 30 + (choices.number(0, 65_535),))
            keys.append(_text(name) + struct.pack("<IH", 2, lie))
        data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
        data = damaged(choices, data)[:65_535]
        said += struct.pack("<H", len(data)) + data
    return said


def json_document(choices: Choices) -> bytes:
    """A JSON object of the fields that matter, with whatever in them, damaged afterwards or not."""
    return damaged(choices, _object(choices, 3).encode("utf-8", "surrogatepass"))


def safetensors_head(choices: Choices) -> bytes:
    """The head of a safetensors file, with tensors one after the other or nearly so."""
    entries, end = [], 0
    for number in range(choices.number(0, 6)):
        size = choices.pick((0, 1, 8, 4096, *HUGE[:4]))
        first = choices.pick((end,) * 9 + (max(end - 1, 0), end + 1, -1, HUGE[-1]))
        end = first + size
        name = choices.pick((f"w{number}", f"w{number}", f"w{number}", "w0", "__metadata__", "\\u0041", '\\"{'))
        value = choices.pick(
            (f'{{"dtype": "F32", "shape": [1], "data_offsets": [{first}, {end}]}}',) * 9 + (_value(choices, 2),)
        )
        entries.append(f'"{name}": {value}')
    return damaged(choices, ("{" + ", ".join(entries) + "}").encode("utf-8", "surrogatepass"))


def index(choices: Choices) -> bytes:
    """The index over several safetensors files."""
    names = [choices.pick(SCALARS[-9:]) for _ in range(choices.number(0, 4))]
    names += [f'"model-{number}.safetensors"' for number in range(choices.number(0, 3))]
    weight_map = ", ".join(f'"{choices.pick(FIELDS)}{number}": {name}' for number, name in enumerate(names))
    value = choices.pick((f"{{{weight_map}}}",) * 9 + (_value(choices, 2),))
    return damaged(choices, f'{{"metadata": {{}}, "weight_map": {value}}}'.encode("utf-8", "surrogatepass"))


def damaged(choices: Choices, data: bytes) -> bytes:
    """The same, or cut off, or with a few bits, a number or a stretch of it changed."""
    found = bytearray(data)
    for _ in range(choices.pick((0, 0, 0, 1, 1, 2, 5))):
        at = choices.number(0, max(len(found) - 1, 0))
        match choices.number(0, 5):
            case 0 if found:
                found[at] ^= 1 << choices.number(0, 7)
            case 1:
                found[at : at + 8] = struct.pack("<Q", choices.pick((*BORDERS, *HUGE)))
            case 2:
                del found[at:]
            case 3:
                found[at:at] = found[at : at + choices.number(0, 64)]
            case 4:
                del found[at : at + choices.number(1, 16)]
            case _:
                found[at:at] = choices.some_bytes(16)
    return bytes(found)


BUILDERS: MappingProxyType[str, Callable[[Choices], bytes]] = MappingProxyType(
    {
        "gguf_head": gguf_file,
        "split": parts,
        "safetensors_head": safetensors_head,
        "safetensors_index": index,
        "config_json": json_document,
        "tokenizer_config": json_document,
    }
)
"""What builds documents for each target."""


def _text(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def _count(choices: Choices, right: int) -> int:
    return choices.pick((right,) * 40 + (right + 1, max(right - 1, 0), choices.pick((*BORDERS, *HUGE))))


def _key(choices: Choices) -> bytes:
    name = choices.pick(KEYS).encode()
    kind = choices.pick((*_usual(name), choices.number(0, 14)))
    length = _count(choices, len(name))
    return struct.pack("<Q", length) + name + struct.pack("<I", kind) + _value_of(choices, kind, 0)


def _usual(name: bytes) -> tuple[int, ...]:
    """The types that a key of this name has, when nobody lies."""
    if name.startswith(
        (b"general.a", b"general.n", b"tokenizer.ggml.m", b"tokenizer.ggml.p", b"tokenizer.chat_template")
    ):
        return (8,) * 12 if name != b"general.alignment" else (4,) * 12
    return (9,) * 12 if name.startswith(b"tokenizer") else (4,) * 8 + (9, 9, 2, 10)


def _value_of(choices: Choices, kind: int, depth: int) -> bytes:
    if kind == 8:
        data = choices.pick(TEXTS)
        return struct.pack("<Q", _count(choices, len(data))) + data
    if kind == 9:
        inner = choices.pick((4, 5, 7, 8, 9 if depth < 6 else 0, choices.number(0, 14)))
        items = choices.number(0, 4)
        values = b"".join(_value_of(choices, inner, depth + 1) for _ in range(items))
        return struct.pack("<IQ", inner, _count(choices, items)) + values
    if kind not in FORMATS:
        return choices.some_bytes(8)
    size = struct.calcsize(FORMATS[kind])
    return choices.pick((1, 2, 4, 8, 32, 32, 64, 128, 4096, choices.pick((*BORDERS, *HUGE)))).to_bytes(8, "little")[
        :size
    ]


def _tensor(choices: Choices, offset: int) -> tuple[bytes, int]:
    name = choices.pick(TENSORS).encode()
    shape = [
        choices.pick((1, 2, 64, 256, 256, 256, 256, 512, choices.pick((*BORDERS, *HUGE))))
        for _ in range(choices.number(0, 5))
    ]
    kind = choices.pick((0, 0, 1, 8, 12, 14, 30, 39, 99, choices.number(0, 50)))
    lie = choices.pick((offset,) * 30 + (offset + 1, max(offset - 32, 0), choices.pick(HUGE)))
    dimensions = _count(choices, len(shape)) & 0xFFFFFFFF
    packed = b"".join(struct.pack("<Q", each) for each in shape)
    data = _text(name) + struct.pack("<I", dimensions) + packed + struct.pack("<IQ", kind, lie)
    size = 4
    for each in shape:
        size *= each
    return data, min(size, 1 << 40)


def _object(choices: Choices, depth: int) -> str:
    names = [choices.pick(FIELDS) for _ in range(choices.number(0, 6))]
    fields = [(name, choices.pick((*PLAUSIBLE, _value(choices, depth)))) for name in names]
    if choices.number(0, 3):
        fields.append(("model_type", '"x"'))
    return "{" + ", ".join(f'"{name}": {value}' for name, value in fields) + "}"


def _value(choices: Choices, depth: int) -> str:
    kind = choices.number(0, 9)
    if kind < 6 or depth == 0:
        return choices.pick(SCALARS)
    if kind == 6:
        return "[" + ", ".join(_value(choices, depth - 1) for _ in range(choices.number(0, 4))) + "]"
    if kind == 7:
        return choices.pick(("[", "{", '{"a":')) * choices.pick((1, 50, 3000))
    if kind == 8:
        return json.dumps(choices.some_bytes(12).decode(errors="replace"))
    return _object(choices, depth - 1)

"""What a GGUF file says of itself, read from its head alone.

Decides which facts there are, under which keys, and what llama.cpp makes of those that are missing. Never decides
whether a head can be read: ``gguf_head`` does.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from types import MappingProxyType

import msgspec

from contracts.engines import KvLayout, WeightSizes
from model_provisioner import ggml, gguf_head, kv_layout
from model_provisioner.errors import GgufError
from model_provisioner.gguf_head import Wanted
from model_provisioner.gguf_values import STRING, Values


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
    """The most that llama.cpp gives a sequence. Scaled positions (RoPE) and sliding windows do not change it."""
    quant: str | None = None
    """llama.cpp's name of the file type, ``Q4_K_M``."""
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    embedding: int | None = None
    tokenizer: str | None = None
    """llama.cpp's name of its kind and, after a slash, of the way it cuts text up first: ``gpt2/llama-bpe``."""
    chat_template: str | None = None
    """The name of the template that llama.cpp uses when it is not told which."""
    chat_template_sha256: str | None = None
    chat_templates: tuple[str, ...] = ()
    """The names of all."""
    split_count: int = 1
    """How many files the model was split into, of which this is one."""
    split_no: int = 0
    """Which one, from 0."""
    split_tensors: int | None = None
    """How many tensors all of them have."""
    key_length: int | None = None
    value_length: int | None = None
    vocabulary: int | None = None
    experts: int | None = None
    dense_layers: int = 0
    kv: KvLayout | None = None
    weights: WeightSizes | None = None
    """None where there is no tensor, or one of a type that is not known here."""
    own_output: bool = False
    """It has an output; else the token embeddings are it."""


def read(size: int) -> Generator[Wanted, bytes, Facts]:
    """Read the head of a file of ``size`` bytes: send it the bytes that it asks for. Raises GgufError."""
    head = yield from gguf_head.walk(size)
    return _facts(head)


_ARCHITECTURE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DEFAULTS = ("", "tool_use")
"""The names of the chat templates of which llama.cpp takes the first that is there."""
_UNNAMED = "default"

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


def _facts(head: gguf_head.Head) -> Facts:
    values = head.values
    arch = values.string("general.architecture")
    if arch is not None and _ARCHITECTURE.fullmatch(arch) is None:
        at = values.at("general.architecture")
        raise GgufError("general.architecture is no name of an architecture", at)
    heads = values.integer(f"{arch}.attention.head_count")
    embedding = values.integer(f"{arch}.embedding_length")
    file_type = values.integer("general.file_type")
    # llama.cpp's defaults: every head has its own keys and values, and the embedding is shared out among the heads
    kv_heads = heads if (kv := values.integer(f"{arch}.attention.head_count_kv")) is None else kv
    each = embedding // heads if embedding and heads else None
    key_length = values.integer(f"{arch}.attention.key_length")
    value_length = values.integer(f"{arch}.attention.value_length")
    tokens = values.get("tokenizer.ggml.tokens")
    templates = _templates(values)
    default = next((name for name in _DEFAULTS if name in templates), None)
    facts = Facts(
        version=head.version,
        tensor_count=head.tensors.count,
        parameters=head.tensors.parameters,
        min_file_size=head.min_file_size,
        arch=arch,
        name=values.string("general.name"),
        ctx_max=values.integer(f"{arch}.context_length"),
        quant=None if file_type is None else ggml.FILE_TYPES.get(file_type & ~ggml.FILE_TYPE_GUESSED),
        layers=values.integer(f"{arch}.block_count"),
        heads=heads,
        kv_heads=kv_heads,
        embedding=embedding,
        tokenizer=_tokenizer(values),
        chat_template=None if default is None else default or _UNNAMED,
        chat_template_sha256=None if default is None else templates[default],
        chat_templates=tuple(sorted({name or _UNNAMED for name in templates})),
        split_count=values.integer("split.count") or 1,
        split_no=values.integer("split.no") or 0,
        split_tensors=values.integer("split.tensors.count"),
        key_length=each if key_length is None else key_length,
        value_length=each if value_length is None else value_length,
        vocabulary=tokens.items if tokens and tokens.items else values.integer(f"{arch}.vocab_size"),
        experts=values.integer(f"{arch}.expert_count") or None,
        dense_layers=values.integer(f"{arch}.leading_dense_block_count") or 0,
        weights=head.tensors.weights,
        own_output=head.tensors.own_output,
    )
    return msgspec.structs.replace(facts, kv=_kv(values, facts))


def _tokenizer(values: Values) -> str | None:
    kind, cut = values.string("tokenizer.ggml.model"), values.string("tokenizer.ggml.pre")
    return f"{kind}/{cut}" if kind and cut else kind


def _templates(values: Values) -> dict[str, str]:
    """The digests of the chat templates that are not empty, by name; the first among them has none."""
    found: dict[str, str] = {}
    for rest, value in values.starting_with(gguf_head.CHAT_TEMPLATE.decode()).items():
        if rest and not rest.startswith("."):
            continue  # the list of their names, in the key's plural
        if value.kind != STRING or value.items is not None:
            raise GgufError("tokenizer.chat_template is no string", value.at)
        if value.sha256 is not None:
            found[rest[1 : 1 + gguf_head.MAX_SHOWN]] = value.sha256
    return found


def _kv(values: Values, facts: Facts) -> KvLayout | None:
    arch, layers = facts.arch, facts.layers
    if not layers or facts.kv_heads is None or facts.key_length is None or facts.value_length is None:
        return None
    latent = values.get(f"{arch}.attention.key_length_mla") is not None
    every_key, every_value = (facts.key_length, 0 if latent else facts.value_length)
    window = values.integer(f"{arch}.attention.sliding_window")
    if window is None:
        window = _WINDOWS.get(arch or "", 0)
    interval = values.integer(f"{arch}.full_attention_interval") or 0
    shared = values.integer(f"{arch}.attention.shared_kv_layers")
    if shared is None:
        shared = max(layers - _OWN_CACHES.get(arch or "", layers), 0)
    return kv_layout.layout(
        kv_layout.Layers(
            count=layers,
            kv_heads=values.by_layer(f"{arch}.attention.head_count_kv") or (facts.kv_heads,),
            key=every_key,
            value=every_value,
            window=window,
            windowed=_windowed(values, f"{arch}.attention.sliding_window_pattern", facts),
            windowed_key=values.integer(f"{arch}.attention.key_length_swa"),
            windowed_value=0 if latent else values.integer(f"{arch}.attention.value_length_swa"),
            shared=shared,
            state=_state(values, arch),
            recurrent=kv_layout.every(interval, layers),
        )
    )


def _windowed(values: Values, key: str, facts: Facts) -> tuple[bool, ...]:
    """Which layers have the window; nothing where that is not known: they then count as remembering everything."""
    pattern = values.get(key)
    if pattern is not None and pattern.items is not None:
        return values.flags_by_layer(key) or ()
    period = values.integer(key) or _PERIODS.get(facts.arch or "", 0)
    return kv_layout.every(period, facts.layers or 0)


def _state(values: Values, arch: str | None) -> int:
    """Elements of one recurrent layer: llama.cpp's sizes of a state-space layer, or of a short convolution."""
    inner, state, groups, kernel = (
        values.integer(f"{arch}.ssm.{part}") or 0 for part in ("inner_size", "state_size", "group_count", "conv_kernel")
    )
    if inner:
        return state * inner + max(kernel - 1, 0) * (inner + 2 * groups * state)
    cache = values.integer(f"{arch}.shortconv.l_cache") or 0
    return max(cache - 1, 0) * (values.integer(f"{arch}.embedding_length") or 0)

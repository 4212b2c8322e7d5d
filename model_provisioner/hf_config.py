"""What a ``config.json`` in Hugging Face layout says of its model.

Decides which facts there are, under which of their names, and when the document is hostile or not for us. Takes bytes,
never touches a file. Whatever they are, it ends in facts or ConfigError: no number beyond MAX_NUMBER is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from contracts.engines import KvLayout
from model_provisioner import kv_layout

MAX_CONFIG_BYTES = 4 << 20
MAX_NUMBER = (1 << 31) - 1
MAX_NAME = 128
"""Characters of a name that is shown."""


class ConfigError(Exception):
    """No config.json that can be used."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the document says; None where it does not."""

    arch: str | None = None
    ctx_max: int | None = None
    quant: str | None = None
    """The method of quantization, ``awq``, else the type of the weights, ``bfloat16``."""
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    embedding: int | None = None
    key_length: int | None = None
    value_length: int | None = None
    vocabulary: int | None = None
    experts: int | None = None
    dense_layers: int = 0
    kv: KvLayout | None = None


_LANGUAGE_PARTS = ("text_config", "llm_config", "language_config")
"""Where models that see or hear as well keep what the language model is."""


def parse(data: bytes) -> Facts:
    """Read a ``config.json``. Raises ConfigError."""
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"it is longer than {MAX_CONFIG_BYTES >> 20} MiB")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"it is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError("it is no JSON object")
    if "architectures" not in document and "model_type" not in document:
        raise ConfigError("it names neither architectures nor model_type, so it is no model's")
    return _facts(_Fields(document))


class _Fields:
    """The document, and the part of it that is about language, which has the first word."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        part: Mapping[str, Any] = next(
            (document[name] for name in _LANGUAGE_PARTS if isinstance(document.get(name), dict)), {}
        )
        self.top = document
        self.values = {**document, **{key: value for key, value in part.items() if value is not None}}

    def number(self, *names: str) -> int | None:
        """The first of these that is there."""
        name = next((name for name in names if self.values.get(name) is not None), None)
        if name is None:
            return None
        value = self.values[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name} is {_shown(value)}, which is no whole number")
        if not 0 <= value <= MAX_NUMBER:
            raise ConfigError(f"{name} is {_shown(value)}")
        return value

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise ConfigError(f"{name} is {_shown(value)}, which is no text")
        return _printable(value)

    def flag(self, name: str) -> bool | None:
        value = self.values.get(name)
        return value if isinstance(value, bool) else None


def _facts(fields: _Fields) -> Facts:
    heads = fields.number("num_attention_heads", "n_head", "n_heads")
    embedding = fields.number("hidden_size", "n_embd", "d_model")
    latent = fields.number("kv_lora_rank")
    each = fields.number("head_dim") or (embedding // heads if embedding and heads else None)
    kv_heads = fields.number("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
    if kv_heads is None:
        kv_heads = 1 if fields.flag("multi_query") else heads
    facts = Facts(
        arch=_arch(fields),
        ctx_max=fields.number("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx"),
        quant=_quant(fields),
        layers=fields.number("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        heads=heads,
        kv_heads=kv_heads,
        embedding=embedding,
        key_length=each,
        value_length=fields.number("v_head_dim") or each,
        vocabulary=fields.number("vocab_size"),
        experts=fields.number("num_local_experts", "num_experts", "n_routed_experts") or None,
        dense_layers=fields.number("first_k_dense_replace") or 0,
    )
    if latent:
        # Multi-head latent attention: one compressed vector and one rotated part for all heads.
        width = latent + (fields.number("qk_rope_head_dim") or 0)
        return msgspec.structs.replace(facts, kv=_kv(fields, facts, heads=1, key=width, value=0))
    if kv_heads is None or each is None:
        return facts
    kv = _kv(fields, facts, heads=kv_heads, key=each, value=facts.value_length or each)
    return msgspec.structs.replace(facts, kv=kv)


def _kv(fields: _Fields, facts: Facts, *, heads: int, key: int, value: int) -> KvLayout | None:
    layers = facts.layers or 0
    kinds = _layer_types(fields)
    window = 0 if fields.flag("use_sliding_window") is False else fields.number("sliding_window") or 0
    windowed: tuple[bool, ...]
    if kinds:
        windowed = tuple(kind in {"sliding_attention", "chunked_attention"} for kind in kinds)
    elif fields.values.get("sliding_window_pattern") is not None and layers:
        windowed = kv_layout.every(fields.number("sliding_window_pattern") or 0, layers)
    else:
        windowed = ()  # which layers is not said: they count as remembering everything
    # Layers with linear attention or a state space keep a small state only, which is left out.
    by_layer = tuple(0 if kind in _STATEFUL else heads for kind in kinds) or (heads,)
    return kv_layout.layout(
        kv_layout.Layers(count=layers, kv_heads=by_layer, key=key, value=value, window=window, windowed=windowed)
    )


_STATEFUL = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent"})


def _layer_types(fields: _Fields) -> tuple[str, ...]:
    kinds = fields.values.get("layer_types")
    if not isinstance(kinds, list) or not 0 < len(kinds) <= kv_layout.MAX_LAYERS:
        return ()
    return tuple(kind if isinstance(kind, str) else "" for kind in kinds)


def _arch(fields: _Fields) -> str | None:
    named = fields.top.get("architectures")
    if named is None or named == []:
        kind = fields.top.get("model_type")
        if kind is not None and not isinstance(kind, str):
            raise ConfigError(f"model_type is {_shown(kind)}, which is no text")
        return None if kind is None else _printable(kind)
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise ConfigError(f"architectures is {_shown(named)}, which is no list of names")
    return _printable(named[0])


def _quant(fields: _Fields) -> str | None:
    quantization = fields.values.get("quantization_config")
    if quantization is None:
        return fields.text("torch_dtype") or fields.text("dtype")
    if not isinstance(quantization, dict):
        raise ConfigError(f"quantization_config is {_shown(quantization)}, which is no object")
    method = quantization.get("quant_method")
    return _printable(method) if isinstance(method, str) else None


def _printable(text: str) -> str:
    return "".join(mark if mark.isprintable() else "?" for mark in text[:MAX_NAME])  # it will be on somebody's terminal


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value)[:MAX_NAME]

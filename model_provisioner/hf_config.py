"""What a ``config.json`` in Hugging Face layout says of its model.

Decides which facts there are, under which of their names, and when the document is hostile or not for us. Takes bytes,
never touches a file. Whatever they are, it ends in facts or ConfigError: no number beyond MAX_NUMBER is believed.
"""

from __future__ import annotations

import msgspec

from contracts.engines import KvLayout
from model_provisioner import json_fields, kv_layout
from model_provisioner.json_fields import MAX_NUMBER, ConfigError, Shape

MAX_CONFIG_BYTES = 4 << 20


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the document says; None where it does not."""

    arch: str | None = None
    ctx_max: int | None = None
    """The most that vLLM gives a sequence: scaled positions (RoPE) count as vLLM counts them."""
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
    tokenizer: str | None = None
    """Its class, ``LlamaTokenizerFast``, else the kind of its model, ``BPE``; other files of the directory say it."""
    chat_template: str | None = None
    """The name of the template that is used when nobody says which."""
    chat_template_sha256: str | None = None
    chat_templates: tuple[str, ...] = ()
    """The names of all."""


_LANGUAGE_PARTS = ("text_config", "llm_config", "language_config")
"""Where models that see or hear as well keep what the language model is."""

_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_EMBEDDING = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""The smallest of these counts."""
_OTHERS = (
    *("architectures", "model_type", "vocab_size", "head_dim", "v_head_dim", "kv_lora_rank", "qk_rope_head_dim"),
    *("multi_query", "first_k_dense_replace", "torch_dtype", "dtype", "quantization_config", "layer_types"),
    *("sliding_window", "use_sliding_window", "sliding_window_pattern"),
    *("n_ctx", "model_max_length", "rope_scaling", "rope_parameters"),
)
_DOCUMENT = Shape(*_LANGUAGE_PARTS, *_HEADS, *_KV_HEADS, *_EMBEDDING, *_LAYERS, *_EXPERTS, *_CONTEXT, *_OTHERS)
_QUANTIZATION = Shape("quant_method")
_ROPE_KINDS = ("full_attention", "sliding_attention", "chunked_attention", "linear_attention")
_ROPE = Shape("type", "rope_type", "factor", "original_max_position_embeddings", *_ROPE_KINDS)
_UNSCALED = frozenset({"su", "longrope", "llama3"})
"""Ways of scaling positions whose factor is in the number of positions already."""


def parse(data: bytes, tokenizer_limit: int | None = None) -> Facts:
    """Read a ``config.json``. ``tokenizer_limit`` is how many tokens the tokenizer allows. Raises ConfigError."""
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"it is longer than {MAX_CONFIG_BYTES >> 20} MiB")
    fields = _Fields(data)
    if "architectures" not in fields.top and "model_type" not in fields.top:
        raise ConfigError("it names neither architectures nor model_type, so it is no model's")
    return _facts(fields, tokenizer_limit)


class _Fields:
    """The document, and the part of it that is about language, which has the first word."""

    def __init__(self, data: bytes) -> None:
        self.top = _DOCUMENT.read(data)
        part = next((self.top[name] for name in _LANGUAGE_PARTS if json_fields.is_object(self.top.get(name))), b"{}")
        self.values = {**self.top, **_DOCUMENT.read(part)}

    def number(self, *names: str) -> int | None:
        """The first of these that is there."""
        name = next((name for name in names if name in self.values), None)
        return None if name is None else json_fields.integer(name, self.values[name])

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        return None if value is None else json_fields.name_in(name, value)

    def flag(self, name: str) -> bool | None:
        return json_fields.flag(self.values.get(name))


def _facts(fields: _Fields, tokenizer_limit: int | None) -> Facts:
    heads = fields.number(*_HEADS)
    embedding = fields.number(*_EMBEDDING)
    latent = fields.number("kv_lora_rank")
    each = fields.number("head_dim") or (embedding // heads if embedding and heads else None)
    kv_heads = fields.number(*_KV_HEADS)
    if kv_heads is None:
        kv_heads = 1 if fields.flag("multi_query") else heads
    facts = Facts(
        arch=_arch(fields),
        ctx_max=_context(fields, tokenizer_limit),
        quant=_quant(fields),
        layers=fields.number(*_LAYERS),
        heads=heads,
        kv_heads=kv_heads,
        embedding=embedding,
        key_length=each,
        value_length=fields.number("v_head_dim") or each,
        vocabulary=fields.number("vocab_size"),
        experts=fields.number(*_EXPERTS) or None,
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
    elif "sliding_window_pattern" in fields.values and layers:
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
    kinds = json_fields.items(fields.values.get("layer_types"))
    if not kinds or len(kinds) > kv_layout.MAX_LAYERS:
        return ()
    return tuple(kind[1:-1].decode(errors="replace") for kind in kinds)


def _context(fields: _Fields, tokenizer_limit: int | None) -> int | None:
    """What vLLM refuses to go beyond; where its rules changed, by the later ones."""
    said = [found for name in _CONTEXT if (found := fields.number(name)) is not None]
    declared = fields.number("model_max_length")
    context = declared or min(said, default=None) or fields.number("n_ctx")
    if context is None:
        return tokenizer_limit
    if tokenizer_limit is not None:
        context = min(context, tokenizer_limit)
    scaled = _scaled(fields, context)
    if not 0 <= scaled <= MAX_NUMBER:
        raise ConfigError("rope_scaling stretches the context beyond all that a model can have")
    return max(int(scaled), declared or 0)


def _scaled(fields: _Fields, context: float) -> float:
    if "gemma3" in (fields.text("model_type") or ""):
        return context  # its number of positions has the factor in it
    given = fields.values.get("rope_parameters") or fields.values.get("rope_scaling")
    if given is None or not json_fields.is_object(given):
        return context
    rope = _ROPE.read(given)
    by_kind = [_ROPE.read(rope[kind]) for kind in _ROPE_KINDS if json_fields.is_object(rope.get(kind))]
    factor = 1.0
    for each in by_kind or [rope]:
        kind = each.get("rope_type") or each.get("type")
        name = None if kind is None else json_fields.name_in("rope_scaling", kind)
        if name in _UNSCALED:
            continue
        if "factor" in each:
            factor = json_fields.number("rope_scaling.factor", each["factor"])
        if name == "yarn" and (before := each.get("original_max_position_embeddings")) is not None:
            context = json_fields.integer("rope_scaling.original_max_position_embeddings", before)
    return context * factor


def _arch(fields: _Fields) -> str | None:
    named = fields.top.get("architectures")
    if named is None or named == b"[]":
        kind = fields.top.get("model_type")
        return None if kind is None else json_fields.name_in("model_type", kind)
    names = json_fields.items(named)
    if not names or not names[0].startswith(b'"'):
        shown = "a list" if named.startswith(b"[") else json_fields.printable(named.decode(errors="replace"))
        raise ConfigError(f"architectures is {shown}, which is no list of names")
    return json_fields.name_in("architectures", names[0])


def _quant(fields: _Fields) -> str | None:
    quantization = fields.values.get("quantization_config")
    if quantization is None:
        return fields.text("torch_dtype") or fields.text("dtype")
    if not json_fields.is_object(quantization):
        shown = json_fields.printable(quantization.decode(errors="replace"))
        raise ConfigError(f"quantization_config is {shown}, which is no object")
    method = _QUANTIZATION.read(quantization).get("quant_method")
    return json_fields.name_in("quant_method", method) if method is not None and method.startswith(b'"') else None

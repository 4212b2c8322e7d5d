"""What an engine puts where: weights, KV cache and working memory, on the GPUs and in host memory, before it runs.

Decides how many bytes each part has, from what the model says of itself and what the pool configures. The formulas are
those of the engines: llama.cpp's KV cache in cells of 256 tokens and its compute buffer. Every layer counts as on the
GPUs, whatever ``--n-gpu-layers`` says: the proof that an engine is there is made of these numbers, and must not be made
of the flag that it judges. Only experts and the KV cache may be kept in host memory, by their names. What is not known
counts as nothing, so a footprint is never made up. Never decides whether it fits: ``vram`` and ``ram`` do.
"""

from __future__ import annotations

from fractions import Fraction

from contracts.base import Message
from contracts.config import Engine, Mode, Pool, Profile
from contracts.engines import KvLayout, ResolvedModel, WeightSizes
from engine_provisioner.container_flags import configured_of
from engine_provisioner.flags import Configured
from engine_provisioner.gpu_only import whole
from model_provisioner import ggml

MIB = 1 << 20
GIB = 1 << 30

CELLS = 256
"""llama.cpp rounds the cells of a KV cache up to a multiple of this."""
UBATCH, BATCH = 512, 2048
"""llama.cpp's defaults of ``--ubatch-size`` and ``--batch-size``, in tokens."""
VLLM_TOKENS = 2048
"""Tokens that vLLM works on at once, by default and on the GPUs of a workstation."""
USUAL_VOCABULARY = 131_072
"""Where a model does not say how many tokens it knows."""
LLAMACPP_CONTEXT = 384 * MIB
"""What CUDA itself takes on each GPU: context, kernels and a small pool of buffers."""
TORCH_CONTEXT = 640 * MIB
"""The same for engines on PyTorch, with its libraries for communication."""


class Footprint(Message, frozen=True, kw_only=True):
    """Bytes by place. ``compute`` and ``context`` are on every GPU that the engine uses, the rest over all together."""

    gpu_weights: int
    gpu_output: int = 0
    """The part of ``gpu_weights`` that lies on the last GPU alone."""
    gpu_layers: int = 0
    """How many repeating layers the model has; 0 where it is not known."""
    gpu_kv: int = 0
    gpu_kv_fixed: int = 0
    """The part of ``gpu_kv`` that does not shrink with the context: sliding windows and recurrent states."""
    host_weights: int = 0
    host_kv: int = 0
    compute: int = 0
    context: int = 0


def footprint(model: ResolvedModel, pool: Pool) -> Footprint | None:
    """Where the pool's engine puts the model; None for an engine that somebody else runs."""
    match pool.engine:
        case Engine.LLAMACPP:
            return _llamacpp(model, pool)
        case Engine.VLLM | Engine.TGI | Engine.TRITON:
            return _torch(model, pool)
        case Engine.OPENAI:
            return None


def said(pool: Pool) -> Configured:
    """The pool's flags as its engine gets them in profile home."""
    return configured_of(pool, Profile.HOME)


def count(theirs: Configured, spelled: str, default: int) -> int:
    """The value of a flag that is a whole number, not below 0; ``default`` where it is none."""
    found = whole(theirs.value(spelled) or "")
    return found if found is not None and found >= 0 else default


# --- llama.cpp --------------------------------------------------------------------------------------------------------


def _llamacpp(model: ResolvedModel, pool: Pool) -> Footprint:
    theirs = said(pool)
    weights = model.weights or WeightSizes(layers=model.size_bytes)
    layers = model.layers or 0
    experts = int(weights.experts * _experts_on_gpu(model, theirs, layers))
    growing, fixed = _kv_cache(model.kv, pool, theirs)
    on_host = theirs.value("--no-kv-offload") is not None
    return Footprint(
        gpu_weights=weights.layers - weights.experts + experts + weights.output,
        gpu_output=weights.output,
        gpu_layers=layers,
        gpu_kv=0 if on_host else growing + fixed,
        gpu_kv_fixed=0 if on_host else fixed,
        host_weights=weights.experts - experts + weights.input,
        host_kv=growing + fixed if on_host else 0,
        compute=_llamacpp_compute(model, pool, theirs),
        context=LLAMACPP_CONTEXT,
    )


def _experts_on_gpu(model: ResolvedModel, theirs: Configured, layers: int) -> Fraction:
    """The share of the experts that is on the GPUs: ``--n-cpu-moe`` keeps those of the first layers in host memory."""
    kept = count(theirs, "--n-cpu-moe", 0)
    if theirs.value("--cpu-moe") is not None:
        return Fraction(0)
    with_experts = layers - min(model.dense_layers, layers)
    if not with_experts:
        return Fraction(0 if kept and not layers else 1)
    return Fraction(max(layers - max(model.dense_layers, kept), 0), with_experts)


def kv_cache_bytes(kv: KvLayout | None, pool: Pool) -> int:
    """llama.cpp's KV cache: each slot has its own context; a windowed layer remembers the window and one batch."""
    return sum(_kv_cache(kv, pool, said(pool)))


def kv_bytes_per_token(kv: KvLayout | None, pool: Pool) -> int | None:
    """What one more token takes, in every layer; None where the model does not say, or where nobody knows the pool's.

    Windowed layers forget what is older than their window, so of a long conversation they hold less than this times
    its tokens.
    """
    if kv is None or pool.mode is Mode.EXTERNAL:
        return None
    theirs = said(pool)
    keys, values = kv.key + kv.windowed_key, kv.value + kv.windowed_value
    if pool.engine is not Engine.LLAMACPP:
        return _torch_element(theirs) * (keys + values)
    return int(keys * _element(theirs, "--cache-type-k") + values * _element(theirs, "--cache-type-v"))


def _kv_cache(kv: KvLayout | None, pool: Pool, theirs: Configured) -> tuple[int, int]:
    """The part that grows with the context, and the rest."""
    if kv is None:
        return 0, 0
    cells, windowed = _rounded_up(pool.ctx), _windowed_cells(kv, pool, theirs)
    key = _element(theirs, "--cache-type-k")
    value = _element(theirs, "--cache-type-v")
    full = cells * (kv.key * key + kv.value * value)
    short = windowed * (kv.windowed_key * key + kv.windowed_value * value)
    return int(pool.slots * full), int(pool.slots * (short + 4 * kv.state))


def _windowed_cells(kv: KvLayout, pool: Pool, theirs: Configured) -> int:
    """Cells of a windowed layer, in each slot."""
    cells = _rounded_up(pool.ctx)
    if not kv.window or theirs.value("--swa-full") is not None:
        return cells
    return min(cells, _rounded_up(kv.window + _ubatch(pool, theirs)))


def _element(theirs: Configured, spelled: str) -> Fraction:
    """Bytes of one element of the cache; f16 is llama.cpp's default."""
    weights, size = ggml.BLOCKS[ggml.CACHE_TYPES.get((theirs.value(spelled) or "f16").lower(), 1)]
    return Fraction(size, weights)


def _ubatch(pool: Pool, theirs: Configured) -> int:
    batch = count(theirs, "--batch-size", BATCH)
    ubatch = count(theirs, "--ubatch-size", UBATCH)
    return min(batch, ubatch, _rounded_up(pool.ctx) * pool.slots)


def _llamacpp_compute(model: ResolvedModel, pool: Pool, theirs: Configured) -> int:
    """The compute buffer: the logits of one micro-batch or the widest layer, what goes in, and the attention mask.

    In 4-byte floats; the masks in halves, twice, for the copy that older versions make. Without flash attention the
    scores of all heads come on top. Llama 3.1 8B with 8192 tokens prints 258.5 MiB: (vocabulary + embedding) x 512 x 4.
    """
    ubatch, cells = _ubatch(pool, theirs), _rounded_up(pool.ctx)
    embedding = model.embedding or 0
    width = max(model.vocabulary or USUAL_VOCABULARY, 8 * embedding) + embedding
    scores = (model.heads or 0) * 4 if theirs.value("--flash-attn") in _OFF else 0
    masks = cells + (_windowed_cells(model.kv, pool, theirs) if model.kv is not None and model.kv.window else 0)
    return ubatch * (4 * width + 2 * 2 * masks + cells * scores)


_OFF = frozenset({"off", "disabled", "false", "0"})


def _rounded_up(tokens: int) -> int:
    return -(-tokens // CELLS) * CELLS


# --- vLLM, TGI, Triton ------------------------------------------------------------------------------------------------


def _torch(model: ResolvedModel, pool: Pool) -> Footprint:
    """The least with which such an engine starts: one sequence of the whole context has to fit."""
    theirs = said(pool)
    weights = model.weights.layers if model.weights is not None else model.size_bytes
    offload = count(theirs, "--cpu-offload-gb", 0) * GIB
    tokens = count(theirs, "--max-batch-prefill-tokens", count(theirs, "--max-num-batched-tokens", VLLM_TOKENS))
    # A forward pass holds some ten copies of what goes through it, of 2 bytes, and the logits of every sequence.
    activations = tokens * (model.embedding or 0) * 2 * 10
    growing, fixed = _one_sequence(model.kv, pool, tokens, _torch_element(theirs))
    logits = pool.slots * (model.vocabulary or USUAL_VOCABULARY) * 4
    return Footprint(
        gpu_weights=max(weights - offload, 0),
        gpu_kv=growing + fixed,
        gpu_kv_fixed=fixed,
        host_weights=min(offload, weights),
        compute=activations + logits,
        context=TORCH_CONTEXT,
    )


def _torch_element(theirs: Configured) -> int:
    """Bytes of one element of the cache."""
    return 1 if (theirs.value("--kv-cache-dtype") or "").startswith(("fp8", "int8")) else 2


def _one_sequence(kv: KvLayout | None, pool: Pool, tokens: int, size: int) -> tuple[int, int]:
    """The KV cache of one sequence: the part that grows with the context, and the rest."""
    if kv is None:
        return 0, 0
    windowed = min(pool.ctx, kv.window + tokens) if kv.window else pool.ctx
    return size * pool.ctx * (kv.key + kv.value), size * windowed * (kv.windowed_key + kv.windowed_value)

"""What an engine puts where: weights, KV cache and working memory, on the GPUs and in host memory, before it runs.

Decides how many bytes each part has, from what the model says of itself and what the pool configures. The formulas are
those of the engines: llama.cpp's placement of layers, its KV cache in cells of 256 tokens and its compute buffer. What
is not known counts as nothing, so a footprint is never made up. Never decides whether it fits: ``vram`` and ``ram`` do.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from contracts.base import Message
from contracts.config import Engine, Pool
from contracts.engines import KvLayout, ResolvedModel, WeightSizes
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
    """How many repeating layers are on the GPUs; 0 where it is not known."""
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


def flag(flags: tuple[str, ...], *names: str) -> str | None:
    """The value of the last of these flags; empty for one without a value, None where there is none."""
    found = None
    tokens = list(_tokens(flags))
    for number, token in enumerate(tokens):
        name, equals, value = token.partition("=")
        if _canonical(name) in names:
            following = tokens[number + 1] if number + 1 < len(tokens) else ""
            found = value if equals else following if not following.startswith("--") else ""
    return found


def number_flag(flags: tuple[str, ...], *names: str, default: int) -> int:
    """The value of a flag that is a whole number, not below 0; ``default`` where it is none."""
    text = flag(flags, *names) or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _tokens(flags: tuple[str, ...]) -> Iterator[str]:
    for element in flags:
        yield from element.split(maxsplit=1) if element.startswith("-") else [element]


def _canonical(name: str) -> str:
    return name.replace("_", "-") if name.startswith("--") else name


# --- llama.cpp --------------------------------------------------------------------------------------------------------


def _llamacpp(model: ResolvedModel, pool: Pool) -> Footprint:
    flags = pool.flags
    weights = model.weights or WeightSizes(layers=model.size_bytes)
    layers = model.layers or 0
    on_gpu = _offloaded(flags, layers)
    share = Fraction(on_gpu, layers) if layers else Fraction(1)
    output = weights.output if on_gpu or not layers else 0
    experts = int(weights.experts * _experts_on_gpu(model, flags, layers, on_gpu))
    gpu_weights = int((weights.layers - weights.experts) * share) + experts + output
    growing, fixed = _kv_cache(model.kv, pool)
    on_host = flag(flags, "--no-kv-offload", "-nkvo") is not None
    gpu_kv = 0 if on_host else int((growing + fixed) * share)
    return Footprint(
        gpu_weights=gpu_weights,
        gpu_output=output,
        gpu_layers=on_gpu,
        gpu_kv=gpu_kv,
        gpu_kv_fixed=0 if on_host else int(fixed * share),
        host_weights=max(weights.layers - (gpu_weights - output), 0) + weights.input + (weights.output - output),
        host_kv=growing + fixed - gpu_kv,
        compute=_llamacpp_compute(model, pool),
        context=LLAMACPP_CONTEXT,
    )


def _offloaded(flags: tuple[str, ...], layers: int) -> int:
    """Repeating layers on the GPUs: of ``--n-gpu-layers`` the first is the output, then the last layers."""
    wanted = number_flag(flags, "--n-gpu-layers", "-ngl", "--ngl", "--gpu-layers", default=layers + 1)
    return min(max(wanted - 1, 0), layers)


def _experts_on_gpu(model: ResolvedModel, flags: tuple[str, ...], layers: int, on_gpu: int) -> Fraction:
    """The share of the experts that is on the GPUs: ``--n-cpu-moe`` keeps those of the first layers in host memory."""
    with_experts = layers - min(model.dense_layers, layers)
    if not with_experts:
        return Fraction(1)
    kept = number_flag(flags, "--n-cpu-moe", "-ncmoe", default=0)
    overridden = flag(flags, "--override-tensor", "-ot") or ""
    if flag(flags, "--cpu-moe", "-cmoe") is not None or ("exps" in overridden and overridden.endswith("=CPU")):
        kept = layers
    first = max(model.dense_layers, kept, layers - on_gpu)
    return Fraction(max(layers - first, 0), with_experts)


def kv_cache_bytes(kv: KvLayout | None, pool: Pool) -> int:
    """llama.cpp's KV cache: each slot has its own context; a windowed layer remembers the window and one batch."""
    return sum(_kv_cache(kv, pool))


def _kv_cache(kv: KvLayout | None, pool: Pool) -> tuple[int, int]:
    """The part that grows with the context, and the rest."""
    if kv is None:
        return 0, 0
    flags = pool.flags
    cells, windowed = _rounded_up(pool.ctx), _windowed_cells(kv, pool)
    key = _element(flags, "--cache-type-k", "-ctk")
    value = _element(flags, "--cache-type-v", "-ctv")
    full = cells * (kv.key * key + kv.value * value)
    short = windowed * (kv.windowed_key * key + kv.windowed_value * value)
    return int(pool.slots * full), int(pool.slots * (short + 4 * kv.state))


def _windowed_cells(kv: KvLayout, pool: Pool) -> int:
    """Cells of a windowed layer, in each slot."""
    cells = _rounded_up(pool.ctx)
    if not kv.window or flag(pool.flags, "--swa-full") is not None:
        return cells
    return min(cells, _rounded_up(kv.window + _ubatch(pool)))


def _element(flags: tuple[str, ...], *names: str) -> Fraction:
    """Bytes of one element of the cache; f16 is llama.cpp's default."""
    weights, size = ggml.BLOCKS[ggml.CACHE_TYPES.get((flag(flags, *names) or "f16").lower(), 1)]
    return Fraction(size, weights)


def _ubatch(pool: Pool) -> int:
    batch = number_flag(pool.flags, "--batch-size", "-b", default=BATCH)
    ubatch = number_flag(pool.flags, "--ubatch-size", "-ub", default=UBATCH)
    return min(batch, ubatch, _rounded_up(pool.ctx) * pool.slots)


def _llamacpp_compute(model: ResolvedModel, pool: Pool) -> int:
    """The compute buffer: the logits of one micro-batch or the widest layer, what goes in, and the attention mask.

    In 4-byte floats; the masks in halves, twice, for the copy that older versions make. Without flash attention the
    scores of all heads come on top. Llama 3.1 8B with 8192 tokens prints 258.5 MiB: (vocabulary + embedding) x 512 x 4.
    """
    ubatch, cells = _ubatch(pool), _rounded_up(pool.ctx)
    embedding = model.embedding or 0
    width = max(model.vocabulary or USUAL_VOCABULARY, 8 * embedding) + embedding
    scores = (model.heads or 0) * 4 if flag(pool.flags, "--flash-attn", "-fa") in {"off", "0", "false"} else 0
    masks = cells + (_windowed_cells(model.kv, pool) if model.kv is not None and model.kv.window else 0)
    return ubatch * (4 * width + 2 * 2 * masks + cells * scores)


def _rounded_up(tokens: int) -> int:
    return -(-tokens // CELLS) * CELLS


# --- vLLM, TGI, Triton ------------------------------------------------------------------------------------------------


def _torch(model: ResolvedModel, pool: Pool) -> Footprint:
    """The least with which such an engine starts: one sequence of the whole context has to fit."""
    flags = pool.flags
    weights = model.weights.layers if model.weights is not None else model.size_bytes
    offload = number_flag(flags, "--cpu-offload-gb", default=0) * GIB
    tokens = number_flag(flags, "--max-num-batched-tokens", "--max-batch-prefill-tokens", default=VLLM_TOKENS)
    # A forward pass holds some ten copies of what goes through it, of 2 bytes, and the logits of every sequence.
    activations = tokens * (model.embedding or 0) * 2 * 10
    logits = pool.slots * (model.vocabulary or USUAL_VOCABULARY) * 4
    return Footprint(
        gpu_weights=max(weights - offload, 0),
        gpu_kv=sum(_one_sequence(model.kv, pool, tokens)),
        gpu_kv_fixed=_one_sequence(model.kv, pool, tokens)[1],
        host_weights=min(offload, weights),
        compute=activations + logits,
        context=TORCH_CONTEXT,
    )


def _one_sequence(kv: KvLayout | None, pool: Pool, tokens: int) -> tuple[int, int]:
    """The KV cache of one sequence: the part that grows with the context, and the rest."""
    if kv is None:
        return 0, 0
    small = (flag(pool.flags, "--kv-cache-dtype") or "").startswith(("fp8", "int8"))
    windowed = min(pool.ctx, kv.window + tokens) if kv.window else pool.ctx
    size = 1 if small else 2
    return size * pool.ctx * (kv.key + kv.value), size * windowed * (kv.windowed_key + kv.windowed_value)

"""Whether an engine fits into the VRAM that is free, before it is started, and what to do where it does not.

Decides whether all layers go to the GPUs and what a start needs on each GPU of its pool, compares it with what NVML
shows free there, and words the refusal with the numbers. An estimate decides the first start of a configuration; what a
proved start was seen to hold decides every later one (``vram_memory`` keeps it). Never asks NVML, and never starts or
stops anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from itertools import accumulate

import msgspec

from contracts.base import Message
from contracts.config import Engine, Pool
from contracts.engines import PreparedEngine, ResolvedModel
from contracts.pools import Cause, Gpu
from engine_provisioner.gpu_only import ALL_LAYERS, whole
from pool_managerd.footprint import GIB, count, footprint, said

DEFAULT_FRACTION = 0.9
"""What vLLM takes of each GPU where nobody says otherwise; its newer versions take 0.92."""
TGI_ROOM = 0.9
"""What TGI leaves unused of what it may have."""
MEASURED_MARGIN = 32
"""A measured engine may need one part in so many more than it did: its buffers grow a little with use."""
LEAST_ON_GPU = 0.8
"""The part of the weights that belong on the GPUs that a proved engine must be seen to hold."""
SMALLEST_CTX = 512
"""Nobody is told to make do with less."""
BESIDE_MARGIN = 20
"""Beside a serving engine one part in so many has to stay free: that one works on."""


class Basis(StrEnum):
    """Where the numbers of a need come from."""

    ESTIMATED = "estimated"
    MEASURED = "measured"


class Need(Message, frozen=True, kw_only=True):
    """What an engine needs on its GPUs, in bytes.

    ``weights_bytes`` and ``kv_bytes`` are shared out over the GPUs, ``compute_bytes`` and ``overhead_bytes`` are needed
    on each of them.
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    overhead_bytes: int
    basis: Basis = Basis.ESTIMATED
    measured_bytes: int | None = None
    """What a proved start of the same was seen to hold, over all its GPUs."""
    engine: Engine = Engine.LLAMACPP
    ctx: int = 0
    slots: int = 1
    kv_fixed_bytes: int = 0
    """The part of the KV cache that does not shrink with the context."""
    layers: int = 0
    """So many go to the GPUs, each of them whole; 0 where it is not known, or where every GPU has a part of each."""
    output_bytes: int = 0
    """The part of the weights that lies on the last GPU."""
    only: int | None = None
    """The one GPU of the pool, counted from 0, that is used."""
    width: int | None = None
    """So many GPUs have a part of every layer; None: all of them, where layers are not whole."""
    fraction: float | None = None
    """The engine stays below this part of each GPU's VRAM."""
    reserves: bool = False
    """It takes all of ``fraction`` at its start, and does not start where that is not free."""

    @property
    def total_bytes(self) -> int:
        """On one GPU alone; every further one adds ``compute_bytes`` and ``overhead_bytes``."""
        return self.total_on(1)

    def total_on(self, gpus: int) -> int:
        """Over so many GPUs together."""
        if self.measured_bytes is not None:
            return self.measured_bytes + self.measured_bytes // MEASURED_MARGIN
        return self.weights_bytes + self.kv_bytes + gpus * (self.compute_bytes + self.overhead_bytes)


class Refusal(Message, frozen=True, kw_only=True):
    """Why an engine is not started, and the mend."""

    cause: Cause
    message: str
    hint: str


def estimate(model: ResolvedModel, pool: Pool, *, fraction: float | None = None) -> Need | None:
    """What the pool's engine needs for this model; None for an engine that somebody else runs.

    What the model does not say counts as nothing. ``fraction`` is what the engine is told to take of each GPU, where
    it is told by something else than the pool's flags.
    """
    found = footprint(model, pool)
    if found is None:
        return None
    need = Need(
        weights_bytes=found.gpu_weights,
        kv_bytes=found.gpu_kv,
        compute_bytes=found.compute,
        overhead_bytes=found.context,
        kv_fixed_bytes=found.gpu_kv_fixed,
        engine=pool.engine,
        ctx=pool.ctx,
        slots=pool.slots,
    )
    replace = msgspec.structs.replace
    theirs = said(pool)
    match pool.engine:
        case Engine.LLAMACPP:
            alone = theirs.value("--split-mode") == "none"
            main = count(theirs, "--main-gpu", 0)
            return replace(need, layers=found.gpu_layers, output_bytes=found.gpu_output, only=main if alone else None)
        case Engine.TGI:
            shards = count(theirs, "--num-shard", 0)
            asked = _fraction(theirs.value("--cuda-memory-fraction"), fraction, 1.0)
            return replace(need, width=shards or None, fraction=asked * TGI_ROOM)
        case Engine.VLLM | Engine.TRITON | Engine.OPENAI:
            stages = count(theirs, "--pipeline-parallel-size", 0)
            width = count(theirs, "--tensor-parallel-size", 1 if stages else 0)
            width *= stages or 1
            asked = _fraction(theirs.value("--gpu-memory-utilization"), fraction, DEFAULT_FRACTION)
            return replace(need, width=width or None, fraction=asked, reserves=True)


def with_measured(need: Need, measured: int | None) -> Need:
    """The need with what a proved start of the same was seen to hold over all its GPUs, which then decides.

    An engine that fills a fixed part of each GPU is not measured: it holds that part whatever it needs.
    """
    if measured is None or measured <= 0 or need.fraction is not None:
        return need
    return msgspec.structs.replace(need, measured_bytes=measured, basis=Basis.MEASURED)


def least_on_gpu(need: Need) -> int:
    """The least bytes, over all GPUs of the pool, that a proved engine holds: most of the weights that belong there.

    Those are all but the experts that the operator keeps in host memory by their name; no other flag makes it less.
    """
    return int(need.weights_bytes * LEAST_ON_GPU)


def layers_refusal(model: ResolvedModel, pool: Pool) -> Refusal | None:
    """Why the pool's flags would leave layers of this model to the CPU; None where all of them go to the GPUs."""
    said_layers = said(pool).value("--n-gpu-layers") if pool.engine is Engine.LLAMACPP else None
    if said_layers is None:
        return None
    wanted = max(whole(said_layers) or 0, 0)
    layers = int(ALL_LAYERS) if model.layers is None else model.layers + 1  # with the output
    if wanted >= layers:
        return None
    left = f"leaves {layers - wanted} of {layers} layers on the CPU"
    if model.layers is None:
        left = "may leave layers on the CPU, for the model does not say how many it has"
    return Refusal(
        cause=Cause.POLICY_DENIED,
        message=f"--n-gpu-layers {said_layers} {left}, and profile home is GPU only",
        hint="remove it; where the model then does not fit, use a smaller quantization of it, or a smaller ctx",
    )


def fits_beside(need: Need, gpus: Sequence[Gpu], tensor_split: Sequence[float] | None = None) -> bool:
    """Whether the engine fits next to what is on these GPUs now, the engine that serves among it."""
    return refusal(need, tuple(_less_free(gpu) for gpu in gpus), tensor_split) is None


def refusal(need: Need, gpus: Sequence[Gpu], tensor_split: Sequence[float] | None = None) -> Refusal | None:
    """Why the engine does not fit into what is free on the GPUs of its pool, in their order; None where it fits."""
    parts = _parts(need, tuple(gpus), tuple(tensor_split or ()))
    for gpu, needed in parts:
        if need.fraction is not None and needed > need.fraction * gpu.vram_total_bytes:
            return _over_its_part(need, gpu, needed, len(parts))
        if need.reserves and need.fraction is not None and need.fraction * gpu.vram_total_bytes > _free(gpu):
            return _part_not_free(need, gpu)
    if all(needed <= _free(gpu) for gpu, needed in parts):
        return None
    return _short(need, parts, _smaller_ctx(need, tuple(gpus), tuple(tensor_split or ())))


def memory_key(engine: PreparedEngine, model: ResolvedModel, pool: Pool, gpus: Sequence[Gpu]) -> str:
    """What a measured start is remembered under: everything that changes what an engine holds on its GPUs."""
    facts = (
        engine.engine,
        engine.engine_digest or engine.engine_version,
        model.digest,
        pool.ctx,
        pool.slots,
        pool.flags,
        pool.tensor_split,
        sorted(pool.env.items()),
        [(gpu.name, gpu.vram_total_bytes) for gpu in gpus],
    )
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


# --- what lies where --------------------------------------------------------------------------------------------------


def _parts(need: Need, gpus: tuple[Gpu, ...], tensor_split: tuple[float, ...]) -> list[tuple[Gpu, int]]:
    """What is needed on each GPU that is used."""
    if not gpus:
        return []
    if need.only is not None:
        gpus = gpus[need.only : need.only + 1] or gpus[:1]
    if need.engine is not Engine.LLAMACPP:
        gpus = gpus[: need.width or len(gpus)]
        shared = [(need.weights_bytes + need.kv_bytes) / len(gpus)] * len(gpus)
    else:
        shared = _by_layers(need, gpus, tensor_split if len(tensor_split) == len(gpus) else ())
    each = need.compute_bytes + need.overhead_bytes
    parts = [part + each for part in shared]
    scale = need.total_on(len(gpus)) / sum(parts) if need.measured_bytes is not None and sum(parts) > 0 else 1.0
    return [(gpu, int(part * scale)) for gpu, part in zip(gpus, parts, strict=True)]


def _by_layers(need: Need, gpus: tuple[Gpu, ...], tensor_split: tuple[float, ...]) -> list[float]:
    """llama.cpp hands out whole layers, in order, by ``tensor_split`` or else by free memory; the output comes last."""
    wanted = tensor_split if sum(tensor_split) > 0 else tuple(float(max(_free(gpu), 0)) for gpu in gpus)
    total = sum(wanted)
    shares = [part / total for part in wanted] if total else [1 / len(gpus)] * len(gpus)
    both = need.weights_bytes + need.kv_bytes
    if not need.layers:
        return [share * both for share in shares]
    ends = list(accumulate(shares))
    layer = (both - need.output_bytes) / need.layers
    parts = [0.0] * len(gpus)
    for number in range(need.layers + 1):
        at = number / (need.layers + 1)
        place = next((index for index, end in enumerate(ends) if end > at), len(gpus) - 1)
        parts[place] += layer if number < need.layers else need.output_bytes
    return parts


def _free(gpu: Gpu) -> int:
    return gpu.vram_total_bytes - gpu.vram_used_bytes


def _less_free(gpu: Gpu) -> Gpu:
    return msgspec.structs.replace(gpu, vram_used_bytes=gpu.vram_used_bytes + _free(gpu) // BESIDE_MARGIN)


def _fraction(text: str | None, told: float | None, default: float) -> float:
    try:
        asked = float(text) if text else told
    except ValueError:
        asked = told
    return asked if asked is not None and 0 < asked <= 1 else default


# --- how it reads -----------------------------------------------------------------------------------------------------


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:.2f} GiB"


def _named(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.name})"


def _of_what(need: Need, gpus: int) -> str:
    """The parts of the need, in words."""
    if need.measured_bytes is not None:
        return f"as an earlier start of the same was seen to hold {gib(need.measured_bytes)}"
    tokens = f"{need.slots} x {need.ctx}" if need.slots > 1 and need.engine is Engine.LLAMACPP else f"{need.ctx}"
    times = f" on each of {gpus} GPUs" if gpus > 1 else ""
    return (
        f"weights {gib(need.weights_bytes)}, KV cache {gib(need.kv_bytes)} for {tokens} tokens, "
        f"compute {gib(need.compute_bytes)} and CUDA {gib(need.overhead_bytes)}{times}"
    )


def _short(need: Need, parts: list[tuple[Gpu, int]], smaller: int | None) -> Refusal:
    short = [(gpu, needed) for gpu, needed in parts if needed > _free(gpu)]
    if len(parts) == 1:
        where = f"{_named(short[0][0])} has {_free_of(short[0][0])}"
    else:
        where = "; ".join(f"{_named(gpu)} would hold {gib(needed)} and has {_free_of(gpu)}" for gpu, needed in short)
    total = sum(needed for _, needed in parts)
    message = f"the engine needs {gib(total)} of VRAM ({_of_what(need, len(parts))}), and {where}"
    mends = []
    if all(needed <= gpu.vram_total_bytes for gpu, needed in short):
        mends.append(_free_it(*(gpu for gpu, _ in short)))
    if smaller is not None:
        mends.append(f"set ctx: {smaller}")
    if need.kv_bytes > GIB // 4:
        mends += ["lower slots"] if need.slots > 1 else []
        mends.append('keep the KV cache in fewer bits (flags: ["--cache-type-k", "q8_0", "--cache-type-v", "q8_0"])')
    mends.append("use a smaller quantization of the model")
    mends.append("give the pool another GPU" if len(parts) == 1 else "share it out otherwise (tensor_split)")
    return Refusal(cause=Cause.VRAM_SHORT, message=message, hint=", or ".join(mends))


def _free_of(gpu: Gpu) -> str:
    return f"{gib(_free(gpu))} of {gib(gpu.vram_total_bytes)} free"


def _free_it(*gpus: Gpu) -> str:
    held = ", ".join(f"{gib(gpu.vram_used_bytes)} of {_named(gpu)}" for gpu in gpus)
    return f"free what others use ({held}; nvidia-smi shows by whom)"


def _smaller_ctx(need: Need, gpus: tuple[Gpu, ...], tensor_split: tuple[float, ...]) -> int | None:
    """The largest power of two of tokens with which the engine would fit; None where none does."""
    growing = need.kv_bytes - need.kv_fixed_bytes
    ctx = 1 << max(need.ctx - 1, 0).bit_length() >> 1
    while growing and ctx >= SMALLEST_CTX:
        saved = growing - growing * ctx // need.ctx
        smaller = msgspec.structs.replace(
            need,
            kv_bytes=need.kv_bytes - saved,
            measured_bytes=None if need.measured_bytes is None else max(need.measured_bytes - saved, 1),
        )
        if all(needed <= _free(gpu) for gpu, needed in _parts(smaller, gpus, tensor_split)):
            return ctx
        ctx //= 2
    return None


def _over_its_part(need: Need, gpu: Gpu, needed: int, gpus: int) -> Refusal:
    fraction = need.fraction or 1.0
    shared = f"; weights and KV cache shared out over {gpus} GPUs" if gpus > 1 else ""
    message = (
        f"{need.engine} needs {gib(needed)} of {_named(gpu)} ({_of_what(need, 1)}{shared}), "
        f"and may have {fraction:.0%} of its {gib(gpu.vram_total_bytes)}: {gib(fraction * gpu.vram_total_bytes)}"
    )
    mends = ["lower ctx", "use a quantized model", "give the pool more GPUs"]
    if need.reserves:
        mends.insert(1, 'keep the KV cache in fewer bits (flags: ["--kv-cache-dtype", "fp8"])')
    return Refusal(cause=Cause.VRAM_SHORT, message=message, hint=", or ".join(mends))


def _part_not_free(need: Need, gpu: Gpu) -> Refusal:
    fraction = need.fraction or 1.0
    message = (
        f"{need.engine} takes {fraction:.0%} of each GPU, {gib(fraction * gpu.vram_total_bytes)} of {_named(gpu)}, "
        f"which has {_free_of(gpu)}"
    )
    left = int(_free(gpu) / gpu.vram_total_bytes * 100 - 1) / 100 if gpu.vram_total_bytes else 0.0
    mends = [_free_it(gpu)]
    if left >= 0.1:
        mends.append(f'let it take less (flags: ["--gpu-memory-utilization", "{left:.2f}"])')
    return Refusal(cause=Cause.VRAM_SHORT, message=message, hint=", or ".join(mends))

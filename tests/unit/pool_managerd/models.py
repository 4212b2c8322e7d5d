"""Models whose numbers are known, and GPUs and pools to put them on."""

from __future__ import annotations

from typing import Any

from contracts.config import Engine, External, Mode, Pool, Provisioning
from contracts.engines import KvLayout, ModelFormat, ResolvedModel, WeightSizes
from contracts.pools import Gpu

MIB, GIB = 1 << 20, 1 << 30


def model(**changed: Any) -> ResolvedModel:  # noqa: ANN401 - whatever the test is about
    """Llama 3.1 8B Instruct in Q4_K_M: 4.58 GiB, 32 layers, 8 KV heads of 128."""
    facts: dict[str, Any] = {
        "id": "llama",
        "ref": "llama.gguf",
        "local_path": "/models/llama.gguf",
        "size_bytes": 4_920_739_232,
        "digest": "sha256:" + "0" * 64,
        "layers": 32,
        "heads": 32,
        "kv_heads": 8,
        "embedding": 4096,
        "vocabulary": 128_256,
        "kv": KvLayout(key=32 * 8 * 128, value=32 * 8 * 128),
        "weights": WeightSizes(layers=4_186_439_936, output=430_956_544, input=295_501_824),
    }
    return ResolvedModel(**(facts | changed))


GEMMA_12B = model(
    size_bytes=7_300_575_648,
    layers=48,
    heads=16,
    embedding=3840,
    vocabulary=262_208,
    kv=KvLayout(key=16384, value=16384, windowed_key=81920, windowed_value=81920, window=1024),
    weights=WeightSizes(layers=6_500_000_000, output=788_000_000, input=788_000_000),
)
"""Gemma 3 12B: seven of eight tokens of its cache are in sliding windows."""
MIXTURE = model(
    size_bytes=18 * GIB,
    layers=48,
    embedding=2048,
    vocabulary=151_936,
    experts=128,
    kv=KvLayout(key=48 * 4 * 128, value=48 * 4 * 128),
    weights=WeightSizes(layers=17 * GIB, experts=16 * GIB, output=GIB // 2, input=GIB // 2),
)
"""About Qwen3 30B A3B in Q4_K_M: nearly all of it is experts."""
BF16_8B = model(
    size_bytes=16_060_556_376,
    format=ModelFormat.HF_DIRECTORY,
    weights=WeightSizes(layers=16_060_556_376),
)


def pool(*flags: str, engine: Engine = Engine.LLAMACPP, **changed: Any) -> Pool:  # noqa: ANN401 - as above
    external = Provisioning(mode=Mode.EXTERNAL, external=External(url="http://127.0.0.1:1"))
    provisioning = external if engine is Engine.OPENAI else Provisioning()
    return Pool(id="main", engine=engine, model="llama.gguf", flags=flags, provisioning=provisioning, **changed)


def gpu(index: int = 0, *, total: float = 24, free: float | None = None, name: str = "RTX 3090") -> Gpu:
    """Sizes in GiB."""
    return Gpu(
        index=index,
        uuid=f"GPU-{index:08}",
        name=name,
        vram_total_bytes=int(total * GIB),
        vram_used_bytes=int((total - (total if free is None else free)) * GIB),
        driver="570.00",
    )

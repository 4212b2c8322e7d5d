"""What the real llama.cpp allocates for a model, against what is estimated from the model's head."""

import asyncio
import re
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

from contracts.config import Engine, Pool
from contracts.engines import ModelFormat, ResolvedModel
from model_provisioner import local
from pool_managerd.footprint import MIB, footprint, kv_cache_bytes
from tests.support.tiny_gguf import write_tiny_gguf

pytest.importorskip("xllamacpp")

SAY = """
import signal, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.verbosity, params.warmup = int(sys.argv[2]), int(sys.argv[3]), 4, False
if sys.argv[4] != "f16":
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{sys.argv[4].upper()}")
server = xllamacpp.Server(params)
signal.pause()
"""
LAST = b"listening on "
"""A thread of its own writes what is said, in order: with this line all that was said before is there."""
SIZE = re.compile(r": +\S+ (KV|model|compute) buffer size = +([\d.]+) MiB")


def resolved(path: Path) -> ResolvedModel:
    found = local.inspect(str(path))
    facts = found.facts
    return ResolvedModel(
        id="tiny",
        ref=str(path),
        local_path=str(path),
        size_bytes=found.size_bytes,
        digest="sha256:" + "0" * 64,
        layers=facts.layers,
        heads=facts.heads,
        embedding=facts.embedding,
        vocabulary=facts.vocabulary,
        format=ModelFormat.GGUF,
        kv=facts.kv,
        weights=found.weights,
    )


async def allocated(path: Path, ctx: int, slots: int, cache: str) -> dict[str, float]:
    """MiB of KV cache, weights and compute buffer, as the engine prints them; the last load counts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SAY, str(path), str(ctx * slots), str(slots), cache),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = b""
    try:
        async for line in process.stdout:
            output += line
            if LAST in line:
                break
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    text = output.decode(errors="replace")
    loaded = text[text.rindex("load_tensors: ", 0, text.index("KV buffer", text.rindex("loading model tensors"))) :]
    sizes = {"KV": 0.0, "model": 0.0, "compute": 0.0}
    for kind, size in SIZE.findall(loaded):
        sizes[kind] += float(size)
    return sizes


def write_windowed(path: Path) -> Path:
    """Gemma 3 in little: 12 layers, of which two remember everything; heads of 64, of which 2 are for the cache."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "gemma3")
    tokens = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    writer.add_context_length(131_072)
    writer.add_embedding_length(128)
    writer.add_block_count(12)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(64)
    writer.add_value_length(64)
    writer.add_sliding_window(512)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([int(kind) for _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.standard_normal(shape, dtype=np.float32) / 10)

    add("token_embd.weight", len(tokens), 128)
    add("output_norm.weight", 128)
    for layer in range(12):
        blk = f"blk.{layer}."
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            add(f"{blk}{norm}.weight", 128)
        for norm in ("attn_q_norm", "attn_k_norm"):
            add(f"{blk}{norm}.weight", 64)
        add(f"{blk}attn_q.weight", 256, 128)
        add(f"{blk}attn_k.weight", 128, 128)
        add(f"{blk}attn_v.weight", 128, 128)
        add(f"{blk}attn_output.weight", 128, 256)
        for part in ("ffn_gate", "ffn_up", "ffn_down"):
            add(f"{blk}{part}.weight", 128, 128)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("plain") / "tiny.gguf", dim=256, ctx=65_536)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_windowed(tmp_path_factory.mktemp("windowed") / "tiny.gguf")


@pytest.mark.req("PM-02")
@pytest.mark.parametrize("kind", ["plain", "windowed"])
@pytest.mark.parametrize(
    ("ctx", "slots", "cache"), [(8192, 1, "f16"), (1000, 3, "f16"), (512, 2, "f16"), (4096, 2, "q8_0")]
)
async def test_the_kv_cache_is_as_estimated(
    request: pytest.FixtureRequest, kind: str, ctx: int, slots: int, cache: str
) -> None:
    path: Path = request.getfixturevalue(kind)
    model = resolved(path)
    flags = ("--cache-type-k", cache, "--cache-type-v", cache)
    pool = Pool(id="main", engine=Engine.LLAMACPP, model=str(path), ctx=ctx, slots=slots, flags=flags)
    real = await allocated(path, ctx, slots, cache)
    assert kv_cache_bytes(model.kv, pool) / MIB == pytest.approx(real["KV"], abs=0.02)
    found = footprint(model, pool)
    assert found is not None
    # With too little of a model in it the buffer is all logits and mask: never less is estimated, and not much more.
    assert real["compute"] * MIB <= found.compute <= 3 * real["compute"] * MIB + 8 * MIB


@pytest.mark.req("PM-02", "MP-05")
async def test_the_weights_are_as_estimated(plain: Path, windowed: Path) -> None:
    weights = resolved(plain).weights
    assert weights is not None
    real = await allocated(plain, 512, 1, "f16")
    assert (weights.layers + weights.output + weights.input) / MIB == pytest.approx(real["model"], abs=0.02)
    tied = resolved(windowed).weights
    assert tied is not None
    real = await allocated(windowed, 512, 1, "f16")
    assert (tied.layers + tied.output) / MIB == pytest.approx(real["model"], abs=0.02)  # mapped once for both

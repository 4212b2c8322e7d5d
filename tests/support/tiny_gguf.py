"""Random models of the llama architecture, for the real llama.cpp: gibberish that depends on every weight and token.

The first dimension of the residual stream is held constant and serves as a bias on the output, so that byte and control
tokens are never drawn and a generation ends only by its limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

Matrix = npt.NDArray[np.float32]
CONSTANT = 3.0
NEVER = -20.0
SPACE = "\u2581"
HEADS, KV_HEADS = 4, 2
CHAT_TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "


def write_tiny_gguf(
    path: Path,
    *,
    layers: int = 2,
    dim: int = 64,
    ctx: int = 2048,
    seed: int = 1,
    split: int = 0,
    yarn: int = 0,
    template: str | Sequence[Mapping[str, str]] = CHAT_TEMPLATE,
) -> Path:
    """Write one: 2 layers of 64 make thousands of tokens a second, 8 of 512 are slow enough to be killed meanwhile.

    With ``split`` there are so many tensors in each file, whose name has which part it is. With ``yarn`` the context is
    that many times what it was before positions were scaled.
    """
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    if yarn:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(yarn)
        writer.add_rope_scaling_orig_ctx_len(ctx // yarn)
    tokens = _vocabulary()
    _facts(writer, layers=layers, dim=dim, ctx=ctx, tokens=tokens)
    writer.add_chat_template(template)
    kinds = np.array([int(kind) for _, _, kind in tokens])
    for name, values in _weights(np.random.default_rng(seed), layers, dim, kinds).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def slow_model(factory: pytest.TempPathFactory) -> Path:
    """A model of some hundred tokens a second, made once for all tests of a run."""
    path = factory.getbasetemp() / "slow.gguf"
    return path if path.exists() else write_tiny_gguf(path, layers=8, dim=512, ctx=1024)


def _vocabulary() -> list[tuple[str, float, gguf.TokenType]]:
    kinds = gguf.TokenType
    tokens = [("<unk>", 0.0, kinds.UNKNOWN), ("<s>", 0.0, kinds.CONTROL), ("</s>", 0.0, kinds.CONTROL)]
    tokens += [(f"<0x{byte:02X}>", 0.0, kinds.BYTE) for byte in range(256)]
    characters = [SPACE, "\n", *(chr(code) for code in range(33, 127))]
    return tokens + [(text, -1000.0 - rank, kinds.NORMAL) for rank, text in enumerate(characters)]


def _facts(
    writer: gguf.GGUFWriter, *, layers: int, dim: int, ctx: int, tokens: list[tuple[str, float, gguf.TokenType]]
) -> None:
    writer.add_context_length(ctx)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * dim)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(dim // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([int(kind) for _, _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def _weights(rng: np.random.Generator, layers: int, dim: int, kinds: npt.NDArray[np.int64]) -> dict[str, Matrix]:
    def matrix(rows: int, columns: int, gain: float = 1.0) -> Matrix:
        values: Matrix = (rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(np.float32)
        return values

    def adding(values: Matrix) -> Matrix:
        """A matrix that writes to the residual stream, but never to its constant dimension."""
        values[0, :] = 0.0
        return values

    embedding = rng.standard_normal((len(kinds), dim)).astype(np.float32)
    embedding[:, 0] = CONSTANT
    output = matrix(len(kinds), dim, gain=2.0)
    output[:, 0] = np.where(kinds == int(gguf.TokenType.NORMAL), 0.0, NEVER)
    one: Matrix = np.ones(dim, dtype=np.float32)
    tensors = {"token_embd.weight": embedding, "output_norm.weight": one, "output.weight": output}
    shared = dim * KV_HEADS // HEADS
    for block in (f"blk.{number}." for number in range(layers)):
        tensors |= {
            block + "attn_norm.weight": one,
            block + "attn_q.weight": matrix(dim, dim),
            block + "attn_k.weight": matrix(shared, dim),
            block + "attn_v.weight": matrix(shared, dim),
            block + "attn_output.weight": adding(matrix(dim, dim)),
            block + "ffn_norm.weight": one,
            block + "ffn_gate.weight": matrix(2 * dim, dim),
            block + "ffn_up.weight": matrix(2 * dim, dim),
            block + "ffn_down.weight": adding(matrix(dim, 2 * dim)),
        }
    return tensors

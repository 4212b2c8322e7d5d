"""The head of Llama 3.1 8B Instruct in Q4_K_M, as llama.cpp's own tools write it: no weights, all the numbers."""

from __future__ import annotations

from tests.unit.model_provisioner.heads import STRING, U32, array, head, key, number, tensor, text

ARRAY = 9
F32, Q4_K, Q6_K = 0, 12, 14
VOCABULARY, EMBEDDING, FEED_FORWARD, KV = 128_256, 4096, 14_336, 1024
LAYERS = 32
_SIZES = {F32: (1, 4), Q4_K: (256, 144), Q6_K: (256, 210)}


def _better(layer: int) -> int:
    """Q4_K_M gives half of the layers more bits in two of their tensors."""
    eighth = LAYERS // 8
    return Q6_K if layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2 else Q4_K


def _tensors() -> list[tuple[str, list[int], int]]:
    found = [
        ("rope_freqs.weight", [64], F32),
        ("token_embd.weight", [EMBEDDING, VOCABULARY], Q4_K),
        ("output_norm.weight", [EMBEDDING], F32),
        ("output.weight", [EMBEDDING, VOCABULARY], Q6_K),
    ]
    for layer in range(LAYERS):
        found += [
            (f"blk.{layer}.{name}.weight", shape, kind)
            for name, shape, kind in (
                ("attn_norm", [EMBEDDING], F32),
                ("attn_q", [EMBEDDING, EMBEDDING], Q4_K),
                ("attn_k", [EMBEDDING, KV], Q4_K),
                ("attn_v", [EMBEDDING, KV], _better(layer)),
                ("attn_output", [EMBEDDING, EMBEDDING], Q4_K),
                ("ffn_norm", [EMBEDDING], F32),
                ("ffn_gate", [EMBEDDING, FEED_FORWARD], Q4_K),
                ("ffn_up", [EMBEDDING, FEED_FORWARD], Q4_K),
                ("ffn_down", [FEED_FORWARD, EMBEDDING], _better(layer)),
            )
        ]
    return found


def write_head() -> bytes:
    """The bytes of the head; a file of it would go on for 4.58 GiB."""
    tensors, offset = [], 0
    for name, shape, kind in _tensors():
        tensors.append(tensor(name, shape, kind, offset))
        block, size = _SIZES[kind]
        weights = shape[0] * (shape[1] if len(shape) > 1 else 1)
        offset += -(-(weights // block * size) // 32) * 32
    numbers = {
        "llama.block_count": LAYERS,
        "llama.context_length": 131_072,
        "llama.embedding_length": EMBEDDING,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "general.file_type": 15,
    }
    return head(
        key("general.architecture", STRING, text("llama")),
        *(key(name, U32, number(U32, value)) for name, value in numbers.items()),
        key("tokenizer.ggml.tokens", ARRAY, array(STRING, [text("")] * VOCABULARY)),
        tensors=tuple(tensors),
    )

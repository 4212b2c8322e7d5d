"""Documents that are right, to begin from: one or more for each target."""

from __future__ import annotations

import json
import struct
from types import MappingProxyType

from tests.unit.model_provisioner.heads import (
    ARRAY,
    BOOL,
    LLAMA_8B,
    STRING,
    U32,
    array,
    head,
    key,
    number,
    tensor,
    text,
)


def _gguf(*more: bytes, tensors: tuple[bytes, ...] = ()) -> bytes:
    numbers = {"context_length": 4096, "block_count": 4, "embedding_length": 64, "attention.head_count": 4}
    return head(
        key("general.architecture", STRING, text("gemma3")),
        key("general.file_type", U32, number(U32, 15)),
        *(key(f"gemma3.{name}", U32, number(U32, value)) for name, value in numbers.items()),
        *more,
        tensors=tensors
        or (
            tensor("token_embd.weight", [256, 8], kind=12, offset=0),
            tensor("blk.0.ffn_up_exps.weight", [256], kind=14, offset=1152),
            tensor("output.weight", [64, 4], kind=0, offset=1376),
        ),
    )


def _part(no: int, count: int, tensors: int) -> bytes:
    numbers = {"split.no": no, "split.count": count, "split.tensors.count": tensors}
    keys = [key(name, 2, number(2, value)) for name, value in numbers.items()]
    return head(*keys, tensors=(tensor(f"blk.{no}.w", [64]),))


def _parts(*parts: bytes) -> bytes:
    return bytes([len(parts)]) + b"".join(struct.pack("<H", len(part)) + part for part in parts)


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


_ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
_LAYERS = ["sliding_attention", "full_attention", "linear_attention", "sliding_attention"]
_LANGUAGE = {**LLAMA_8B, "rope_parameters": {"full_attention": _ROPE}}
_TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

SEEDS: MappingProxyType[str, tuple[bytes, ...]] = MappingProxyType(
    {
        "gguf_head": (
            _gguf(),
            _gguf(
                key("tokenizer.ggml.model", STRING, text("gpt2")),
                key("tokenizer.ggml.pre", STRING, text("llama-bpe")),
                key("tokenizer.ggml.tokens", ARRAY, array(STRING, [text("a"), text("bc"), text("")])),
                key("tokenizer.chat_template", STRING, text("{{ messages }}")),
                key("tokenizer.chat_template.tool_use", STRING, text("{{ tools }}")),
                key("tokenizer.chat_templates", ARRAY, array(STRING, [text("tool_use")])),
            ),
            _gguf(
                key("gemma3.attention.head_count_kv", ARRAY, array(U32, [number(U32, n) for n in (2, 0, 1, 2)])),
                key("gemma3.attention.sliding_window", U32, number(U32, 512)),
                key("gemma3.attention.sliding_window_pattern", ARRAY, array(BOOL, [b"\1", b"\0"])),
                key("gemma3.ssm.inner_size", U32, number(U32, 64)),
                key("nested", ARRAY, array(ARRAY, [array(STRING, [text("a")]), array(U32, [])])),
            ),
        ),
        "split": (_parts(_part(0, 2, 2), _part(1, 2, 2)), _parts(_part(0, 1, 1))),
        "safetensors_head": (
            _json({"__metadata__": {"format": "pt"}, "a": _TENSOR, "b": {**_TENSOR, "data_offsets": [8, 16]}}),
            b"{}",
        ),
        "safetensors_index": (
            _json({"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "2.safetensors"}}),
        ),
        "config_json": (
            _json(LLAMA_8B),
            _json({**LLAMA_8B, "rope_scaling": _ROPE, "quantization_config": {"quant_method": "awq", "bits": 4}}),
            _json({**LLAMA_8B, "num_hidden_layers": 4, "layer_types": _LAYERS, "sliding_window": 128}),
            _json({"architectures": ["DeepseekV3ForCausalLM"], "kv_lora_rank": 512, "num_hidden_layers": 61}),
            _json(
                {"architectures": ["Gemma3"], "text_config": {**LLAMA_8B, "rope_parameters": {"full_attention": _ROPE}}}
            ),
        ),
        "tokenizer_config": (
            _json({"tokenizer_class": "LlamaTokenizer", "model_max_length": 4096, "chat_template": "{{ messages }}"}),
            _json({"chat_template": [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]}),
        ),
    }
)

"""Models for the tests: GGUF files by the `gguf` package, heads made by hand, right or wrong, and directories."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from model_provisioner.gguf import Facts, read
from model_provisioner.gguf_head import Wanted

STRING, ARRAY, U32, I32, F32, BOOL = 8, 9, 4, 5, 6, 7
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def write_model(
    path: Path, *, name: str = "Haiku", vocabulary: int = 300, template: bool = True, split: int = 0
) -> Path:
    """A small llama with random weights, whole: 2 layers of 64, 4 heads of which 2 are for keys and values.

    With ``split`` there are so many tensors in a file, of three in all, and the name has which part it is.
    """
    rng = np.random.default_rng(seed=len(name))
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    writer.add_name(name)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{number}>" for number in range(vocabulary)])
    writer.add_token_scores([0.0] * vocabulary)
    writer.add_token_types([1] * vocabulary)
    writer.add_bool("tokenizer.ggml.add_bos_token", val=True)
    if template:
        writer.add_chat_template("{{ messages }}")
    writer.add_tensor("token_embd.weight", rng.random((vocabulary, 64), dtype=np.float32).astype(np.float16))
    writer.add_tensor("output_norm.weight", rng.random(64, dtype=np.float32))
    writer.add_tensor("blk.0.attn_q.weight", rng.random((64, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def parse(data: bytes, asked: list[Wanted] | None = None) -> Facts:
    """What the head of a whole file in memory says; ``asked`` gets what was asked for. Raises GgufError."""
    reading = read(len(data))
    try:
        wanted = next(reading)
        while True:
            if asked is not None:
                asked.append(wanted)
            wanted = reading.send(data[wanted.at : wanted.at + wanted.size])
    except StopIteration as done:
        facts: Facts = done.value
        return facts


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def number(kind: int, value: float) -> bytes:
    return struct.pack(f"<{FORMATS[kind]}", value)


def array(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    dimensions = b"".join(struct.pack("<Q", size) for size in shape)
    return text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)


def head(*keys: bytes, tensors: tuple[bytes, ...] = (), **fixed: Any) -> bytes:  # noqa: ANN401 - any of three integers
    """A head of these keys and tensors; ``version``, ``tensor_count`` and ``key_count`` may say something else."""
    counts = (fixed.get("tensor_count", len(tensors)), fixed.get("key_count", len(keys)))
    return b"GGUF" + struct.pack("<IQQ", fixed.get("version", 3), *counts) + b"".join(keys) + b"".join(tensors)


LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
"""The config.json of Llama 3.1 8B, as far as it matters here."""


def safetensors(size: int) -> bytes:
    """A file with one tensor of so many bytes."""
    tensor_head = {"__metadata__": {"format": "pt"}, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    encoded = json.dumps(tensor_head).encode()
    return struct.pack("<Q", len(encoded)) + encoded + b"\7" * size


def write_directory(path: Path, config: dict[str, Any] | None = None, *, shards: int = 2) -> Path:
    """A model directory in Hugging Face layout; more than one shard come with their index."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(LLAMA_8B if config is None else config))
    (path / "tokenizer.json").write_text("{}")
    (path / "README.md").write_text("Not a part of the model.")
    names = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    if shards == 1:
        names = ["model.safetensors"]
    else:
        weight_map = {f"w{number}": name for number, name in enumerate(names)}
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for number, name in enumerate(names):
        (path / name).write_bytes(safetensors(100 + number))
    return path

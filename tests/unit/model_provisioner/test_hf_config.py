"""What a config.json says, under whichever name, and that nothing in one can do harm."""

import json
from typing import Any

import pytest

from contracts.engines import KvLayout
from model_provisioner.hf_config import MAX_CONFIG_BYTES, Facts, parse
from model_provisioner.json_fields import ConfigError
from tests.unit.model_provisioner.heads import LLAMA_8B

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


def facts(**document: object) -> Facts:
    return parse(json.dumps(document).encode())


@pytest.mark.req("MP-05")
def test_llama_3_1_8b() -> None:
    assert facts(**LLAMA_8B) == Facts(
        arch="LlamaForCausalLM",
        ctx_max=131_072,
        quant="bfloat16",
        layers=32,
        heads=32,
        kv_heads=8,
        embedding=4096,
        key_length=128,
        value_length=128,
        vocabulary=128_256,
        kv=KvLayout(key=32 * 8 * 128, value=32 * 8 * 128),
    )


@pytest.mark.req("MP-05")
def test_older_models_have_other_names_for_the_same() -> None:
    found = facts(model_type="gpt2", n_embd=768, n_layer=12, n_head=12, n_positions=1024, vocab_size=50257)
    assert (found.arch, found.embedding, found.layers, found.heads, found.kv_heads) == ("gpt2", 768, 12, 12, 12)
    assert (found.ctx_max, found.key_length, found.quant) == (1024, 64, None)
    falcon = facts(
        model_type="falcon", hidden_size=4544, num_hidden_layers=32, num_attention_heads=71, multi_query=True
    )
    assert falcon.kv == KvLayout(key=32 * 64, value=32 * 64)


@pytest.mark.req("MP-05")
def test_the_language_part_of_a_model_that_sees_is_what_counts() -> None:
    text = {"num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
    text |= {"hidden_size": 2560, "sliding_window": 1024, "sliding_window_pattern": 6}
    found = facts(
        architectures=["Gemma3ForConditionalGeneration"],
        hidden_size=99,
        text_config=text,
        quantization_config={"quant_method": "awq", "bits": 4},
        torch_dtype="float16",
    )
    assert (found.arch, found.quant, found.embedding) == ("Gemma3ForConditionalGeneration", "awq", 2560)
    assert found.kv == KvLayout(key=1024, value=1024, windowed_key=5120, windowed_value=5120, window=1024)


@pytest.mark.req("MP-05")
def test_layers_may_differ() -> None:
    base: dict[str, Any] = {**LLAMA_8B, "num_hidden_layers": 4, "sliding_window": 128}
    kinds = ["sliding_attention", "full_attention", "linear_attention", "sliding_attention"]
    assert facts(**base, layer_types=kinds).kv == KvLayout(
        key=1024, value=1024, windowed_key=2048, windowed_value=2048, window=128
    )
    everything = KvLayout(key=4096, value=4096)
    assert facts(**base).kv == everything  # which layers have the window is not said
    assert facts(**base, use_sliding_window=False, layer_types=kinds[:2] * 2).kv == everything
    assert facts(**base, layer_types="all").kv == everything


@pytest.mark.req("MP-05")
def test_latent_attention_and_experts() -> None:
    found = facts(
        architectures=["DeepseekV2ForCausalLM"],
        num_hidden_layers=27,
        num_attention_heads=16,
        num_key_value_heads=16,
        hidden_size=2048,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        n_routed_experts=64,
        first_k_dense_replace=1,
    )
    assert found.kv == KvLayout(key=27 * 576)
    assert (found.experts, found.dense_layers) == (64, 1)


@pytest.mark.req("MP-05")
@pytest.mark.parametrize(
    ("document", "limit", "context"),
    [
        ({}, None, None),
        ({}, 512, 512),
        ({"max_position_embeddings": 8192}, None, 8192),
        ({"max_position_embeddings": 8192, "seq_length": 2048}, None, 2048),
        ({"n_positions": 1024, "n_ctx": 512}, None, 1024),
        ({"n_ctx": 512}, None, 512),
        ({"max_position_embeddings": 8192}, 4096, 4096),
        # Command-R: one number for what it can do, another for what it was made with
        ({"max_position_embeddings": 8192, "model_max_length": 131_072}, None, 131_072),
        ({"max_position_embeddings": 8192, "model_max_length": 131_072}, 4096, 131_072),
        # Qwen 2.5, told to stretch
        ({"max_position_embeddings": 32_768, "rope_scaling": YARN}, None, 131_072),
        ({"max_position_embeddings": 40_960, "rope_parameters": {**YARN, "rope_theta": 1e6}}, 40_960, 131_072),
        ({"max_position_embeddings": 40_960, "rope_scaling": {"type": "yarn", "factor": 2}}, None, 81_920),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.5}}, None, 10_240),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "dynamic", "factor": 2}}, None, 8192),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "mrope", "factor": None}}, None, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, None, 4096),
        # Llama 3.1 and Phi 3.5: the factor is in the number already
        ({"max_position_embeddings": 131_072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, None, 131_072),
        ({"max_position_embeddings": 131_072, "rope_scaling": {"type": "longrope"}}, None, 131_072),
        # Gemma 3: as well
        (
            {
                "model_type": "gemma3_text",
                "max_position_embeddings": 131_072,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
            None,
            131_072,
        ),
        # one for each kind of layer
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 4.0},
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            None,
            16_384,
        ),
        # a sliding window leaves the context as it is
        ({"max_position_embeddings": 131_072, "sliding_window": 1024}, None, 131_072),
        ({"text_config": {"max_position_embeddings": 4096}, "max_position_embeddings": 9}, None, 4096),
    ],
    ids=range(22),
)
def test_the_context_is_the_most_that_vllm_gives(
    document: dict[str, object], limit: int | None, context: int | None
) -> None:
    assert parse(json.dumps({"model_type": "x", **document}).encode(), limit).ctx_max == context


def test_where_the_document_does_not_say_enough_there_is_no_layout() -> None:
    assert facts(model_type="x").kv is None
    assert facts(model_type="x", num_attention_heads=4, hidden_size=64).kv is None
    assert facts(model_type="x", num_attention_heads=4, hidden_size=64, num_hidden_layers=2**31 - 1).kv is None


@pytest.mark.req("MP-05")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is no JSON"),
        (b"<!DOCTYPE html>", "it is no JSON"),
        (b'{"model_type": "\xff"}', "it is no JSON: it is no UTF-8"),
        (b"[" * 100_000, "it is no JSON"),
        (b"[]", "it is no JSON object"),
        (b"{}", "it names neither architectures nor model_type"),
        (b" " * (MAX_CONFIG_BYTES + 1), "it is longer than 4 MiB"),
        (b'{"model_type": 7}', "model_type is 7, which is no text"),
        (b'{"architectures": "Llama"}', 'architectures is "Llama", which is no list of names'),
        (b'{"architectures": [7]}', "architectures is a list, which is no list of names"),
        (b'{"model_type": "x", "num_hidden_layers": "12"}', 'num_hidden_layers is "12", which is no whole number'),
        (b'{"model_type": "x", "num_hidden_layers": true}', "num_hidden_layers is true, which is no whole number"),
        (b'{"model_type": "x", "num_hidden_layers": -1}', "num_hidden_layers is -1"),
        (b'{"model_type": "x", "hidden_size": 1e300}', "hidden_size is 1e300"),
        (b'{"model_type": "x", "hidden_size": 1e400}', "hidden_size is 1e400, which cannot be read"),
        (b'{"model_type": "x", "hidden_size": %s}' % (b"9" * 5000), "hidden_size is 999.*, which cannot be read"),
        (b'{"model_type": "x", "hidden_size": NaN}', "it is no JSON"),
        (b'{"model_type": "x", "hidden_size": "%s"}' % (b"9" * 300_000), "hidden_size is longer than 256 KiB"),
        (b'{"model_type": "x", "text_config": {"hidden_size": []}}', "hidden_size is a list, which is no whole"),
        (b'{"model_type": "x", "n_ctx": 9, "rope_scaling": {"factor": "4"}}', 'factor is "4", which is no number'),
        (b'{"model_type": "x", "n_ctx": 9, "rope_scaling": {"factor": 1e200}}', "rope_scaling stretches the context"),
        (b'{"model_type": "x", "n_ctx": 9, "rope_scaling": {"factor": -1}}', "rope_scaling stretches the context"),
        (b'{"model_type": "x", "hidden_size": {}}', "hidden_size is an object, which is no whole number"),
        (b'{"model_type": "x", "torch_dtype": 16}', "torch_dtype is 16, which is no text"),
        (b'{"model_type": "x", "quantization_config": 4}', "quantization_config is 4, which is no object"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value[:40],
)
def test_a_hostile_document_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        parse(data)


def test_a_name_cannot_do_anything_to_a_terminal() -> None:
    assert facts(architectures=["\x1b[2J" + "a" * 500]).arch == "?[2J" + "a" * 124
    assert facts(architectures=[], model_type="llama").arch == "llama"

"""What a config.json says, under whichever name, and that nothing in one can do harm."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.engines import KvLayout
from model_provisioner.hf_config import MAX_CONFIG_BYTES, ConfigError, Facts, parse
from tests.unit.model_provisioner.heads import LLAMA_8B


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
        (b'{"model_type": "\xff"}', "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b"[]", "it is no JSON object"),
        (b"{}", "it names neither architectures nor model_type"),
        (b" " * (MAX_CONFIG_BYTES + 1), "it is longer than 4 MiB"),
        (b'{"model_type": 7}', "model_type is 7, which is no text"),
        (b'{"architectures": "Llama"}', "architectures is 'Llama', which is no list of names"),
        (b'{"architectures": [7]}', "architectures is a list, which is no list of names"),
        (b'{"model_type": "x", "num_hidden_layers": "12"}', "num_hidden_layers is '12', which is no whole number"),
        (b'{"model_type": "x", "num_hidden_layers": true}', "num_hidden_layers is True, which is no whole number"),
        (b'{"model_type": "x", "num_hidden_layers": -1}', "num_hidden_layers is -1"),
        (b'{"model_type": "x", "hidden_size": 1e300}', "hidden_size is 1000"),
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


NAMES = [*sorted(LLAMA_8B), "head_dim", "kv_lora_rank", "layer_types", "sliding_window", "text_config", "num_experts"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.req("MP-05")
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING))
def test_whatever_the_values_are_it_ends_in_facts_or_an_error(document: dict[str, object]) -> None:
    try:
        found = parse(json.dumps(document).encode())
    except ConfigError:
        return
    assert found.kv is None or min(found.kv.key, found.kv.value, found.kv.windowed_key) >= 0

"""What a head says of memory: the sizes of its parts, and what a token costs in the KV cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.engines import KvLayout, WeightSizes
from model_provisioner.errors import GgufError
from model_provisioner.gguf import Facts
from model_provisioner.kv_layout import MAX_LAYERS, Layers, every, layout
from tests.unit.model_provisioner.heads import (
    ARRAY,
    BOOL,
    I32,
    STRING,
    U32,
    array,
    head,
    key,
    number,
    parse,
    tensor,
    text,
)
from tests.unit.model_provisioner.llama8b import write_head

MIB = 1 << 20


def model(arch: str, tensors: tuple[bytes, ...] = (), /, **numbers: int | list[int] | list[bool]) -> Facts:
    keys = [key("general.architecture", STRING, text(arch))]
    for name, value in numbers.items():
        full = f"{arch}.{name.replace('__', '.')}"
        if isinstance(value, list):
            kind = BOOL if isinstance(value[0], bool) else I32
            keys.append(key(full, ARRAY, array(kind, [number(kind, each) for each in value])))
        else:
            keys.append(key(full, U32, number(U32, value)))
    return parse(head(*keys, tensors=tensors))


@pytest.mark.req("MP-05", "PM-02")
def test_llama_3_1_8b_is_as_large_as_llama_cpp_says() -> None:
    found = parse(write_head())
    assert found.weights is not None
    offloaded = found.weights.layers + found.weights.output
    # llama.cpp: "CUDA0 model buffer size = 4403.49 MiB", "CPU_Mapped model buffer size = 281.81 MiB"
    assert round(offloaded / MIB, 2) == 4403.49
    assert round(found.weights.input / MIB, 2) == 281.81
    assert (found.vocabulary, found.key_length, found.layers, found.experts) == (128_256, 128, 32, None)
    assert found.kv == KvLayout(key=32 * 8 * 128, value=32 * 8 * 128)


@pytest.mark.req("MP-05")
@pytest.mark.parametrize(
    ("arch", "numbers", "expected"),
    [
        pytest.param(
            "gemma3",  # 12B: every sixth layer remembers everything
            {"block_count": 48, "attention__head_count": 16, "attention__head_count_kv": 8, "embedding_length": 3840}
            | {"attention__key_length": 256, "attention__value_length": 256, "attention__sliding_window": 1024},
            KvLayout(key=16384, value=16384, windowed_key=81920, windowed_value=81920, window=1024),
            id="windows where the engine decides",
        ),
        pytest.param(
            "gpt-oss",  # 20b
            {"block_count": 24, "attention__head_count": 64, "attention__head_count_kv": 8, "embedding_length": 2880}
            | {"attention__key_length": 64, "attention__value_length": 64, "attention__sliding_window": 128},
            KvLayout(key=6144, value=6144, windowed_key=6144, windowed_value=6144, window=128),
            id="every second layer",
        ),
        pytest.param(
            "gemma4",
            {"block_count": 4, "attention__head_count": 8, "attention__head_count_kv": [2, 2, 2, 1]}
            | {"attention__sliding_window": 512, "attention__sliding_window_pattern": [True, True, True, False]}
            | {"attention__key_length": 512, "attention__value_length": 512, "attention__shared_kv_layers": 1}
            | {"attention__key_length_swa": 256, "attention__value_length_swa": 256},
            KvLayout(windowed_key=3 * 2 * 256, windowed_value=3 * 2 * 256, window=512),
            id="windows by layer, other heads in them, a shared layer",
        ),
        pytest.param(
            "deepseek2",  # V2 Lite: keys and values are one
            {"block_count": 27, "attention__head_count": 16, "attention__head_count_kv": 1, "embedding_length": 2048}
            | {"attention__key_length": 576, "attention__value_length": 512, "attention__key_length_mla": 192},
            KvLayout(key=27 * 576),
            id="latent attention",
        ),
        pytest.param(
            "jamba",
            {"block_count": 4, "attention__head_count": 8, "attention__head_count_kv": [0, 0, 2, 0]}
            | {"attention__key_length": 64, "attention__value_length": 64, "ssm__inner_size": 128}
            | {"ssm__state_size": 16, "ssm__conv_kernel": 4},
            KvLayout(key=128, value=128, state=3 * (128 * 16 + 3 * 128)),
            id="recurrent layers have no heads",
        ),
        pytest.param(
            "qwen3next",
            {"block_count": 8, "attention__head_count": 16, "attention__head_count_kv": 2, "full_attention_interval": 4}
            | {"attention__key_length": 256, "attention__value_length": 256, "ssm__inner_size": 4096}
            | {"ssm__state_size": 128, "ssm__conv_kernel": 4, "ssm__group_count": 16},
            KvLayout(key=2 * 512, value=2 * 512, state=6 * (4096 * 128 + 3 * (4096 + 2 * 16 * 128))),
            id="every fourth layer has attention",
        ),
        pytest.param(
            "phi3",
            {"block_count": 2, "attention__head_count": 4, "embedding_length": 64, "attention__sliding_window": 2047},
            KvLayout(key=128, value=128),
            id="a window that the engine does not use",
        ),
    ],
)
def test_a_token_costs_what_the_layers_remember(
    arch: str, numbers: dict[str, int | list[int]], expected: KvLayout
) -> None:
    assert model(arch, **numbers).kv == expected


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"block_count": 2},
        {"block_count": 2, "attention__head_count": 4},
        {"block_count": 2**31 - 1, "attention__head_count": 4, "embedding_length": 64},
    ],
    ids=["nothing", "layers", "no size", "layers without end"],
)
def test_where_the_head_does_not_say_enough_there_is_no_layout(numbers: dict[str, int]) -> None:
    assert model("llama", **numbers).kv is None


@pytest.mark.req("MP-05")
def test_experts_are_told_apart_and_a_missing_output_is_the_embeddings() -> None:
    tensors = (
        tensor("token_embd.weight", [10], offset=0),
        tensor("blk.0.ffn_up.weight", [3], offset=64),
        tensor("blk.1.ffn_gate_exps.weight", [5], offset=96),
        tensor("blk.1.ffn_up_shexp.weight", [1], offset=128),
    )
    found = model("qwen3moe", tensors, expert_count=128, leading_dense_block_count=1)
    assert found.weights == WeightSizes(layers=9 * 4, experts=5 * 4, output=10 * 4, input=10 * 4)
    assert (found.experts, found.dense_layers) == (128, 1)
    with_output = model("qwen3moe", (*tensors, tensor("output.weight", [7], offset=160)))
    assert with_output.weights == WeightSizes(layers=9 * 4, experts=5 * 4, output=7 * 4, input=10 * 4)
    unknown = model("qwen3moe", (*tensors, tensor("new", [7], kind=99, offset=160)))
    assert unknown.weights is None


def test_numbers_by_layer_that_are_none_are_an_error() -> None:
    base = {"block_count": 2, "attention__head_count": 4, "embedding_length": 64}
    with pytest.raises(GgufError, match=r"head_count_kv is -1"):
        model("llama", **base, attention__head_count_kv=[-1, -1])
    with pytest.raises(GgufError, match=r"head_count_kv is -1 to 2"):
        model("llama", **base, attention__head_count_kv=[2, -1])
    with pytest.raises(GgufError, match=r"sliding_window_pattern is no whole number"):
        parse(
            head(
                key("general.architecture", STRING, text("gemma3")),
                *(key(f"gemma3.{name.replace('__', '.')}", U32, number(U32, size)) for name, size in base.items()),
                key("gemma3.attention.sliding_window_pattern", ARRAY, array(STRING, [text("x")])),
            )
        )


def test_the_pattern_of_windows() -> None:
    assert every(3, 7) == (True, True, False, True, True, False, True)
    assert every(3, 4, first=True) == (False, True, True, False)
    assert every(0, 4) == every(2, 0) == every(2, MAX_LAYERS + 1) == ()


@given(
    count=st.integers(1, 200),
    kv_heads=st.lists(st.integers(0, 64), min_size=1, max_size=8),
    windowed=st.lists(st.booleans(), max_size=8),
    window=st.integers(0, 4096),
    shared=st.integers(0, 300),
)
def test_a_window_never_makes_a_token_cost_more(
    count: int, kv_heads: list[int], windowed: list[bool], window: int, shared: int
) -> None:
    plain = Layers(count=count, kv_heads=tuple(kv_heads), key=64, value=64)
    all_of_it = layout(plain)
    with_windows = layout(
        Layers(
            count=count,
            kv_heads=tuple(kv_heads),
            key=64,
            value=64,
            window=window,
            windowed=tuple(windowed),
            shared=shared,
        )
    )
    assert all_of_it is not None
    assert with_windows is not None
    assert 0 <= with_windows.key + with_windows.windowed_key <= all_of_it.key
    if not shared:
        assert with_windows.key + with_windows.windowed_key == all_of_it.key

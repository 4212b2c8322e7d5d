"""What engines need on their GPUs, against numbers that they print themselves, and when they are refused."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from contracts.config import Engine, Mode, Profile
from contracts.engines import KvLayout, PreparedEngine, ResolvedModel, WeightSizes
from contracts.pools import Cause, Gpu
from engine_provisioner.flags import flag_findings
from pool_managerd.devices import DeviceProcess, by_presence_alone, on_its_devices
from pool_managerd.footprint import count, footprint, said
from pool_managerd.ram import ram_refusal
from pool_managerd.vram import (
    Basis,
    Need,
    estimate,
    fits_beside,
    layers_refusal,
    least_on_gpu,
    memory_key,
    refusal,
    with_measured,
)
from tests.unit.pool_managerd.models import BF16_8B, GEMMA_12B, GIB, MIB, MIXTURE, gpu, model, pool


def need(of: ResolvedModel, *flags: str, engine: Engine = Engine.LLAMACPP, **changed: Any) -> Need:  # noqa: ANN401
    found = estimate(of, pool(*flags, engine=engine, **changed))
    assert found is not None
    return found


@pytest.mark.req("PM-02")
def test_llama_3_1_8b_at_8192_tokens() -> None:
    found = need(model(), ctx=8192)
    assert round(found.weights_bytes / MIB, 2) == 4403.49  # llama.cpp: CUDA0 model buffer size
    assert found.kv_bytes == GIB  # llama.cpp: KV buffer size = 1024.00 MiB
    assert 258.5 * MIB < found.compute_bytes < 300 * MIB  # llama.cpp: CUDA0 compute buffer size = 258.50 MiB
    assert found.basis is Basis.ESTIMATED
    assert found.total_bytes == sum((found.weights_bytes, found.kv_bytes, found.compute_bytes, found.overhead_bytes))
    assert 5.9 * GIB < found.total_bytes < 6.1 * GIB


@pytest.mark.req("PM-02")
@pytest.mark.parametrize(
    ("flags", "ctx", "slots", "mib"),
    [
        pytest.param((), 8192, 4, 4096, id="each slot has its own context"),
        pytest.param((), 1000, 1, 128, id="cells come in groups of 256"),
        pytest.param(("--cache-type-k", "q8_0", "--cache-type-v", "q8_0"), 8192, 1, 544, id="q8_0"),
        pytest.param(("-ctk=q8_0", "-ctv q4_0"), 8192, 1, 272 + 144, id="spellings"),
        pytest.param(("--cache_type_k", "f32"), 8192, 1, 1024 + 512, id="f32 keys"),
        pytest.param(("--cache-type-k", "q9_9"), 8192, 1, 1024, id="a type that is not known"),
        pytest.param(("--no-kv-offload",), 8192, 1, 0, id="in host memory"),
        pytest.param(("--n-gpu-layers", "17"), 8192, 1, 1024, id="whatever the layers"),
        pytest.param(("--no_kv_offload", "-kvo"), 8192, 1, 1024, id="the last one wins"),
    ],
)
def test_the_kv_cache_is_as_large_as_llama_cpp_makes_it(flags: tuple[str, ...], ctx: int, slots: int, mib: int) -> None:
    assert need(model(), *flags, ctx=ctx, slots=slots).kv_bytes == mib * MIB


@pytest.mark.req("PM-02")
def test_a_sliding_window_remembers_the_window_and_one_batch() -> None:
    # llama.cpp on Gemma 3 12B: 32768 cells of 8 layers, and pad(1024 + 512) = 1536 cells of 40
    assert need(GEMMA_12B, ctx=32_768).kv_bytes == 2048 * MIB + 480 * MIB
    assert need(GEMMA_12B, "--swa-full", ctx=32_768).kv_bytes == 2048 * MIB + 10_240 * MIB
    assert need(GEMMA_12B, ctx=1024).kv_bytes == 64 * MIB + 320 * MIB
    state = replace(model(), kv=KvLayout(state=MIB))
    assert need(state, slots=2).kv_bytes == 8 * MIB


@pytest.mark.req("PM-02")
def test_experts_alone_stay_off_the_gpus() -> None:
    assert need(model()).weights_bytes == 4_186_439_936 + 430_956_544
    assert (need(model()).layers, need(model()).output_bytes) == (32, 430_956_544)
    assert need(MIXTURE, "--cpu-moe").weights_bytes == GIB + GIB // 2
    assert need(MIXTURE, "--n-cpu-moe", "12").weights_bytes == GIB + GIB // 2 + 12 * GIB
    assert need(MIXTURE, "--n-cpu-moe", "99").weights_bytes == GIB + GIB // 2
    assert need(replace(MIXTURE, dense_layers=24), "--n-cpu-moe", "36").weights_bytes == GIB + GIB // 2 + 8 * GIB
    assert need(replace(MIXTURE, dense_layers=48), "--n-cpu-moe", "9").weights_bytes == 17 * GIB + GIB // 2
    silent = replace(MIXTURE, layers=None)
    assert need(silent).weights_bytes == 17 * GIB + GIB // 2
    assert need(silent, "--n-cpu-moe", "12").weights_bytes == GIB + GIB // 2
    assert need(silent, "--cpu-moe").weights_bytes == GIB + GIB // 2


@pytest.mark.req("PM-02")
def test_larger_batches_and_no_flash_attention_need_more_to_compute() -> None:
    usual = need(model()).compute_bytes
    assert need(model(), "--ubatch-size", "2048").compute_bytes == 4 * usual
    assert need(model(), "--ubatch-size", "4096").compute_bytes == 4 * usual  # a batch has 2048
    assert need(model(), "-fa", "off").compute_bytes == usual + 512 * 8192 * 32 * 4
    assert need(replace(model(), vocabulary=None, embedding=None, heads=None)).compute_bytes > 250 * MIB


def test_what_a_model_does_not_say_counts_as_nothing() -> None:
    silent = replace(model(), kv=None, weights=None, layers=None)
    found = need(silent)
    assert (found.weights_bytes, found.kv_bytes, found.layers) == (silent.size_bytes, 0, 0)
    assert refusal(found, (gpu(free=6), gpu(1, free=4)), None) is None
    assert need(replace(BF16_8B, kv=None, weights=None), engine=Engine.TGI).kv_bytes == 0


def test_nobody_estimates_what_somebody_else_runs() -> None:
    assert estimate(model(), pool(engine=Engine.OPENAI)) is None
    assert ram_refusal(model(), pool(engine=Engine.OPENAI), 0) is None


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-02")
def test_a_refusal_says_the_numbers_and_what_would_help() -> None:
    found = refusal(need(model(), ctx=32_768), (gpu(total=8, free=7.5, name="RTX 3060 Ti"),))
    assert found is not None
    assert found.cause is Cause.VRAM_SHORT
    assert found.message == (
        "the engine needs 8.99 GiB of VRAM (weights 4.30 GiB, KV cache 4.00 GiB for 32768 tokens, compute 0.31 GiB "
        "and CUDA 0.38 GiB), and GPU 0 (RTX 3060 Ti) has 7.50 GiB of 8.00 GiB free"
    )
    assert found.hint == (
        'set ctx: 16384, or keep the KV cache in fewer bits (flags: ["--cache-type-k", "q8_0", "--cache-type-v", '
        '"q8_0"]), or use a smaller quantization of the model, or give the pool another GPU'
    )


@pytest.mark.req("PM-02")
def test_what_others_hold_is_said_where_it_is_the_reason() -> None:
    found = refusal(need(model(), slots=2), (gpu(free=3),))
    assert found is not None
    assert "KV cache 2.00 GiB for 2 x 8192 tokens" in found.message
    assert found.hint.startswith("free what others use (21.00 GiB of GPU 0 (RTX 3090); nvidia-smi shows by whom), or ")
    assert "lower slots" in found.hint
    assert "set ctx" not in found.hint


@pytest.mark.req("PM-02", "ORCH-3820")
def test_each_gpu_of_the_mask_has_to_have_room_for_its_layers() -> None:
    big, small = gpu(0, total=24), gpu(1, total=12, name="RTX 3060")
    large = need(replace(model(), weights=WeightSizes(layers=30 * GIB)), ctx=8192)
    assert refusal(large, (big, small)) is None  # by free memory, 2:1
    assert refusal(large, (big, small), (2, 1)) is None
    found = refusal(large, (big, small), (1, 1))
    assert found is not None
    assert "GPU 1 (RTX 3060) would hold" in found.message
    assert "GPU 0" not in found.message
    assert "on each of 2 GPUs" in found.message
    assert "tensor_split" in found.hint
    assert refusal(large, (big,)) is not None
    assert refusal(large, (big, small), (0, 0)) is None  # as llama.cpp: all zeroes are no split
    assert refusal(large, ()) is None


@pytest.mark.req("PM-02")
def test_an_engine_on_one_gpu_of_several_needs_room_there() -> None:
    gpus = (gpu(0, free=1), gpu(1, free=7))
    assert refusal(need(model(), "--split-mode", "none", "--main-gpu", "1"), gpus) is None
    assert refusal(need(model(), "--split-mode", "none"), gpus) is not None
    assert refusal(need(model(), "--split-mode", "none", "--main-gpu", "7"), gpus) is not None


@pytest.mark.req("PM-02")
def test_vllm_takes_its_part_or_does_not_start() -> None:
    found = need(BF16_8B, engine=Engine.VLLM)
    assert found.kv_bytes == GIB  # one sequence of 8192 tokens
    assert refusal(found, (gpu(free=22),)) is None
    full = refusal(found, (gpu(free=20),))
    assert full is not None
    assert full.cause is Cause.VRAM_SHORT
    assert full.message == (
        "vllm takes 90% of each GPU, 21.60 GiB of GPU 0 (RTX 3090), which has 20.00 GiB of 24.00 GiB free"
    )
    assert '["--gpu-memory-utilization", "0.82"]' in full.hint
    assert refusal(need(BF16_8B, "--gpu-memory-utilization", "0.82", engine=Engine.VLLM), (gpu(free=20),)) is None
    small = refusal(found, (gpu(total=16),))
    assert small is not None
    assert (
        "vllm needs 16.74 GiB of GPU 0 (RTX 3090) (weights 14.96 GiB, KV cache 1.00 GiB for 8192 tokens"
        in small.message
    )
    assert "may have 90% of its 16.00 GiB: 14.40 GiB" in small.message
    assert "--kv-cache-dtype" in small.hint


@pytest.mark.req("PM-02")
def test_engines_on_pytorch_share_every_layer_out() -> None:
    two = (gpu(0, total=12), gpu(1, total=12))
    assert refusal(need(BF16_8B, engine=Engine.VLLM), two) is None
    assert refusal(need(BF16_8B, "--tensor-parallel-size=1", engine=Engine.VLLM), two) is not None
    assert need(BF16_8B, "--tensor-parallel-size", "2", engine=Engine.TRITON).width == 2
    assert need(BF16_8B, "-tp", "2", engine=Engine.TRITON).width is None  # tritonserver's own, and no argument of vLLM
    assert need(BF16_8B, engine=Engine.VLLM).width is None  # all of the mask
    assert need(BF16_8B, "-pp", "2", engine=Engine.VLLM).width == 2
    assert need(BF16_8B, "-pp", "2", "-tp", "2", engine=Engine.VLLM).width == 4
    assert refusal(need(BF16_8B, "--num-shard", "1", engine=Engine.TGI), two) is not None
    assert need(BF16_8B, "--kv-cache-dtype", "fp8", engine=Engine.VLLM).kv_bytes == GIB // 2
    assert need(BF16_8B, "--cpu-offload-gb", "10", engine=Engine.VLLM).weights_bytes == BF16_8B.size_bytes - 10 * GIB
    assert need(GEMMA_12B, engine=Engine.VLLM, ctx=32_768).kv_bytes == 2 * (32_768 * 32_768 + 3072 * 163_840)


@pytest.mark.req("PM-02")
def test_tgi_takes_what_is_free_and_needs_only_its_model() -> None:
    found = need(BF16_8B, engine=Engine.TGI)
    assert refusal(found, (gpu(free=20),)) is None
    assert refusal(found, (gpu(free=16),)) is not None
    assert refusal(need(BF16_8B, "--cuda-memory-fraction", "0.5", engine=Engine.TGI), (gpu(),)) is not None


def test_a_fraction_that_is_told_otherwise() -> None:
    told = estimate(BF16_8B, pool(engine=Engine.TRITON), fraction=0.5)
    assert told is not None
    assert told.fraction == 0.5
    for odd in ("much", "7", "-1"):
        assert need(BF16_8B, "--gpu-memory-utilization", odd, engine=Engine.VLLM).fraction == 0.9


# --- measured ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-02")
def test_what_was_measured_decides() -> None:
    found = need(model())
    measured = with_measured(found, 10 * GIB)
    assert (measured.basis, measured.total_bytes) == (Basis.MEASURED, 10 * GIB + 10 * GIB // 32)
    assert refusal(found, (gpu(free=7),)) is None
    refused = refusal(measured, (gpu(free=7),))
    assert refused is not None
    assert refused.message == (
        "the engine needs 10.31 GiB of VRAM (as an earlier start of the same was seen to hold 10.00 GiB), "
        "and GPU 0 (RTX 3090) has 7.00 GiB of 24.00 GiB free"
    )
    assert refusal(with_measured(found, 4 * GIB), (gpu(free=4.5),)) is None
    assert refusal(with_measured(found, 4 * GIB), (gpu(0, free=2.5), gpu(1, free=2.5))) is None
    assert with_measured(found, None) == with_measured(found, 0) == found
    reserving = need(BF16_8B, engine=Engine.VLLM)
    assert with_measured(reserving, 10 * GIB) == reserving


@pytest.mark.req("PM-02")
def test_a_second_engine_leaves_the_first_some_room() -> None:
    found = need(model())
    exact = found.total_bytes / GIB
    assert refusal(found, (gpu(free=exact + 0.01),)) is None
    assert not fits_beside(found, (gpu(free=exact + 0.01),))
    assert fits_beside(found, (gpu(free=exact * 1.06),))


@pytest.mark.req("ORCH-3803")
def test_a_proved_engine_holds_most_of_its_weights() -> None:
    assert least_on_gpu(need(model())) == int(need(model()).weights_bytes * 0.8)
    assert least_on_gpu(need(MIXTURE, "--cpu-moe")) == int(1.5 * GIB * 0.8)


LAYERS = [
    *("0", "00", "+0", "-0", "0.9", "", "0 ", "1", "12", "32", "33", "99", "999"),
    *("-1", "-2", "all", "auto", "All", "none", "12x", "1e3", "0x21", "9999999999"),
]
SPELLED = st.sampled_from(["--n-gpu-layers", "--n_gpu_layers", "--gpu-layers", "--gpu_layers", "-ngl", "--ngl"])


@st.composite
def layer_flags(draw: st.DrawFn) -> tuple[str, ...]:
    name, value = draw(SPELLED), draw(st.sampled_from(LAYERS) | st.integers().map(str) | st.text(max_size=6))
    return draw(st.sampled_from([(name, value), (f"{name}={value}",), (f"{name} {value}",)]))


@pytest.mark.req("ORCH-3803", "PM-02")
def test_a_number_of_layers_that_leaves_some_to_the_cpu_is_refused_before_the_start() -> None:
    found = layers_refusal(model(), pool("-ngl", "12"))
    assert found is not None
    assert found.cause is Cause.POLICY_DENIED
    assert found.message == "--n-gpu-layers 12 leaves 21 of 33 layers on the CPU, and profile home is GPU only"
    assert found.hint == (
        "remove it; where the model then does not fit, use a smaller quantization of it, or a smaller ctx"
    )
    refused = {value for value in LAYERS if layers_refusal(model(), pool("--n-gpu-layers", value)) is not None}
    assert set(LAYERS) - refused == {"33", "99", "999", "-1", "all", "auto"}
    assert layers_refusal(model(), pool("-ngl", "0", "--gpu_layers 33")) is None
    assert layers_refusal(model(), pool()) is None
    assert layers_refusal(model(), pool("-ngl", "0", engine=Engine.VLLM)) is None
    silent = replace(model(), layers=None)
    assert layers_refusal(silent, pool("-ngl", "all")) is None
    unsure = layers_refusal(silent, pool("-ngl", "99"))
    assert unsure is not None
    assert "does not say how many it has" in unsure.message


@pytest.mark.req("ORCH-3803")
@given(of=st.sampled_from([model(), GEMMA_12B, MIXTURE]), flags=st.lists(layer_flags(), max_size=3))
def test_no_flag_makes_the_proof_less_than_most_of_the_dense_weights(
    of: ResolvedModel, flags: list[tuple[str, ...]]
) -> None:
    assert of.weights is not None
    dense = of.weights.layers - of.weights.experts + of.weights.output
    every = [token for each in flags for token in each]
    for experts in (
        (),
        ("--cpu-moe",),
        ("-ncmoe", "00"),
        ("--n-cpu-moe=999",),
        ("-nkvo",),
        ("--override-tensor", ".*=CPU"),
    ):
        assert least_on_gpu(need(of, *every, *experts)) >= int(0.8 * dense)
    # what gets as far as a start has every layer on the GPUs
    told = pool(*every)
    if not flag_findings(told, Profile.HOME) and layers_refusal(of, told) is None:
        value = said(told).value("--n-gpu-layers")
        assert value is None or int(value) > (of.layers or 0)


@pytest.mark.req("ORCH-3803")
@pytest.mark.parametrize(
    "flags",
    [
        *(("--n-gpu-layers", value) for value in ("0", "00", "+0", "0.9", "", "0 ", "1", "32")),
        *(("--device", "none"), ("-sm", "none", "-mg", "-1"), ("-ot", ".*=CPU"), ("--n-cpu-ffn", "99")),
        ("--rpc", "127.0.0.1:50052"),
    ],
)
def test_where_presence_is_the_proof_no_engine_started_with_layers_on_the_cpu(flags: tuple[str, ...]) -> None:
    seen = (DeviceProcess(uuid="GPU-0", pid=7, used_bytes=None),)
    assert on_its_devices(("GPU-0",), frozenset({7}), seen, least_on_gpu(need(model(), *flags))) is None
    assert by_presence_alone(("GPU-0",), frozenset({7}), seen) is not None
    told = pool(*flags)
    assert flag_findings(told, Profile.HOME) or layers_refusal(model(), told) is not None


def test_the_key_tells_apart_what_changes_the_need() -> None:
    engine = PreparedEngine(
        engine=Engine.LLAMACPP, engine_version="b1", provisioning_mode=Mode.SOURCE, engine_digest="sha256:1"
    )
    gpus = (gpu(),)
    key = memory_key(engine, model(), pool(), gpus)
    others = {
        memory_key(replace(engine, engine_digest="sha256:2"), model(), pool(), gpus),
        memory_key(engine, replace(model(), digest="sha256:1"), pool(), gpus),
        memory_key(engine, model(), pool(ctx=4096), gpus),
        memory_key(engine, model(), pool(slots=2), gpus),
        memory_key(engine, model(), pool("--cache-type-k", "q8_0"), gpus),
        memory_key(engine, model(), pool(env={"GGML_CUDA_NO_VMM": "1"}), gpus),
        memory_key(engine, model(), pool(), (gpu(name="RTX 4090"),)),
        memory_key(engine, model(), pool(), (gpu(), gpu(1))),
    }
    assert len(others | {key}) == 9
    busy = (gpu(free=1),)
    assert memory_key(replace(engine, args=("--port", "1")), replace(model(), id="x"), pool(), busy) == key


# --- properties -------------------------------------------------------------------------------------------------------

MODELS = st.sampled_from([model(), GEMMA_12B, MIXTURE])
FLAGS = st.lists(
    st.sampled_from(
        ["--swa-full", "--cpu-moe", "--no-kv-offload", "-ctk=q8_0", "-ctv=q4_0", "-fa=off", "-ngl=20", "-ub=128"]
    ),
    unique=True,
    max_size=4,
).map(tuple)


@st.composite
def gpu_sets(draw: st.DrawFn) -> tuple[Gpu, ...]:
    count = draw(st.integers(1, 4))
    totals = [draw(st.sampled_from([6, 8, 12, 16, 24, 80])) for _ in range(count)]
    return tuple(gpu(n, total=total, free=draw(st.floats(0, total))) for n, total in enumerate(totals))


@pytest.mark.req("PM-02")
@given(of=MODELS, flags=FLAGS, ctx=st.integers(16, 1 << 20), slots=st.integers(1, 64), more=st.integers(1, 1 << 16))
def test_more_context_and_more_slots_never_need_less(
    of: ResolvedModel, flags: tuple[str, ...], ctx: int, slots: int, more: int
) -> None:
    found = need(of, *flags, ctx=ctx, slots=slots)
    assert need(of, *flags, ctx=ctx + more, slots=slots).total_bytes >= found.total_bytes
    assert need(of, *flags, ctx=ctx, slots=slots + 1).total_bytes >= found.total_bytes
    assert min(found.weights_bytes, found.kv_bytes, found.compute_bytes, found.overhead_bytes) >= 0
    assert 0 <= found.kv_fixed_bytes <= found.kv_bytes
    whole = footprint(of, pool(*flags, ctx=ctx, slots=slots))
    plain = footprint(of, pool(*(each for each in flags if each != "--no-kv-offload"), ctx=ctx, slots=slots))
    assert whole is not None
    assert plain is not None
    assert abs(whole.gpu_kv + whole.host_kv - plain.gpu_kv) <= 1  # it is somewhere


@pytest.mark.req("PM-02")
@given(of=MODELS, flags=FLAGS, ctx=st.integers(512, 1 << 17), gpus=gpu_sets(), split=st.none() | st.floats(0.1, 9))
def test_an_engine_is_refused_only_where_it_does_not_fit(
    of: ResolvedModel, flags: tuple[str, ...], ctx: int, gpus: tuple[Gpu, ...], split: float | None
) -> None:
    found = need(of, *flags, ctx=ctx)
    shares = None if split is None else (split, *(1.0 for _ in gpus[1:]))
    refused = refusal(found, gpus, shares)
    free = sum(each.vram_total_bytes - each.vram_used_bytes for each in gpus)
    if refused is None:
        assert free >= found.total_on(len(gpus)) - len(gpus)  # never over-committed
        roomier = tuple(replace(each, vram_used_bytes=0) for each in gpus)
        assert shares is None or refusal(found, roomier, shares) is None
        return
    assert all(len(text) < 2000 for text in (refused.message, refused.hint))
    if smaller := re.search(r"set ctx: (\d+)", refused.hint):
        assert int(smaller[1]) < ctx
        assert refusal(need(of, *flags, ctx=int(smaller[1])), gpus, shares) is None
    if len(gpus) == 1:
        assert free < found.total_bytes


@given(st.lists(st.text(max_size=20), max_size=6).map(tuple))
def test_flags_of_any_kind_are_read(flags: tuple[str, ...]) -> None:
    assert count(said(pool(*flags)), "--main-gpu", 7) >= 0
    assert need(model(), *flags).total_bytes > 0


# --- host memory ------------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-02")
def test_what_is_not_offloaded_needs_host_memory() -> None:
    assert ram_refusal(model(), pool(), GIB) is None
    assert ram_refusal(model(), pool(), GIB // 2) is not None
    experts = ram_refusal(MIXTURE, pool("--cpu-moe"), 16 * GIB)
    assert experts is not None
    assert experts.cause is Cause.RAM_SHORT
    assert experts.message == (
        "the engine needs 17.00 GiB of host memory (weights 16.50 GiB, KV cache 0.00 GiB, compute 0.00 GiB, "
        "its process 0.50 GiB), and 16.00 GiB are available"
    )
    assert (
        experts.hint
        == "end other programs, or keep less of the model off the GPUs (--n-cpu-moe, --cpu-moe, --cpu-offload-gb)"
    )
    assert ram_refusal(MIXTURE, pool("--cpu-moe"), 17 * GIB) is None
    on_host = ram_refusal(model(), pool("--no-kv-offload"), GIB)
    assert on_host is not None
    assert "lower ctx or slots" in on_host.hint
    assert ram_refusal(BF16_8B, pool(engine=Engine.VLLM), 2 * GIB) is not None
    assert ram_refusal(BF16_8B, pool(engine=Engine.VLLM), 4 * GIB) is None


@pytest.mark.req("PM-02")
def test_the_trial_profile_has_all_of_it_in_host_memory() -> None:
    found = ram_refusal(model(), pool(), 6 * GIB, Profile.TRIAL)
    assert found is not None
    assert found.message.startswith("the engine needs 6.1")
    assert "use a smaller model" in found.hint
    assert ram_refusal(model(), pool(), 7 * GIB, Profile.TRIAL) is None

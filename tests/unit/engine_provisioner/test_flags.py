from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Profile
from engine_provisioner.flags import (
    NO_ORIGIN,
    Configured,
    configured,
    flag_findings,
    flags_in_help,
    llama_server_args,
    lookup,
)
from engine_provisioner.wheel_server import FLAGS
from tests.unit.engine_provisioner.conftest import HELP, a_pool

OURS = ("--model", "--host", "--port", "--ctx-size", "--parallel", "--metrics", "--slots", "--cors-origins")


def parsed(*flags: str, profile: Profile = Profile.HOME) -> Configured:
    return configured(flags, profile)


def value_of(args: tuple[str, ...], flag: str) -> str:
    assert args.count(flag) == 1
    return args[args.index(flag) + 1]


@pytest.mark.req("EP-11")
@pytest.mark.parametrize(
    "flags",
    [
        ("--ngl", "20"),
        ("-ngl", "20"),
        ("--gpu-layers", "20"),
        ("--n-gpu-layers", "20"),
        ("--n-gpu-layers=20",),
        ("-ngl=20",),
        ("--n-gpu-layers 20",),
        ("--n_gpu_layers", "20"),
    ],
)
def test_every_spelling_of_the_gpu_layers_becomes_one(flags: tuple[str, ...]) -> None:
    assert parsed(*flags).tokens == ("--n-gpu-layers", "20")


@pytest.mark.req("EP-11")
def test_the_last_of_duplicates_wins_whatever_its_spelling() -> None:
    assert parsed("-ngl", "1", "--threads", "4", "--gpu-layers=2", "-t 8").tokens == (
        "--n-gpu-layers", "2", "--threads", "8",
    )  # fmt: skip
    assert parsed("-nocb", "--cont-batching", "-nocb").tokens == ("--no-cont-batching",)


@pytest.mark.req("EP-11")
@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        (("--model", "other.gguf"), "pools[].model"),
        (("-m", "other.gguf"), "pools[].model"),
        (("-hf", "org/model"), "pools[].model"),
        (("--host", "0.0.0.0"), "loopback"),  # noqa: S104 - it is refused
        (("--port=1",), "a free port"),
        (("-c", "99"), "pools[].ctx"),
        (("--ctx_size", "99"), "pools[].ctx"),
        (("-np", "99"), "pools[].slots"),
        (("-ts", "1,1"), "pools[].tensor_split"),
        (("--cors-origins", "*"), "relies on it"),
        (("--webui",), "relies on it"),
        (("--api-prefix", "/x"), "loopback"),
    ],
)
def test_what_makes_an_engine_ours_cannot_be_configured_in_flags(flags: tuple[str, ...], hint: str) -> None:
    found = parsed(*flags)
    assert found.tokens == ()
    (note,) = found.notes
    assert not note.refused
    assert hint in note.hint
    assert llama_server_args(a_pool(flags=flags), Profile.HOME) == llama_server_args(a_pool(), Profile.HOME)


@pytest.mark.req("EP-13")
@pytest.mark.parametrize("flag", ["--api-key", "--api_key", "--api-key-file", "--hf-token", "-hft"])
@pytest.mark.parametrize("form", ["{} sesame", "{}=sesame"])
def test_a_secret_in_the_flags_is_refused_and_never_repeated(flag: str, form: str) -> None:
    pool = a_pool(flags=(form.format(flag),))
    (finding,) = flag_findings(pool, Profile.HOME)
    assert "sesame" not in repr(finding)
    assert "secret" in finding.message
    assert "sesame" not in llama_server_args(pool, Profile.HOME)


@pytest.mark.req("ORCH-3803")
@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (("--n-gpu-layers", "0"), None),
        (("--n-gpu-layers", "00"), None),
        (("--n-gpu-layers", "+0"), None),
        (("--n-gpu-layers", "-0"), None),
        (("--n-gpu-layers", "-2"), None),
        (("--n-gpu-layers", "0.9"), None),
        (("--n-gpu-layers", "12x"), None),
        (("--n-gpu-layers", "0x20"), None),
        (("--n-gpu-layers", "1_0"), None),
        (("--n-gpu-layers", "\u0661"), None),
        (("--n-gpu-layers", "9999999999"), None),
        (("--n-gpu-layers", ""), None),
        (("--n-gpu-layers", "0 "), None),
        (("--n-gpu-layers", "All"), None),
        (("--n-gpu-layers=0",), None),
        (("--gpu_layers 0",), None),
        (("-ngl", "99", "--gpu-layers=0"), None),
        (("--n-gpu-layers", "1"), "1"),  # pool_managerd knows the layers, and judges the number
        (("--n-gpu-layers", "+012 "), "12"),
        (("--n-gpu-layers", "-1"), "999"),
        (("--n-gpu-layers", "all"), "999"),
        (("--n-gpu-layers", "auto"), "999"),
        (("--n-gpu-layers", "999"), "999"),
        (("--n-gpu-layers", "0", "-ngl", "99"), "99"),
    ],
)
def test_the_layers_on_the_gpus_are_a_whole_number_that_every_engine_reads_alike(
    flags: tuple[str, ...], value: str | None
) -> None:
    pool = a_pool(flags=flags)
    if value is None:
        (finding,) = flag_findings(pool, Profile.HOME)
        assert "--n-gpu-layers" in finding.message
        assert "remove it" in finding.hint
    else:
        assert flag_findings(pool, Profile.HOME) == ()
        assert value_of(llama_server_args(pool, Profile.HOME), "--n-gpu-layers") == value
    assert flag_findings(pool, Profile.TRIAL) == ()


@pytest.mark.req("ORCH-3803")
@pytest.mark.parametrize(
    "flags",
    [
        ("--device", "none"),
        ("-dev none",),
        ("--device", ""),
        ("--device", "BLAS"),
        ("--device", "CUDA0,RPC0"),
        ("--main-gpu", "-1"),
        ("-mg", "0.5"),
        ("--override-tensor", ".*=CPU"),
        ("-ot", r"\.ffn_.*_exps\.=CPU"),
        ("-ot", ".*=CPU", "-ot", "x=CUDA0"),
        ("-ot", "x=CUDA0,y=CPU"),
        ("-ot", "x"),
        ("--n-cpu-ffn", "1"),
        ("-ncffn", "none"),
        ("--rpc", "127.0.0.1:50052"),
        ("--n-cpu-moe", "3.5"),
        ("--n-cpu-moe", "-1"),
        ("-ngld", "0"),
        ("--spec-draft-ngl", "0.5"),
        ("--device-draft", "none"),
        ("--spec_draft_override_tensor=.*=CPU",),
        ("--mmproj-device", "CPU"),
    ],
)
def test_home_refuses_what_computes_elsewhere_than_on_its_gpus(flags: tuple[str, ...]) -> None:
    (finding,) = flag_findings(a_pool(flags=flags), Profile.HOME)
    assert "GPU only" in finding.message or "whole number" in finding.message
    assert finding.hint
    assert flag_findings(a_pool(flags=flags), Profile.TRIAL) == ()


@pytest.mark.req("ORCH-3803")
@pytest.mark.parametrize(
    ("flags", "tokens"),
    [
        (("--device", "CUDA0,CUDA1"), ("--device", "CUDA0,CUDA1")),
        (("-mg", "1"), ("--main-gpu", "1")),
        (("-ot", "a=CUDA1", "-ot", "b=CUDA0"), ("--override-tensor", "a=CUDA1,b=CUDA0")),
        (("-ncffn", "00"), ("--n-cpu-ffn", "0")),
        (("-ncmoe", "0"), ("--n-cpu-moe", "0")),
        (("-ngld", "all"), ("--n-gpu-layers-draft", "999")),
        (("--kv-offload",), ("--kv-offload",)),
        (("--mmproj-device", "CUDA0"), ("--mmproj-device", "CUDA0")),
        (("-fa", "-fa", "off"), ("--flash-attn", "off")),
        (("-fa", "--no-warmup"), ("--flash-attn", "--no-warmup")),
    ],
)
def test_home_takes_what_stays_on_its_gpus_without_a_word(flags: tuple[str, ...], tokens: tuple[str, ...]) -> None:
    found = parsed(*flags)
    assert (found.tokens, found.notes) == (tokens, ())


@pytest.mark.req("ORCH-3803")
@pytest.mark.parametrize(
    "flags",
    [
        ("--cpu-moe",),
        ("-cmoe",),
        ("--n-cpu-moe", "12"),
        ("-ncmoe", "+12"),
        ("--cpu-moe-draft",),
        ("--spec-draft-ncmoe=3",),
        ("-ngld", "20"),
        ("-nkvo",),
        ("--no-op-offload",),
        ("--no-mmproj-offload",),
        ("--mmproj-device", "none"),
    ],
)
def test_what_the_operator_puts_on_the_cpu_by_its_name_stays_and_is_said(flags: tuple[str, ...]) -> None:
    (note,) = parsed(*flags).notes
    assert "on the CPU" in note.message
    assert not note.refused
    assert note.hint
    assert parsed(*flags).tokens
    assert parsed(*flags, profile=Profile.TRIAL).notes == ()


def test_a_known_flag_without_its_value_is_refused() -> None:
    for flags in (("-ngl",), ("--threads", "--port", "5"), ("--threads=--port",)):
        assert any(note.message.endswith("needs a value") for note in parsed(*flags).notes)


def test_unknown_flags_pass_through_untouched_and_in_place() -> None:
    flags = ("--lora", "a.gguf", "--override-kv=x=int:1", "-ngl", "5", "--lora", "b.gguf", "--frobnicate")
    assert parsed(*flags).rest == ("--lora", "a.gguf", "--override-kv=x=int:1", "--lora", "b.gguf", "--frobnicate")


def test_a_negative_number_is_a_value() -> None:
    assert parsed("--n-predict", "-1", "-s", "-1").tokens == ("--n-predict", "-1", "--seed", "-1")


@pytest.mark.req("EP-14")
def test_one_slot_does_not_batch_and_several_do() -> None:
    assert "--no-cont-batching" in llama_server_args(a_pool(slots=1), Profile.HOME)
    assert "--no-cont-batching" not in llama_server_args(a_pool(slots=2), Profile.HOME)
    chosen = llama_server_args(a_pool(slots=1, flags=("-cb",)), Profile.HOME)
    assert "--no-cont-batching" not in chosen
    assert "--cont-batching" in chosen


@pytest.mark.req("EP-14")
def test_no_web_ui_in_the_spelling_of_the_engine() -> None:
    def args(*known: str) -> tuple[str, ...]:
        return llama_server_args(a_pool(), Profile.HOME, frozenset(known))

    assert "--no-ui" in args("--no-ui", "--no-webui")
    assert "--no-webui" in args("--no-webui")
    assert "--no-webui" in llama_server_args(a_pool(), Profile.HOME, None)
    assert not {"--no-ui", "--no-webui"} & set(args("--port"))


@pytest.mark.req("EP-14")
def test_metrics_and_slots_are_on() -> None:
    assert {"--metrics", "--slots"} <= set(llama_server_args(a_pool(), Profile.HOME))


@pytest.mark.req("HP-15")
def test_slots_can_be_erased_where_the_engine_knows_how() -> None:
    known = frozenset({"--slot-save-path"})
    assert value_of(llama_server_args(a_pool(), Profile.HOME, known), "--slot-save-path") == "/"
    assert "--slot-save-path" not in llama_server_args(a_pool(), Profile.HOME)
    theirs = a_pool(flags=("--slot-save-path", "/var/slots"))
    assert value_of(llama_server_args(theirs, Profile.HOME, known), "--slot-save-path") == "/var/slots"


def test_every_slot_has_the_whole_context() -> None:
    args = llama_server_args(a_pool(ctx=4096, slots=3), Profile.HOME)
    assert value_of(args, "--ctx-size") == "12288"
    assert value_of(args, "--parallel") == "3"


def test_home_offloads_everything_and_trial_nothing() -> None:
    assert value_of(llama_server_args(a_pool(), Profile.HOME), "--n-gpu-layers") == "999"
    assert value_of(llama_server_args(a_pool(flags=("-ngl", "20")), Profile.HOME), "--n-gpu-layers") == "20"
    assert "--n-gpu-layers" not in llama_server_args(a_pool(), Profile.TRIAL)


def test_the_tensor_split_is_given_in_the_order_of_the_devices() -> None:
    pool = a_pool(devices=(0, 1), tensor_split=(3.0, 1.5))
    assert value_of(llama_server_args(pool, Profile.HOME), "--tensor-split") == "3,1.5"


def test_no_page_is_an_allowed_origin() -> None:
    args = llama_server_args(a_pool(), Profile.HOME, frozenset({"--cors-origins", "--fit"}))
    assert value_of(args, "--cors-origins") == NO_ORIGIN
    assert value_of(args, "--fit") == "off"
    assert "--cors-origins" not in llama_server_args(a_pool(), Profile.HOME, frozenset({"--port"}))


def test_the_trial_server_understands_every_argument_it_is_given() -> None:
    args = llama_server_args(a_pool(slots=2, tensor_split=(1.0,)), Profile.TRIAL, FLAGS)
    assert {token for token in args if token.startswith("--")} <= FLAGS


def test_the_flags_are_read_from_the_help() -> None:
    found = flags_in_help(HELP)
    assert found is not None
    assert {"-ngl", "--n-gpu-layers", "--no-webui", "--cors-origins", "--fit", "--list-devices"} <= found
    assert "--not-a-flag" not in found
    assert flags_in_help("usage: another program\n--port N") is None
    assert flags_in_help("") is None


# --- properties -------------------------------------------------------------------------------------------------------

WORDS = [
    *(
        "-ngl",
        "--ngl",
        "--gpu-layers",
        "--n_gpu_layers",
        "-ngl 3",
        "-t",
        "--threads",
        "--threads=-1",
        "--threads=--port",
        "-ncmoe",
        "-ncmoe=07",
        "--cpu-moe",
        "-nkvo",
        "-ot",
        "--override-tensor=x=CUDA0",
    ),
    *("-cb", "-nocb", "--model", "-m", "--host", "--port=1", "-c", "--api-key", "--api-key=s", "--metrics", "--device"),
    *("--lora", "--foo=bar", "--foo -c 5", "0", "-1", "none", "", " ", "-", "--", "a b", "- x"),
]
anything = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=8), st.text(max_size=6).map("-".__add__)))
profiles = st.sampled_from(Profile)
separate = st.lists(
    st.sampled_from(
        [
            "--threads=4",
            "-ngl 7",
            "--seed=3",
            "-nocb",
            "--cpu-moe",
            "-b 64",
            "--split-mode=row",
            "--alias=x",
            "--numa=a",
        ]
    ),
    unique=True,
)


@pytest.mark.req("EP-11")
@given(anything, profiles)
def test_any_list_of_strings_has_an_answer_and_saying_it_again_changes_nothing(
    flags: list[str], profile: Profile
) -> None:
    once = configured(flags, profile)
    again = configured(once.tokens, profile)
    assert again.tokens == once.tokens
    assert {note.flag for note in again.notes} <= {note.flag for note in once.notes}
    assert not any("left out" in note.message for note in again.notes)


@pytest.mark.trap(11, by="pool_managerd")
@pytest.mark.req("EP-11")
@given(anything, profiles)
def test_the_argv_is_ours_first_and_has_each_of_our_flags_once(flags: list[str], profile: Profile) -> None:
    pool = a_pool(flags=tuple(flags))
    args = llama_server_args(pool, profile, frozenset(OURS))
    assert args == llama_server_args(pool, profile, frozenset(OURS))
    assert args[:6] == ("--model", "{model}", "--host", "{host}", "--port", "{port}")
    names = [found[0].name for token in args if (found := lookup(token))]
    for flag in OURS:
        assert names.count(flag) == 1
    assert not {"--api-key", "--api-key-file", "--hf-token"} & set(names)


@pytest.mark.req("EP-11")
@given(separate, st.randoms(use_true_random=False))
def test_the_order_of_different_known_flags_does_not_matter(flags: list[str], random: object) -> None:
    shuffled = list(flags)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert configured(shuffled, Profile.HOME).tokens == configured(flags, Profile.HOME).tokens

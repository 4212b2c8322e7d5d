from __future__ import annotations

import argparse
import getopt
import json
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import ContainerImage, Engine, Mode, Pool, Profile, Provisioning
from engine_provisioner.container_engines import (
    NEEDS,
    arguments,
    environment,
    findings_on,
    image_of,
    image_text,
    notes_on,
    triton_repository_files,
)
from engine_provisioner.container_flags import TABLES, read
from engine_provisioner.flags import Rule, llama_server_args
from engine_provisioner.plan import plan_for
from pool_managerd.launch import fill
from tests.unit.engine_provisioner.conftest import a_pool

ENGINES = (Engine.LLAMACPP, Engine.VLLM, Engine.TGI, Engine.TRITON)
UUIDS = ("GPU-1", "GPU-0")


def container_pool(engine: Engine = Engine.VLLM, **parts: object) -> Pool:
    chosen: dict[str, object] = {
        "engine": engine,
        "model": "hf:org/model",
        "ctx": 4096,
        "provisioning": Provisioning(mode=Mode.CONTAINER),
    }
    return a_pool(**(chosen | parts))


def flags_of(engine: Engine, *flags: str, gpus: int = 1) -> tuple[str, ...]:
    return arguments(container_pool(engine, flags=flags), Profile.HOME, gpus)


def notes_of(engine: Engine, *flags: str) -> list[str]:
    return [note.message for note in notes_on(container_pool(engine, flags=flags), Profile.HOME)]


# --- golden argument vectors ------------------------------------------------------------------------------------------


@pytest.mark.req("EP-14", "EP-18")
@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (
            Engine.LLAMACPP,
            (
                "--model {model} --host {host} --port {port} --ctx-size 4096 --parallel 1 --metrics --slots --no-webui"
                " --no-cont-batching --n-gpu-layers 999"
            ),
        ),
        (
            Engine.VLLM,
            (
                "--model {model} --host {host} --port {port} --served-model-name=hf:org/model --max-model-len 4096"
                ' --max-num-seqs 1 --allowed-origins ["http://llama-orch.invalid"] --generation-config vllm --seed 0'
                " --tensor-parallel-size 1"
            ),
        ),
        (
            Engine.TGI,
            (
                "--model-id {model} --hostname {host} --port {port} --max-total-tokens 4096 --max-concurrent-requests 1"
                " --cors-allow-origin http://llama-orch.invalid --max-input-tokens 4095 --num-shard 1 --usage-stats off"
            ),
        ),
        (
            Engine.TRITON,
            (
                "tritonserver --model-repository /repository --model-control-mode explicit --load-model gpu0"
                " --http-address {host} --http-port {port} --allow-grpc false"
                " --metrics-address {host} --metrics-port 8002"
            ),
        ),
    ],
)
def test_each_engine_is_started_in_its_own_words_with_one_slot(engine: Engine, expected: str) -> None:
    assert " ".join(flags_of(engine)) == expected


def test_a_llama_server_in_a_container_has_the_arguments_of_any_other() -> None:
    pool = container_pool(Engine.LLAMACPP, slots=4, flags=("-ngl", "20"))
    assert arguments(pool, Profile.HOME, 1) == llama_server_args(pool, Profile.HOME)
    assert arguments(pool, Profile.TRIAL, 0) == llama_server_args(pool, Profile.TRIAL)


def test_slots_context_and_gpus_reach_every_engine() -> None:
    pool = container_pool(Engine.VLLM, slots=3, ctx=100)
    assert {"--max-model-len", "100", "--max-num-seqs", "3", "--tensor-parallel-size", "2"} <= {
        *arguments(pool, Profile.HOME, 2)
    }
    pool = container_pool(Engine.TGI, slots=3, ctx=100)
    assert {"--max-total-tokens", "100", "--max-input-tokens", "99", "--max-concurrent-requests", "3"} <= {
        *arguments(pool, Profile.HOME, 2)
    }


def test_placeholders_are_elements_of_their_own() -> None:
    for engine in ENGINES:
        args = fill(flags_of(engine), model="/models/{odd}", host="0.0.0.0", port=8000)  # noqa: S104 - inside
        assert not [token for token in args if token in {"{model}", "{host}", "{port}"}]
        assert "0.0.0.0" in args  # noqa: S104 - inside
        assert ("/models/{odd}" in args) is (engine is not Engine.TRITON)


# --- what the operator says -------------------------------------------------------------------------------------------


def test_an_operators_setting_replaces_a_default_and_other_flags_pass_in_their_place() -> None:
    args = flags_of(Engine.VLLM, "--seed=7", "-tp", "2", "--enforce-eager", "--gpu-memory-utilization 0.5", gpus=2)
    assert args[-9:] == (
        *("--generation-config", "vllm", "--gpu-memory-utilization", "0.5", "--seed", "7"),
        *("--tensor-parallel-size", "2", "--enforce-eager"),
    )
    assert args.count("--seed") == 1
    assert "--tensor-parallel-size" not in flags_of(Engine.VLLM, "--pipeline_parallel_size", "2", gpus=2)
    # A default that stays, and one that an older name replaces: clap refuses a flag that is given twice.
    args = flags_of(Engine.TGI, "--max-input-length", "100", "--usage-stats=on")
    assert args[-6:] == ("--max-input-tokens", "100", "--num-shard", "1", "--usage-stats", "on")
    assert "--num-shard" not in flags_of(Engine.TGI, "--sharded", "false")


def test_json_after_an_equals_sign_stays_one_word() -> None:
    assert flags_of(Engine.VLLM, '--speculative-config={"a": 1}')[-1] == '--speculative-config={"a": 1}'
    assert flags_of(Engine.VLLM, '--speculative-config {"a": 1}')[-2:] == ("--speculative-config", '{"a": 1}')


@pytest.mark.req("EP-11")
@pytest.mark.parametrize(
    ("engine", "flags", "message"),
    [
        (Engine.VLLM, ("--model", "x"), "--model in pools[].flags is left out"),
        (Engine.VLLM, ("--served_model_name=x",), "--served_model_name in pools[].flags is left out"),
        (Engine.VLLM, ("--hos 0.0.0.0",), "--hos in pools[].flags is left out"),
        (Engine.VLLM, ("--config", "x.yaml"), "--config in pools[].flags is left out"),
        (Engine.VLLM, ("--grpc",), "--grpc in pools[].flags is left out"),
        (Engine.TGI, ("-p80",), "-p in pools[].flags is left out"),
        (Engine.TGI, ("--quantize awq --port 1",), "--port in pools[].flags is left out"),
        (Engine.TGI, ("--ngrok",), "--ngrok in pools[].flags is left out"),
        (Engine.TRITON, ("--model-repo=/x",), "--model-repo in pools[].flags is left out"),
        (Engine.TRITON, ("--allow-grpc", "true"), "--allow-grpc in pools[].flags is left out"),
    ],
)
def test_what_is_ours_is_left_out_with_a_note(engine: Engine, flags: tuple[str, ...], message: str) -> None:
    assert notes_of(engine, *flags) == [message]
    ours, theirs = flags_of(engine), flags_of(engine, *flags)
    assert theirs[: len(ours)] == ours
    assert set(theirs) - set(ours) <= {"--quantize", "awq"}


@pytest.mark.req("EP-13")
@pytest.mark.parametrize(
    ("engine", "flag"),
    [
        (Engine.LLAMACPP, "--api-key"),
        (Engine.VLLM, "--api-key"),
        (Engine.VLLM, "--api"),
        (Engine.VLLM, "--hf_token"),
        (Engine.TGI, "--ngrok-authtoken"),
        (Engine.TRITON, "--http-restricted-api"),
    ],
)
def test_a_secret_in_the_flags_is_refused_without_being_repeated(engine: Engine, flag: str) -> None:
    pool = container_pool(engine, flags=(flag, "sesame"))
    (finding,) = findings_on(pool, Profile.HOME)
    assert finding.message == f"pools[gpu0].flags: {flag} would put a secret into a file and into the process list"
    assert finding.hint.startswith("remove it: ")
    assert "sesame" not in repr(finding)
    assert "sesame" not in arguments(pool, Profile.HOME, 1)


@pytest.mark.parametrize("flags", [("--seed",), ("--seed", "--port", "1"), ("--seed=--port", "1"), ("--seed --port",)])
def test_a_flag_without_its_value_is_refused(flags: tuple[str, ...]) -> None:
    (finding, *_) = findings_on(container_pool(flags=flags), Profile.HOME)
    assert finding.message == "pools[gpu0].flags: --seed needs a value"


def test_tensor_split_is_llama_servers_alone() -> None:
    pool = container_pool(devices=(0, 1), tensor_split=(2.0, 1.0))
    assert [note.message for note in notes_on(pool, Profile.HOME)] == [
        "tensor_split is left out: vllm gives every GPU the same share"
    ]
    assert notes_on(container_pool(Engine.LLAMACPP, tensor_split=(2.0, 1.0)), Profile.HOME) == ()


# --- ours, whatever the operator says ---------------------------------------------------------------------------------


class _Refused(Exception):  # noqa: N818 - it says what an engine did
    """An engine that does not start is no engine that was led astray."""


class _Argparse(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Refused(message)


def as_vllm_reads(args: tuple[str, ...]) -> dict[str, object]:
    """As vLLM's parser does: argparse, which takes abbreviations, with ``_`` and ``-`` the same."""
    parser = _Argparse(add_help=False)
    for flag in TABLES[Engine.VLLM].flags:
        action = "store" if flag.value else "store_true"
        parser.add_argument(flag.name, *flag.aliases, action=action, dest=flag.name, default=None)
    dashed = [
        "=".join([token.partition("=")[0].replace("_", "-"), *token.split("=", 1)[1:]])
        if token.startswith("--")
        else token
        for token in args
    ]
    try:
        return vars(parser.parse_known_args(dashed)[0])
    except (argparse.ArgumentError, ValueError) as error:
        raise _Refused from error


def as_triton_reads(args: tuple[str, ...]) -> dict[str, object]:
    """As tritonserver's parser does: getopt_long, which takes abbreviations."""
    names = [flag.name.removeprefix("--") + "=" * flag.value for flag in TABLES[Engine.TRITON].flags]
    try:
        return dict(getopt.gnu_getopt(args[1:], "h", [*names, "log-verbose="])[0])
    except getopt.GetoptError as error:
        raise _Refused from error


def as_tgi_reads(args: tuple[str, ...]) -> dict[str, object]:
    """As the launcher does behind a shell that splits its arguments: exact names, ``=`` and joined short flags."""
    found: dict[str, object] = {}
    words = " ".join(args).split()
    for token, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = token.partition("=")
        if token.startswith("-p") and not token.startswith("--"):
            name, value, equals = "--port", token[2:].removeprefix("=") or after, "="
        if name.startswith("--"):
            if name in found:
                raise _Refused(name)
            found[name] = value if equals else after
    return found


words = st.one_of(
    st.sampled_from([name for table in TABLES.values() for flag in table.flags for name in (flag.name, *flag.aliases)]),
    st.sampled_from(["--mod", "--hos", "--ho", "--load", "--http-p", "-p", "--log-verbose", "--", "-", "x", "1"]),
    st.text("-=_ abehlmnoprst0", max_size=12),
)
operators_flags = st.lists(
    st.one_of(words, st.tuples(words, words).map(" ".join), st.tuples(words, words).map("=".join)), max_size=6
).map(tuple)


@pytest.mark.req("EP-11")
@given(operators_flags)
def test_no_flag_of_an_operator_overrides_ours(flags: tuple[str, ...]) -> None:
    readers = {Engine.VLLM: as_vllm_reads, Engine.TGI: as_tgi_reads, Engine.TRITON: as_triton_reads}
    for engine, reads in readers.items():
        ours = {flag.name for flag in TABLES[engine].flags if flag.rule is not Rule.OPERATOR}
        wanted = reads(flags_of(engine))
        try:
            got = reads(flags_of(engine, *flags))
        except _Refused:
            continue
        assert {name: got.get(name) for name in ours} == {name: wanted.get(name) for name in ours}


@pytest.mark.req("EP-11")
@given(st.lists(st.text()).map(tuple), st.sampled_from(ENGINES), st.integers(1, 4))
def test_the_same_pool_is_always_started_in_the_same_way(flags: tuple[str, ...], engine: Engine, gpus: int) -> None:
    pool = container_pool(engine, flags=flags)
    assert arguments(pool, Profile.HOME, gpus) == arguments(pool, Profile.HOME, gpus)
    assert findings_on(pool, Profile.HOME) == findings_on(pool, Profile.HOME)
    if engine in TABLES:
        assert read(TABLES[engine], flags) == read(TABLES[engine], flags)
    if engine is Engine.TRITON:
        assert triton_repository_files(pool, gpus) == triton_repository_files(pool, gpus)


# --- the environment --------------------------------------------------------------------------------------------------


def test_only_llama_server_reads_the_gpus_by_uuid_and_in_the_order_of_the_mask() -> None:
    assert environment(container_pool(Engine.LLAMACPP), UUIDS) == {
        "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    for engine in ENGINES[1:]:
        assert "CUDA_VISIBLE_DEVICES" not in environment(container_pool(engine), UUIDS)
    assert environment(container_pool(Engine.LLAMACPP), ())["CUDA_VISIBLE_DEVICES"] == ""


def test_engines_reach_no_hub_report_nothing_and_compile_into_the_cache() -> None:
    for engine in ENGINES[1:]:
        variables = environment(container_pool(engine), UUIDS)
        assert variables["HF_HUB_OFFLINE"] == variables["DO_NOT_TRACK"] == "1"
        assert variables["HOME"] == "/cache"
        assert variables["TRITON_CACHE_DIR"] == "/cache/triton"
    assert environment(container_pool(Engine.VLLM), UUIDS)["VLLM_NO_USAGE_STATS"] == "1"
    pool = container_pool(Engine.VLLM, env={"HF_HUB_OFFLINE": "0", "VLLM_LOGGING_LEVEL": "DEBUG"})
    assert environment(pool, UUIDS)["HF_HUB_OFFLINE"] == "0"
    assert environment(pool, UUIDS)["VLLM_LOGGING_LEVEL"] == "DEBUG"


@pytest.mark.req("EP-13")
@pytest.mark.parametrize(
    ("engine", "name", "hint"),
    [
        (Engine.VLLM, "VLLM_API_KEY", "remove it: every start"),
        (Engine.TGI, "API_KEY", "remove it: every start"),
        (Engine.LLAMACPP, "LLAMA_API_KEY", "remove it: every start"),
        (Engine.VLLM, "CUDA_VISIBLE_DEVICES", "remove it, and set pools[].devices"),
        (Engine.TRITON, "NVIDIA_VISIBLE_DEVICES", "remove it, and set pools[].devices"),
        (Engine.LLAMACPP, "LLAMA_ARG_N_GPU_LAYERS", "remove it, and set the flag in pools[].flags"),
        (Engine.LLAMACPP, "LLAMA_ARG_API_KEY", "remove it, and set the flag in pools[].flags"),
        (Engine.TGI, "HF_TOKEN", "remove it: models are fetched"),
        (Engine.TGI, "HUGGING_FACE_HUB_TOKEN", "remove it: models are fetched"),
        (Engine.TRITON, "AWS_SECRET_ACCESS_KEY", "remove it: models are fetched"),
    ],
)
def test_secrets_and_what_is_ours_are_refused_in_the_environment(engine: Engine, name: str, hint: str) -> None:
    (finding,) = findings_on(container_pool(engine, env={name: "sesame"}), Profile.HOME)
    assert finding.check == "env"
    assert finding.message.startswith(f"pools[gpu0].env sets {name}")
    assert finding.hint.startswith(hint)
    assert "sesame" not in repr(finding)


def test_a_name_that_only_resembles_a_secret_is_none() -> None:
    env = {"TOKENIZERS_PARALLELISM": "false", "MAX_BATCH_TOKENS": "1", "KEYBOARD": "x"}
    assert findings_on(container_pool(env=env), Profile.HOME) == ()


# --- images and plans -------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3800")
def test_vllm_tgi_and_triton_are_containers_of_their_own_images_by_default() -> None:
    for engine in ENGINES[1:]:
        pool = a_pool(engine=engine)
        assert pool.mode is Mode.CONTAINER
        image = image_of(pool, Profile.HOME)
        assert image == NEEDS[engine].image
        assert image is not None
        assert f"pull {image_text(image)}, unless it is here" in [
            step.detail for step in plan_for(pool, Profile.HOME).steps
        ]
        # podman asks for the registry of a short name, or guesses it.
        assert "." in image.image.split("/")[0]


def test_a_pools_own_image_comes_first_and_trial_has_no_other() -> None:
    named = ContainerImage(image="localhost/mine", tag="v1", digest=f"sha256:{'a' * 64}")
    pool = container_pool(Engine.LLAMACPP, provisioning=Provisioning(mode=Mode.CONTAINER, container=named))
    assert image_of(pool, Profile.HOME) == image_of(pool, Profile.TRIAL) == named
    assert image_text(named) == f"localhost/mine@sha256:{'a' * 64}"
    assert image_text(ContainerImage(image="a/b")) == "a/b:latest"
    assert image_of(container_pool(Engine.LLAMACPP), Profile.TRIAL) is None


@pytest.mark.req("EP-01")
@pytest.mark.parametrize(
    ("engine", "profile", "kinds"),
    [
        (Engine.VLLM, Profile.HOME, ["check", "find", "fetch", "verify", "record"]),
        (Engine.TRITON, Profile.HOME, ["check", "find", "fetch", "write", "verify", "record"]),
        (Engine.LLAMACPP, Profile.TRIAL, ["check", "find", "fetch", "record"]),
    ],
)
def test_a_plan_names_the_steps_of_its_engine(engine: Engine, profile: Profile, kinds: list[str]) -> None:
    plan = plan_for(container_pool(engine), profile)
    assert plan == plan_for(container_pool(engine), profile)
    assert [step.kind for step in plan.steps] == kinds


# --- Triton's repository ----------------------------------------------------------------------------------------------


def model_json(**parts: object) -> dict[str, object]:
    files = triton_repository_files(container_pool(Engine.TRITON, **parts), 2)
    document = json.loads(files["gpu0/1/model.json"])
    assert isinstance(document, dict)
    return document


def test_a_triton_repository_says_where_the_model_is_and_how_much_it_may_take() -> None:
    files = triton_repository_files(container_pool(Engine.TRITON), 2)
    assert sorted(files) == ["gpu0/1/model.json", "gpu0/config.pbtxt"]
    assert 'backend: "vllm"' in files["gpu0/config.pbtxt"]
    assert "KIND_MODEL" in files["gpu0/config.pbtxt"]
    assert model_json() == {
        "model": "/model",
        "gpu_memory_utilization": 0.9,
        "max_model_len": 4096,
        "max_num_seqs": 1,
        "seed": 0,
        "generation_config": "vllm",
        "tensor_parallel_size": 2,
    }


def test_flags_of_vllms_engine_go_to_the_repository_and_those_of_triton_to_triton() -> None:
    flags = ("--gpu-memory-utilization=0.5", "--enforce-eager", "--dtype float16", "--log-verbose=1", "--seed", "x")
    document = model_json(flags=flags)
    assert document["gpu_memory_utilization"] == 0.5
    assert document["enforce_eager"] is True
    assert document["dtype"] == "float16"
    assert document["seed"] == "x"  # vLLM's to refuse
    assert flags_of(Engine.TRITON, *flags) == (*flags_of(Engine.TRITON), "--log-verbose=1")
    assert "tensor_parallel_size" not in model_json(flags=("--pipeline-parallel-size", "2"))
    assert model_json(flags=("--enforce-eager=false", f"--seed={'9' * 30}"))["enforce_eager"] is False

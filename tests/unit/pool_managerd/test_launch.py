from __future__ import annotations

import pytest
from msgspec.structs import replace

from container_runtime.spec import ContainerSpec
from contracts.config import Engine, Mode, Pool
from contracts.engines import BindMount, ContainerRun, PreparedEngine, ResolvedModel
from daemon_core.redaction import Redactor
from pool_managerd.launch import (
    INSIDE,
    LABEL_HANDLE,
    Launch,
    command_of,
    container_of,
    fill,
    gpu_env,
    launch_in,
    launch_of,
)

MODEL = ResolvedModel(id="m", ref="file:/m", local_path="/data/m.gguf", size_bytes=1, digest="sha256:00")
RUN = ContainerRun(
    runtime="podman",
    runtime_reason="it works",
    image="example.org/llama",
    digest=f"sha256:{'a' * 64}",
    port=8080,
    mounts=(BindMount(source="/cache/vllm", target="/root/.cache/vllm", writable=True),),
    shm_bytes=1 << 30,
)
ENGINE = PreparedEngine(
    engine=Engine.VLLM,
    engine_version="vllm 1",
    provisioning_mode=Mode.CONTAINER,
    args=("--model", "{model}", "--host", "{host}", "--port", "{port}"),
    key_env="VLLM_API_KEY",
    container=RUN,
)
LAUNCH = launch_of(ENGINE, MODEL, {"A": "1"}, ("GPU-1", "GPU-2"))


def container(launch: Launch = LAUNCH, run: ContainerRun = RUN) -> ContainerSpec:
    return container_of(
        launch, run, pool_id="gpu0", replica_id="gpu0-0", name="llama-orch-gpu0-1", marker="/h/gpu0.json", stop_ms=5
    )


def test_only_the_three_placeholders_are_filled_in() -> None:
    args = ("--model", "{model}", "--url={host}:{port}", "{other}", '{"a": 1}', "{model")
    assert fill(args, model="/a {port} b", host="127.0.0.1", port=9) == (
        "--model",
        "/a {port} b",
        "--url=127.0.0.1:9",
        "{other}",
        '{"a": 1}',
        "{model",
    )


@pytest.mark.req("CR-03", "ORCH-3820")
def test_a_container_sees_its_model_and_its_gpus_and_is_reached_on_loopback_alone() -> None:
    spec = container()
    assert spec.args == ("--model", "/models/m.gguf", "--host", INSIDE, "--port", "8080")
    assert spec.model_mount is not None
    assert (spec.model_mount.source, spec.model_mount.target) == ("/data/m.gguf", "/models/m.gguf")
    assert not spec.model_mount.writable
    assert [device.cdi for device in spec.devices] == ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-2"]
    assert [(port.address, port.host, port.container) for port in spec.ports] == [("127.0.0.1", 0, 8080)]
    assert spec.reference.text == f"example.org/llama@sha256:{'a' * 64}"
    assert spec.labels[LABEL_HANDLE] == "/h/gpu0.json"
    assert (spec.key_env, spec.env) == ("VLLM_API_KEY", {"A": "1"})
    assert spec.limits.shm_bytes == 1 << 30
    assert [(mount.target, mount.writable) for mount in spec.mounts] == [("/root/.cache/vllm", True)]


def test_a_model_may_have_a_place_of_its_own_inside() -> None:
    spec = container(run=replace(RUN, model_target="/model"))
    assert spec.args[1] == "/model"


@pytest.mark.req("CR-03", "MP-04")
def test_a_container_sees_every_part_of_a_split_model_beside_the_first() -> None:
    parts = ("/data/m-00002-of-00003.gguf", "/data/m-00003-of-00003.gguf")
    split = replace(MODEL, local_path="/data/m-00001-of-00003.gguf", parts=parts)
    spec = container(launch_of(ENGINE, split, {}, ()))
    assert [(mount.source, mount.target, mount.writable) for mount in spec.all_mounts[:3]] == [
        ("/data/m-00001-of-00003.gguf", "/models/m-00001-of-00003.gguf", False),
        ("/data/m-00002-of-00003.gguf", "/models/m-00002-of-00003.gguf", False),
        ("/data/m-00003-of-00003.gguf", "/models/m-00003-of-00003.gguf", False),
    ]


def test_an_engine_without_a_model_has_no_model_mounted() -> None:
    assert container(launch_of(ENGINE, None, {}, ())).model_mount is None


@pytest.mark.req("PM-07")
@pytest.mark.parametrize(
    "other",
    [
        replace(LAUNCH, model_digest="sha256:01"),
        replace(LAUNCH, model_path="/data/n.gguf"),
        replace(LAUNCH, env={"A": "2"}),
        replace(LAUNCH, devices=("GPU-2", "GPU-1")),
        replace(LAUNCH, engine=replace(ENGINE, args=(*ENGINE.args, "--seed", "1"))),
        replace(LAUNCH, engine=replace(ENGINE, engine_digest="sha256:ff")),
    ],
    ids=["digest", "path", "env", "devices", "args", "engine"],
)
def test_two_launches_are_the_same_only_when_everything_is(other: Launch) -> None:
    assert other.hash != LAUNCH.hash
    assert replace(LAUNCH).hash == LAUNCH.hash


def test_the_order_of_variables_does_not_matter() -> None:
    one, two = launch_of(ENGINE, MODEL, {"A": "1", "B": "2"}, ()), launch_of(ENGINE, MODEL, {"B": "2", "A": "1"}, ())
    assert one.hash == two.hash


@pytest.mark.req("ORCH-3820")
def test_a_native_engine_sees_the_gpus_of_its_mask_by_uuid() -> None:
    assert gpu_env(("GPU-1", "GPU-2")) == {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


# --- what is told of a start ------------------------------------------------------------------------------------------

SECRET = "s3cr3t-value-0123456789"
NATIVE = PreparedEngine(
    engine=Engine.LLAMACPP,
    engine_version="b1",
    provisioning_mode=Mode.SOURCE,
    bin_or_entry="/build/llama-server",
    args=("-m", "{model}", "--host", "{host}", "--port", "{port}"),
    env={"B": "2"},
    key_env="LLAMA_API_KEY",
)
POOL = Pool(id="gpu0", engine=Engine.LLAMACPP, model="file:/m", env={"A": "1"})


def command(launch: Launch = LAUNCH) -> tuple[str, ...]:
    return command_of(launch, Redactor((SECRET,)).text)


@pytest.mark.req("HP-21")
def test_a_native_engine_is_told_by_its_variables_its_program_and_its_arguments() -> None:
    assert command(launch_in(POOL, NATIVE, MODEL, ("GPU-1",))) == (
        *("A=1", "B=2", "CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=GPU-1"),
        *("/build/llama-server", "-m", "/data/m.gguf", "--host", "127.0.0.1", "--port", "{port}"),
    )


@pytest.mark.req("HP-21")
def test_a_container_is_told_by_its_image_and_what_runs_inside() -> None:
    image, inside = f"example.org/llama@sha256:{'a' * 64}", ("--model", "/models/m.gguf")
    assert command() == ("A=1", image, *inside, "--host", INSIDE, "--port", "8080")
    other = replace(LAUNCH, engine=replace(ENGINE, container=replace(RUN, entrypoint="serve")))
    assert command(other)[:3] == ("A=1", image, "serve")


@pytest.mark.req("HP-21", "PM-07")
def test_two_that_are_told_alike_are_the_same_and_the_same_are_told_alike() -> None:
    one, again = launch_in(POOL, NATIVE, MODEL, ()), launch_in(POOL, NATIVE, MODEL, ())
    other = launch_in(replace(POOL, env={"A": "2"}), NATIVE, MODEL, ())
    assert (one.hash, command(one)) == (again.hash, command(again))
    assert other.hash != one.hash
    assert command(other) != command(one)


@pytest.mark.req("ORCH-3811", "HP-21")
@pytest.mark.parametrize(
    ("args", "env"),
    [
        (("--api-key", "hunter"), {}),
        (("--hf-token", "hunter"), {}),
        (("--api-key=hunter",), {}),
        (("--alias", f"my-{SECRET}"), {}),
        (("--lora", "https://me:hunter@example.org/x"), {}),
        ((), {"HF_TOKEN": "hunter"}),
        ((), {"NAME": SECRET}),
    ],
)
def test_a_secret_that_somebody_configured_is_not_told(args: tuple[str, ...], env: dict[str, str]) -> None:
    engine = replace(NATIVE, args=(*NATIVE.args, *args))
    told = " ".join(command(launch_in(replace(POOL, env=env), engine, MODEL, ())))
    assert "hunter" not in told
    assert SECRET not in told
    assert "***" in told

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_runtime import argv
from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.spec import (
    LABEL_START,
    LABELS,
    ContainerSpec,
    DeviceRequest,
    ImageIdentity,
    Limits,
    Mount,
    PortMapping,
)

pytestmark = pytest.mark.req("CR-03", "ORCH-3801")

DIGEST = f"sha256:{'1a' * 32}"
IMAGE = f"ghcr.io/org/engine@{DIGEST}"
GPU = DeviceRequest.gpu("GPU-1f2c")
WHOLE: dict[str, Any] = {
    "tag": "1.0",
    "entrypoint": "/bin/engine",
    "args": ("--port", "8080"),
    "env": {"MODE": "quick", "PATH": "/opt/bin", "HTTPS_PROXY": "http://user:word@proxy"},
    "key_env": "ENGINE_KEY",
    "devices": (DeviceRequest.gpu(0), GPU),
    "ports": (PortMapping(container=8080), PortMapping(container=81, host=9000, address="::1")),
    "model_mount": Mount(source="/models/a", target="/models/a"),
    "mounts": (Mount(source="/cache", target="/cache", writable=True),),
    "tmpfs": ("/tmp",),
    "limits": Limits(memory_bytes=1024, shm_bytes=2048, cpus=1.5, pids=10),
    "stop_timeout_ms": 1_500,
}


def spec(**parts: Any) -> ContainerSpec:  # noqa: ANN401 - any field of it
    chosen = {"name": "gpu0", "image": "ghcr.io/org/engine", "digest": DIGEST, "labels": dict.fromkeys(LABELS, "x")}
    return ContainerSpec(**(chosen | parts))


def podman(**parts: Any) -> tuple[str, ...]:  # noqa: ANN401 - any field of the specification
    return argv.podman_run(spec(**parts), start="s")


def docker(*, cdi: bool = False, **parts: Any) -> tuple[str, ...]:  # noqa: ANN401 - as above
    return argv.docker_run(spec(**parts), start="s", user="1000:1000", cdi=cdi)


def common() -> set[str]:
    """What both are told of WHOLE."""
    return {
        "--detach",
        "--name=gpu0",
        "--pull=never",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--read-only",
        "--no-healthcheck",
        "--stop-signal=SIGTERM",
        "--stop-timeout=2",
        *(f"--label={name}=x" for name in LABELS),
        f"--label={LABEL_START}=s",
        "--publish=127.0.0.1::8080/tcp",
        "--publish=[::1]:9000:81/tcp",
        "--mount=type=bind,source=/models/a,target=/models/a,readonly",
        "--mount=type=bind,source=/cache,target=/cache",
        "--tmpfs=/tmp:rw,exec,nosuid,nodev,mode=1777",
        "--memory=1024b",
        "--shm-size=2048b",
        "--cpus=1.5",
        "--pids-limit=10",
        "--env=MODE",
        "--env=PATH=/opt/bin",
        "--env=HTTPS_PROXY",
        "--env=ENGINE_KEY",
        "--entrypoint=/bin/engine",
    }


def test_both_runtimes_are_told_the_same_and_then_the_image_and_its_arguments() -> None:
    for made in (podman(**WHOLE), docker(**WHOLE)):
        assert made[0] == "run"
        assert common() <= set(made)
        assert made[-3:] == (IMAGE, "--port", "8080")


def test_podman_gets_gpus_by_cdi_name_and_none_of_its_own_habits() -> None:
    made = podman(**WHOLE)
    assert {"--device=nvidia.com/gpu=0", "--device=nvidia.com/gpu=GPU-1f2c"} <= set(made)
    assert not any(option.startswith("--gpus") for option in made)
    quiet = {"--env-host=false", "--http-proxy=false", "--sdnotify=ignore", "--systemd=false", "--userns=host"}
    assert quiet | {"--user=0:0", "--read-only-tmpfs=false", "--log-driver=k8s-file"} <= set(made)


def test_docker_gets_gpus_through_nvidias_hook_or_by_cdi_name_where_it_knows_them() -> None:
    assert '--gpus="device=0,GPU-1f2c","capabilities=compute,utility"' in docker(**WHOLE)
    made = docker(cdi=True, **WHOLE)
    assert {"--device=nvidia.com/gpu=0", "--device=nvidia.com/gpu=GPU-1f2c"} <= set(made)
    assert not any(option.startswith("--gpus") for option in made)
    assert {"--user=1000:1000", "--log-driver=json-file"} <= set(made)
    assert not any(option.startswith(("--gpus", "--device")) for option in docker())


def test_docker_without_cdi_cannot_give_another_makers_device() -> None:
    with pytest.raises(ContainerError, match=r"amd.com/gpu=0 is none") as caught:
        docker(devices=(DeviceRequest(cdi="amd.com/gpu=0"),))
    assert caught.value.cause is RuntimeCause.NO_DEVICE


def test_nothing_runs_by_a_tag() -> None:
    with pytest.raises(ContainerError, match="has no digest") as caught:
        podman(digest=None, tag="1.0")
    assert caught.value.cause is RuntimeCause.BAD_REFERENCE


def test_an_engine_that_must_write_beside_its_program_may() -> None:
    for made in (podman(read_only_root=False), docker(read_only_root=False)):
        assert not any(option.startswith("--read-only") for option in made)


def test_an_image_without_a_registry_is_dockers_for_both() -> None:
    assert podman(image="vllm/vllm-openai")[-1] == f"docker.io/vllm/vllm-openai@{DIGEST}"
    assert docker(image="busybox")[-1] == f"docker.io/library/busybox@{DIGEST}"
    assert podman(image="localhost/engine")[-1] == f"localhost/engine@{DIGEST}"


@pytest.mark.req("CR-04")
@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12), st.sampled_from(["MODE", "HF_TOKEN"]))
def test_no_value_of_a_variable_stands_in_a_vector(value: str, name: str) -> None:
    wanted = spec(env={name: value}, key_env="ENGINE_KEY")
    for made in (argv.podman_run(wanted, start="s"), argv.docker_run(wanted, start="s", user="1:1", cdi=True)):
        assert not any(value in option for option in made)
    assert argv.carried_environ(wanted, f"key {value}") == {name: value, "ENGINE_KEY": f"key {value}"}


def test_a_variable_that_steers_the_client_does_not_reach_it() -> None:
    wanted = spec(env={"HOME": "/tmp", "LD_LIBRARY_PATH": "/x", "DOCKER_HOST": "tcp://x", "A": "1"})
    assert argv.carried_environ(wanted, None) == {"A": "1"}
    made = argv.podman_run(wanted, start="s")
    assert {"--env=HOME=/tmp", "--env=LD_LIBRARY_PATH=/x", "--env=DOCKER_HOST=tcp://x", "--env=A"} <= set(made)


def test_the_client_gets_what_it_reads_and_no_token() -> None:
    given_by_us = {
        "LLORCH_API_TOKEN": "t",
        "HF_TOKEN": "t",
        "NOTIFY_SOCKET": "/run/n",
        "LD_PRELOAD": "x",
        "CREDENTIALS_DIRECTORY": "/run/c",
    }
    read = {
        "PATH": "/bin",
        "HOME": "/home/a",
        "XDG_RUNTIME_DIR": "/run/user/1",
        "DBUS_SESSION_BUS_ADDRESS": "unix:",
        "DOCKER_HOST": "unix:///x",
        "REGISTRY_AUTH_FILE": "/a",
        "CONTAINERS_CONF": "/c",
        "https_proxy": "http://p",
        "NO_PROXY": "x",
        "LC_ALL": "C",
    }
    assert argv.client_environ(given_by_us | read) == read


def test_a_container_that_lists_gpus_is_as_locked_in_and_has_no_network() -> None:
    identity = ImageIdentity(image="ghcr.io/org/engine", tag="1.0", digest=DIGEST)
    for made in (
        argv.podman_smi(identity, (GPU,), start="s"),
        argv.docker_smi(identity, (GPU,), start="s", user="1:1", cdi=True),
    ):
        told = {"--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--pull=never", "--entrypoint=nvidia-smi"}
        assert told | {"--device=nvidia.com/gpu=GPU-1f2c", f"--label={LABEL_START}=s"} <= set(made)
        assert made[-2:] == (IMAGE, "-L")


@pytest.mark.parametrize(
    ("follow", "tail", "options"),
    [
        (False, None, ()),
        (True, None, ("--follow",)),
        (True, 0, ("--follow", "--tail=0")),
        (False, 200, ("--tail=200",)),
    ],
)
def test_a_log_is_read_whole_or_from_its_last_lines_on(
    follow: bool, tail: int | None, options: tuple[str, ...]
) -> None:
    assert argv.log_options(follow=follow, tail=tail) == options


@pytest.mark.parametrize(("milliseconds", "seconds"), [(0, 0), (1, 1), (1_000, 1), (1_001, 2)])
def test_a_runtime_counts_seconds_and_never_too_few(milliseconds: int, seconds: int) -> None:
    assert argv.whole_seconds(milliseconds) == seconds

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from container_runtime.errors import (
    ContainerError,
    DigestMismatchError,
    ImageMissingError,
    RegistryUnreachableError,
    RuntimeCause,
    SpecError,
    TamperedContentError,
)
from container_runtime.spec import (
    LABELS,
    ContainerHandle,
    ContainerSpec,
    DeviceRequest,
    ImageReference,
    Limits,
    Mount,
    PortMapping,
)

DIGEST = f"sha256:{'0' * 64}"


def spec(**parts: Any) -> ContainerSpec:  # noqa: ANN401 - any field of the specification
    chosen = {"name": "llama-orch-gpu0", "image": "ghcr.io/org/engine", "labels": dict.fromkeys(LABELS, "x")}
    return ContainerSpec(**(chosen | parts))


def refusal(make: Any, **parts: Any) -> tuple[str, str]:  # noqa: ANN401 - any value and any field of it
    with pytest.raises(SpecError) as caught:
        make(**parts)
    return caught.value.field, caught.value.message


def test_a_whole_specification_can_be_made() -> None:
    found = spec(
        digest=DIGEST,
        tag="1.0",
        devices=(DeviceRequest.gpu(0), DeviceRequest.gpu("GPU-1f2c0000")),
        ports=(PortMapping(container=8080), PortMapping(container=8081, host=9000, address="127.0.0.2")),
        model_mount=Mount(source="/models/a", target="/model"),
        mounts=(Mount(source="/cache", target="/root/.cache", writable=True),),
        limits=Limits(memory_bytes=1 << 30, shm_bytes=1 << 30, cpus=1.5, pids=100),
        env={"A": "1"},
        key_env="VLLM_API_KEY",
    )
    assert [device.cdi for device in found.devices] == ["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1f2c0000"]
    assert [mount.target for mount in found.all_mounts] == ["/model", "/root/.cache"]
    assert found.read_only_root
    assert not found.all_mounts[0].writable


def test_a_digest_outranks_a_tag() -> None:
    assert spec(digest=DIGEST, tag="1.0").reference.text == f"ghcr.io/org/engine@{DIGEST}"
    assert spec(tag="1.0").reference.text == "ghcr.io/org/engine:1.0"
    assert spec().reference.text == "ghcr.io/org/engine"
    assert spec(image="127.0.0.1:5000/engine", tag="1.0").reference.text == "127.0.0.1:5000/engine:1.0"


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize("image", ["me:sesame@ghcr.io/a/b", "sesame@ghcr.io/a", "https://me:sesame@ghcr.io/a/b:v1"])
def test_a_password_in_the_name_of_an_image_is_not_repeated(image: str) -> None:
    field, message = refusal(ImageReference, image=image)
    assert field == "image"
    assert message == "the name holds a user name or a password: log in with the runtime instead"


def test_a_digest_in_the_name_of_an_image_is_no_password() -> None:
    _, message = refusal(ImageReference, image=f"ghcr.io/a/b@{DIGEST}")
    assert message == f"'ghcr.io/a/b@{DIGEST}' is no image name without tag and digest"
    assert "sesame" not in refusal(ImageReference, image=f"me:sesame@ghcr.io/a/b@{DIGEST}")[1]


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.0.2", "localhost", ""])  # noqa: S104 - they are refused
def test_a_port_that_others_could_reach_is_refused(address: str) -> None:
    field, message = refusal(PortMapping, container=80, address=address)
    assert field == "ports"
    assert "is not a loopback address" in message


@given(st.ip_addresses(v=4))
def test_only_loopback_addresses_are_taken(address: Any) -> None:  # noqa: ANN401 - an address of ipaddress
    if address.is_loopback:
        assert PortMapping(container=80, address=str(address)).host == 0
    else:
        refusal(PortMapping, container=80, address=str(address))


@pytest.mark.parametrize(("container", "host"), [(0, 0), (65_536, 0), (80, -1), (80, 65_536)])
def test_what_is_no_port_is_refused(container: int, host: int) -> None:
    assert refusal(PortMapping, container=container, host=host) == ("ports", f"{host}:{container} are no ports")


def test_a_model_is_mounted_read_only() -> None:
    field, message = refusal(spec, model_mount=Mount(source="/models", target="/model", writable=True))
    assert (field, message) == ("model_mount", "models are mounted read-only: several pools share them")
    assert not Mount(source="/models", target="/model").writable


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a:/b", "/a,readonly=false", "/a\nb", ""])
@pytest.mark.parametrize("field", ["source", "target"])
def test_a_path_that_could_mean_something_else_is_refused(field: str, path: str) -> None:
    paths = {"source": "/a", "target": "/b"} | {field: path}
    assert refusal(Mount, **paths)[0] == f"mounts.{field}"


@pytest.mark.parametrize("cdi", ["all", "0", "nvidia.com/gpu", "nvidia.com/gpu=", "nvidia.com/gpu=0 --privileged"])
def test_what_is_no_cdi_device_is_refused(cdi: str) -> None:
    assert refusal(DeviceRequest, cdi=cdi)[0] == "devices"


def test_all_gpus_are_never_asked_for() -> None:
    assert refusal(DeviceRequest, cdi="nvidia.com/gpu=all")[1] == "a pool has the GPUs of its mask, never all"


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"name": "-rf"}, "name"),
        ({"name": ""}, "name"),
        ({"image": "org/engine:latest"}, "image"),
        ({"image": f"org/engine@{DIGEST}"}, "image"),
        ({"image": "--privileged"}, "image"),
        ({"image": ""}, "image"),
        ({"digest": "sha256:short"}, "digest"),
        ({"labels": {}}, "labels"),
        ({"labels": dict.fromkeys(LABELS, "")}, "labels"),
        ({"env": {"A=B": "1"}}, "env"),
        ({"key_env": "A B"}, "env"),
        ({"env": {"KEY": "sesame"}, "key_env": "KEY"}, "env"),
        ({"mounts": (Mount(source="/a", target="/x"), Mount(source="/b", target="/x"))}, "mounts"),
        ({"stop_timeout_ms": 0}, "stop_timeout_ms"),
    ],
)
def test_a_specification_that_must_not_run_cannot_be_made(parts: dict[str, Any], field: str) -> None:
    found, message = refusal(spec, **parts)
    assert found == field
    assert "sesame" not in message


@pytest.mark.parametrize("field", ["memory_bytes", "shm_bytes", "cpus", "pids"])
def test_a_limit_is_more_than_nothing(field: str) -> None:
    assert refusal(Limits, **{field: 0}) == (f"limits.{field}", "0 is no limit")


def test_a_specification_read_back_is_held_to_the_same_rules() -> None:
    text = msgspec.json.encode(spec(ports=(PortMapping(container=80),)))
    assert msgspec.json.decode(text, type=ContainerSpec) == spec(ports=(PortMapping(container=80),))
    with pytest.raises(msgspec.ValidationError, match="not a loopback address"):
        msgspec.json.decode(text.replace(b"127.0.0.1", b"0.0.0.0"), type=ContainerSpec)


def test_a_handle_survives_a_restart() -> None:
    handle = ContainerHandle(
        runtime="podman",
        container_id="abc",
        name="llama-orch-gpu0",
        image_digest=DIGEST,
        ports=(PortMapping(container=80, host=4711),),
        labels=dict.fromkeys(LABELS, "x"),
    )
    assert msgspec.json.decode(msgspec.json.encode(handle), type=ContainerHandle) == handle


@pytest.mark.parametrize(
    ("error", "cause", "message"),
    [
        (ImageMissingError("x:1"), RuntimeCause.IMAGE_MISSING, "the registry has no image x:1"),
        (DigestMismatchError("x@a", "b"), RuntimeCause.DIGEST_MISMATCH, "x@a was asked for, and b came"),
        (TamperedContentError("x"), RuntimeCause.TAMPERED_CONTENT, "the content of x does not match its manifest"),
        (RegistryUnreachableError("r"), RuntimeCause.REGISTRY_UNREACHABLE, "the registry r cannot be reached"),
    ],
)
def test_each_failure_has_its_own_cause_and_mend(error: ContainerError, cause: RuntimeCause, message: str) -> None:
    assert (error.cause, error.message, str(error)) == (cause, message, message)
    assert error.hint
    assert error.output == ""

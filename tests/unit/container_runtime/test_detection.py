from __future__ import annotations

from typing import Any

import pytest

from container_runtime import cdi, detection, findings
from container_runtime.choose import runtime_named
from container_runtime.docker import DockerRuntime
from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.podman import PodmanRuntime
from container_runtime.spec import DeviceRequest

pytestmark = pytest.mark.req("CR-01", "ORCH-3801")

IDS = [{"container_id": 0, "host_id": 1000, "size": 1}, {"container_id": 1, "host_id": 100000, "size": 65536}]
PODMAN: dict[str, Any] = {
    "host": {
        "serviceIsRemote": False,
        "security": {"rootless": True},
        "idMappings": {"uidmap": IDS, "gidmap": IDS},
        "slirp4netns": {"executable": "/usr/bin/slirp4netns"},
        "cgroupControllers": ["cpu", "memory", "pids"],
    },
    "store": {"graphRoot": "/home/a/.local/share/containers/storage"},
    "version": {"Version": "4.3.1"},
}
DOCKER: dict[str, Any] = {"ServerVersion": "28.2.2", "OSType": "linux", "MemoryLimit": True, "SecurityOptions": []}


def podman(version: str = "4.3.1", **host: Any) -> dict[str, Any]:  # noqa: ANN401 - any part of the answer
    return PODMAN | {"host": PODMAN["host"] | host, "version": {"Version": version}}


def test_a_podman_that_works_is_usable() -> None:
    found = detection.podman(PODMAN)
    assert (found.usable, found.version, found.hint) == (True, "4.3.1", "")
    assert found.reason == "rootless podman 4.3.1 works"
    assert detection.podman(podman("5.4.0", slirp4netns={}, pasta={"executable": "/usr/bin/pasta"})).usable


def test_a_host_that_cannot_limit_containers_is_said_to() -> None:
    assert detection.podman(podman(cgroupControllers=["pids"])).reason.endswith("; it cannot limit memory, cpu here")
    assert detection.docker(DOCKER | {"MemoryLimit": False}, None).reason == (
        "docker 28.2.2 answers; it cannot limit memory here"
    )


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (podman(serviceIsRemote=True), "another machine"),
        (podman(security={"rootless": False}), "not rootless"),
        (podman("4.0.3"), "CDI came with 4.1"),
        (podman("3.4.4"), "CDI came with 4.1"),
        (podman(idMappings={"uidmap": IDS[:1], "gidmap": IDS}), "/etc/subuid gives this user no range"),
        (podman(idMappings={"uidmap": IDS, "gidmap": None}), "/etc/subgid gives this user no range"),
        (podman(slirp4netns={"executable": ""}), "neither slirp4netns nor pasta"),
        (PODMAN | {"store": {}}, "no storage"),
        ({}, "not rootless"),
    ],
)
def test_a_podman_that_is_installed_is_not_enough(info: dict[str, Any], reason: str) -> None:
    found = detection.podman(info)
    assert not found.usable
    assert reason in found.reason
    assert found.hint


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ('Error: command required for rootless mode with multiple IDs: exec: "newuidmap": not found', "uidmap"),
        ("cannot clone: Operation not permitted\nError: cannot re-exec process", "user namespaces"),
        ("Error: database is locked", "podman info"),
        ("", "podman info"),
    ],
)
def test_a_podman_that_fails_says_why_and_how_to_mend_it(output: str, hint: str) -> None:
    found = detection.podman_failed(output)
    assert not found.usable
    assert hint in found.hint


def test_a_docker_daemon_of_this_machine_is_usable() -> None:
    assert detection.docker(DOCKER, "unix:///var/run/docker.sock").usable
    assert detection.docker(DOCKER, None).usable


@pytest.mark.parametrize(
    ("info", "endpoint", "reason"),
    [
        ({"ServerErrors": ["Cannot connect to the Docker daemon"]}, None, "Cannot connect"),
        (DOCKER, "ssh://elsewhere", "another machine: ssh://elsewhere"),
        (DOCKER | {"OSType": "windows"}, None, "windows containers"),
        (PODMAN, None, "podman under another name"),
        ({}, None, "no version"),
    ],
)
def test_a_docker_that_cannot_be_used_says_why(info: dict[str, Any], endpoint: str | None, reason: str) -> None:
    found = detection.docker(info, endpoint)
    assert not found.usable
    assert reason in found.reason
    assert found.hint


def test_a_user_who_may_not_talk_to_docker_is_told_what_the_group_means() -> None:
    words = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock"
    found = detection.docker_failed(words)
    assert "as good as root" in found.hint
    assert "install rootless podman" in found.hint


def test_what_changes_how_a_daemon_is_asked() -> None:
    assert detection.docker_facts(DOCKER) == detection.DockerFacts()
    info = {
        "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
        "CDISpecDirs": ["/etc/cdi"],
        "Runtimes": {"runc": {}, "nvidia": {}},
    }
    assert detection.docker_facts(info) == detection.DockerFacts(rootless=True, cdi=True, nvidia=True)


def test_a_runtime_is_found_by_the_name_in_a_handle() -> None:
    assert isinstance(runtime_named("podman", {}, str), PodmanRuntime)
    assert isinstance(runtime_named("docker", {}, str), DockerRuntime)
    with pytest.raises(ContainerError, match="'lxc' is no container runtime") as caught:
        runtime_named("lxc", {}, str)
    assert caught.value.cause is RuntimeCause.NO_RUNTIME


# --- CDI -------------------------------------------------------------------------------------------------------------

GOOD = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0"}, {"name": "all"}, {"no": "name"}]}
GPUS = (DeviceRequest.gpu(0), DeviceRequest.gpu(7))


def test_a_cdi_file_offers_its_devices_by_their_full_names() -> None:
    file = cdi.read("/etc/cdi/nvidia.yaml", GOOD)
    assert (file.devices, file.problem) == (("nvidia.com/gpu=0", "nvidia.com/gpu=all"), None)
    assert cdi.unoffered((file,), GPUS) == ("nvidia.com/gpu=7",)


@pytest.mark.parametrize("document", [None, [], "text", {}, GOOD | {"devices": {}}, GOOD | {"cdiVersion": 0.5}])
def test_what_is_no_cdi_file_says_so(document: object) -> None:
    file = cdi.read("/etc/cdi/x.yaml", document)
    assert file.devices == ()
    assert file.problem is not None
    assert file.problem.startswith("it is no CDI specification")


@pytest.mark.parametrize(("version", "reads"), [("0.3.0", True), ("0.5.0", True), ("0.6.0", False), ("1.0.0", False)])
def test_an_old_podman_reads_no_newer_file(version: str, reads: bool) -> None:
    file = cdi.read("/etc/cdi/nvidia.yaml", GOOD | {"cdiVersion": version})
    assert cdi.readable(file, None) == file
    seen = cdi.readable(file, cdi.OLD_PODMAN_NEWEST)
    assert (seen.problem is None) is reads
    assert bool(seen.devices) is reads


@pytest.mark.req("ORCH-3804")
def test_a_device_that_cannot_be_had_is_found_with_its_reason_and_mend() -> None:
    file = cdi.read("/etc/cdi/nvidia.yaml", GOOD)
    assert findings.of_cdi((file,), GPUS[:1]) == ()
    (absent,) = findings.of_cdi((), GPUS)
    assert "no CDI file in /etc/cdi or /var/run/cdi" in absent.message
    (missing,) = findings.of_cdi((file,), GPUS)
    assert missing.message == ("no CDI file offers nvidia.com/gpu=7; offered are: nvidia.com/gpu=0, nvidia.com/gpu=all")
    broken, none = findings.of_cdi((cdi.readable(file, (0, 4)),), GPUS)
    assert "/etc/cdi/nvidia.yaml cannot be used: its cdiVersion 0.5.0 is newer than 0.4" in broken.message
    assert none.message.endswith("offered are: none")
    assert all("nvidia-ctk cdi generate" in finding.hint for finding in (absent, missing, broken, none))
    assert "nvidia-ctk runtime configure" in findings.of_hook()[0].hint


@pytest.mark.parametrize(("text", "numbers"), [("4.3.1", (4, 3, 1)), ("v5.0-rc1", (5, 0)), ("", ()), ("dev", ())])
def test_versions_are_compared_by_their_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert cdi.version_of(text) == numbers

"""The texts are recorded: podman 4.3.1 and docker 20.10.24, with clients 20.10 and 28.2."""

from __future__ import annotations

import json
from typing import Any

import pytest

from container_runtime import answers
from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.spec import ContainerState, ImageReference, PortMapping

DIGEST = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"
IMAGE = ImageReference(image="127.0.0.1:5000/t", digest=DIGEST)
RETRY = 'time="2026-11-21T11:55:02Z" level=warning msg="Failed, retrying in 1s ... (1/3). Error: initializing source'
SHIM = "docker: Error response from daemon: failed to create shim task: OCI runtime create failed: runc create failed: "
EPILOGUE = "\n\nRun 'docker run --help' for more information\n"

PULLS = {
    f"Trying to pull {IMAGE.text}...\nError: initializing source docker://{IMAGE.text}: reading manifest {DIGEST} in"
    " 127.0.0.1:5000/t: manifest unknown: manifest unknown": RuntimeCause.IMAGE_MISSING,
    f"Error response from daemon: manifest for {IMAGE.text} not found: manifest unknown: manifest unknown": (
        RuntimeCause.IMAGE_MISSING
    ),
    f'{RETRY} docker://127.0.0.1:5001/none:1: pinging"\nError: initializing source docker://127.0.0.1:5001/none:1:'
    ' pinging container registry 127.0.0.1:5001: Get "http://127.0.0.1:5001/v2/": dial tcp 127.0.0.1:5001: connect:'
    " connection refused": RuntimeCause.REGISTRY_UNREACHABLE,
    # What was tried before failed for a reason that passed.
    f'{RETRY} docker://x/t: Get "http://x/v2/": dial tcp: connect: connection refused"\nError: initializing source'
    " docker://x/t:1: reading manifest 1 in x/t: manifest unknown": RuntimeCause.IMAGE_MISSING,
    f'{RETRY} docker://x/t: toomanyrequests: rate limit exceeded"\nError: initializing source docker://x/t:1: pinging'
    ' container registry x: Get "https://x/v2/": dial tcp 10.0.0.1:443: i/o timeout': RuntimeCause.REGISTRY_UNREACHABLE,
    'Error: initializing source docker://nosuch.invalid/none:1: pinging container registry nosuch.invalid: Get "https://'
    'nosuch.invalid/v2/": dial tcp: lookup nosuch.invalid on 10.255.255.53:53: dial udp 10.255.255.53:53: connect:'
    " network is unreachable": RuntimeCause.REGISTRY_UNREACHABLE,
    'Error response from daemon: Get "https://registry/v2/": x509: certificate signed by unknown authority': (
        RuntimeCause.REGISTRY_UNREACHABLE
    ),
    "Error: repository name must be lowercase": RuntimeCause.BAD_REFERENCE,
    "invalid reference format: repository name (T) must be lowercase": RuntimeCause.BAD_REFERENCE,
    "Error: initializing source docker://127.0.0.1:5002/t:1: reading manifest 1 in 127.0.0.1:5002/t: unauthorized:"
    " authentication required": RuntimeCause.UNAUTHORIZED,
    'Error response from daemon: Head "http://127.0.0.1:5002/v2/t/manifests/1": no basic auth credentials': (
        RuntimeCause.UNAUTHORIZED
    ),
    "Error response from daemon: pull access denied for nothere, repository does not exist or may require 'docker"
    " login': denied: requested access to the resource is denied": RuntimeCause.UNAUTHORIZED,
    "Error response from daemon: toomanyrequests: You have reached your pull rate limit.": RuntimeCause.RATE_LIMITED,
    f"Error: determining manifest MIME type for docker://{IMAGE.text}: Manifest does not match provided manifest digest"
    f" {DIGEST}": RuntimeCause.DIGEST_MISMATCH,
    f"{IMAGE.text}: Pulling from t\nmanifest verification failed for digest {DIGEST}": RuntimeCause.DIGEST_MISMATCH,
    'Error: writing blob: storing blob to file "/var/tmp/storage1115027405/1": happened during read: Digest did not'
    f" match, expected {DIGEST}, got {OTHER}": RuntimeCause.TAMPERED_CONTENT,
    "Copying config x\nError: writing blob: blob size mismatch": RuntimeCause.TAMPERED_CONTENT,
    f"26c8a811924d: Verifying Checksum\nfilesystem layer verification failed for digest {DIGEST}": (
        RuntimeCause.TAMPERED_CONTENT
    ),
    'Error: writing blob: adding layer with blob "x": processing tar file(flate: corrupt input before offset 5)': (
        RuntimeCause.TAMPERED_CONTENT
    ),
    "Error: writing blob: storing blob to file: write /var/tmp/storage/1: no space left on device": (
        RuntimeCause.NO_SPACE
    ),
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?": (
        RuntimeCause.NO_RUNTIME
    ),
    "Error: something that nobody has seen before": RuntimeCause.FAILED,
    "": RuntimeCause.FAILED,
}
RUNS = {
    'Error: creating container storage: the container name "x" is already in use by 716a. You have to remove that'
    " container to be able to reuse that name: that name is already in use": RuntimeCause.NAME_TAKEN,
    'docker: Error response from daemon: Conflict. The container name "/xx" is already in use by container "c4". You'
    f" have to remove (or rename) that container to be able to reuse that name.{EPILOGUE}": RuntimeCause.NAME_TAKEN,
    f"Error: {IMAGE.text}: image not known": RuntimeCause.IMAGE_MISSING,
    f"docker: Error response from daemon: No such image: {IMAGE.text}{EPILOGUE}": RuntimeCause.IMAGE_MISSING,
    "Error: crun: executable file `nothere` not found in $PATH: No such file or directory: OCI runtime attempted to"
    " invoke a command that was not found": RuntimeCause.START_FAILED,
    f'{"c" * 64}\n{SHIM}unable to start container process: exec: "nothere": executable file not found in $PATH: unknown'
    f"{EPILOGUE}": RuntimeCause.START_FAILED,
    "Error: rootlessport listen tcp 127.0.0.1:5000: bind: address already in use": RuntimeCause.PORT_TAKEN,
    "docker: Error response from daemon: driver failed programming external connectivity on endpoint zz (73): Error"
    f" starting userland proxy: listen tcp4 127.0.0.1:5000: bind: address already in use{EPILOGUE}": (
        RuntimeCause.PORT_TAKEN
    ),
    "Error: statfs /nothere: no such file or directory": RuntimeCause.BAD_MOUNT,
    'docker: Error response from daemon: invalid mount config for type "bind": bind source path does not exist:'
    f" /nothere{EPILOGUE}": RuntimeCause.BAD_MOUNT,
    "Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=7": RuntimeCause.NO_DEVICE,
    'docker: Error response from daemon: could not select device driver "cdi" with capabilities: []': (
        RuntimeCause.NO_DEVICE
    ),
    'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].': (
        RuntimeCause.NO_DEVICE
    ),
    f"{SHIM}error running hook #0: error running hook: exit status 1, stdout: , stderr: nvidia-container-cli: device"
    f" error: 7: unknown device: unknown{EPILOGUE}": RuntimeCause.NO_DEVICE,
    "docker: Error response from daemon: NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or"
    f" the cgroup is not mounted{EPILOGUE}": RuntimeCause.NO_LIMITS,
    "Error: crun: controller `cpu` is not available under /sys/fs/cgroup/user.slice/cgroup.controllers: OCI runtime"
    " error": RuntimeCause.NO_LIMITS,
    "docker: permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock": (
        RuntimeCause.NO_RUNTIME
    ),
}
ASKS = {
    'Error: no container with name or ID "nothere" found: no such container': RuntimeCause.CONTAINER_GONE,
    '[]\nError: inspecting object: no such object: "nothere"': RuntimeCause.CONTAINER_GONE,
    "[]\nError: No such object: nothere": RuntimeCause.CONTAINER_GONE,
    "Error response from daemon: No such container: nothere": RuntimeCause.CONTAINER_GONE,
    "Error: something else": RuntimeCause.FAILED,
}


def assert_says(error: ContainerError, output: str, cause: RuntimeCause) -> None:
    assert error.cause is cause
    assert error.output == output
    assert error.hint
    assert "\n" not in error.message
    assert not error.message.endswith(": ")


@pytest.mark.req("CR-02")
@pytest.mark.parametrize(("output", "cause"), PULLS.items())
def test_a_failed_pull_has_the_cause_that_its_words_tell(output: str, cause: RuntimeCause) -> None:
    assert_says(answers.pull_error(IMAGE, output), output, cause)


@pytest.mark.req("CR-01", "CR-03")
@pytest.mark.parametrize(("output", "cause"), RUNS.items())
def test_a_failed_start_has_the_cause_that_its_words_tell(output: str, cause: RuntimeCause) -> None:
    assert_says(answers.run_error(IMAGE, output), output, cause)


@pytest.mark.parametrize(("output", "cause"), ASKS.items())
def test_a_question_about_what_is_gone_is_told_from_one_that_failed(output: str, cause: RuntimeCause) -> None:
    assert_says(answers.ask_error(IMAGE, output), output, cause)


def test_a_message_has_the_telling_line_without_the_runtimes_preambles() -> None:
    output = f"{'c' * 64}\nWARNING: x\ndocker: Error response from daemon: port is already allocated.{EPILOGUE}"
    assert answers.telling_line(output) == "port is already allocated."
    assert answers.telling_line(f"Error: {'x' * 1000}") == "x" * 300
    assert answers.telling_line("[]\n\n") == ""
    assert answers.run_error(IMAGE, "").message.endswith("the runtime said nothing")


def test_an_image_that_is_not_here_is_told_from_a_question_that_failed() -> None:
    assert answers.is_no_such_image(f"[]\nError: inspecting object: {IMAGE.text}: image not known")
    assert answers.is_no_such_image(f"[]\nError response from daemon: no such image: {IMAGE.text}: No such image: x")
    assert not answers.is_no_such_image("Error: database is locked")


# --- JSON ------------------------------------------------------------------------------------------------------------

PODMAN: dict[str, Any] = {
    "Id": "f" * 64,
    "Name": "gpu0",
    "ImageName": f"127.0.0.1:5000/t@{DIGEST}",
    "ImageDigest": OTHER,
    "State": {
        "Running": True,
        "OOMKilled": False,
        "Pid": 250,
        "ExitCode": 0,
        "StartedAt": "2026-11-21T11:54:03.831640667Z",
    },
    "Config": {"Env": ["KEY=a=b", "EMPTY=", "HOME=/root"], "Labels": {"llama-orch.pool": "a"}, "Image": "t"},
    "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "35669"}], "81/tcp": None}},
    "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "35669"}]}},
}
DOCKER: dict[str, Any] = {
    "Id": "e" * 64,
    "Name": "/gpu0",
    "Image": OTHER,
    "State": {
        "Running": False,
        "OOMKilled": True,
        "Pid": 0,
        "ExitCode": 137,
        "StartedAt": "2026-11-21T11:56:23.079371045Z",
    },
    "Config": {"Env": None, "Labels": None, "Image": f"127.0.0.1:5000/t@{DIGEST}"},
    "NetworkSettings": {"Ports": {}},
    "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
}


@pytest.mark.req("CR-05")
def test_a_handle_is_read_from_what_either_runtime_answers() -> None:
    running = answers.handle("podman", PODMAN)
    assert running.ports == (PortMapping(container=80, host=35669),)
    assert (running.container_id, running.name, running.image_digest) == ("f" * 64, "gpu0", DIGEST)
    assert running.labels == {"llama-orch.pool": "a"}
    ended = answers.handle("docker", DOCKER)
    assert (ended.container_id, ended.name, ended.image_digest) == ("e" * 64, "gpu0", DIGEST)
    assert (ended.ports, ended.labels) == ((), {})


def test_ports_of_a_container_that_does_not_run_are_those_it_asked_for() -> None:
    stopped = PODMAN | {"NetworkSettings": {"Ports": {}}}
    assert answers.handle("podman", stopped).ports == (PortMapping(container=80, host=35669),)


def test_a_port_that_is_none_of_ours_is_left_out() -> None:
    public = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "80"}, {"HostIp": "::1", "HostPort": "x"}]}  # noqa: S104
    assert answers.handle("docker", DOCKER | {"NetworkSettings": {"Ports": public}}).ports == ()


def test_a_state_is_read_from_what_either_runtime_answers() -> None:
    assert answers.main_process(PODMAN) == 250
    assert answers.state(PODMAN, (250, 251)) == ContainerState(
        running=True, started_at="2026-11-21T11:54:03.831640667Z", pids=(250, 251)
    )
    assert answers.main_process(DOCKER) is None
    assert answers.state(DOCKER, (1,)) == ContainerState(
        running=False, exit_code=137, oom_killed=True, started_at="2026-11-21T11:56:23.079371045Z"
    )
    never = {"State": {"Running": False, "ExitCode": 0, "StartedAt": "0001-01-01T00:00:00Z"}}
    assert answers.state(never) == ContainerState(running=False)


def test_an_environment_keeps_what_stands_behind_the_first_equals_sign() -> None:
    assert answers.environment(PODMAN) == {"KEY": "a=b", "EMPTY": "", "HOME": "/root"}
    assert answers.environment(DOCKER) == {}


@pytest.mark.req("ORCH-3802")
def test_digests_are_those_of_the_images_own_repository() -> None:
    image = {
        "Digest": OTHER,
        "RepoDigests": [
            f"127.0.0.1:5000/t@{DIGEST}",
            f"127.0.0.1:5000/t@{OTHER}",
            f"localhost/t@sha256:{'c' * 64}",
            "x",
        ],
    }
    assert answers.repository_digests(image, IMAGE) == (OTHER, DIGEST)
    assert answers.repository_digests({"RepoDigests": None}, IMAGE) == ()
    # docker leaves out what podman writes.
    bare = {"RepoDigests": [f"vllm/vllm-openai@{DIGEST}"]}
    assert answers.repository_digests(bare, ImageReference(image="docker.io/vllm/vllm-openai")) == (DIGEST,)


def test_an_answer_that_is_no_inspect_is_an_error() -> None:
    assert answers.objects("") == ()
    assert answers.objects(json.dumps([PODMAN])) == (PODMAN,)
    with pytest.raises(ContainerError, match="not what inspect answers"):
        answers.objects("podman: command not found")


def test_docker_names_the_digest_that_it_pulled() -> None:
    assert answers.pulled_digest(f"1: Pulling from t\nDigest: {DIGEST}\nStatus: Downloaded newer image") == DIGEST
    assert answers.pulled_digest("Status: Image is up to date") is None


def test_gpus_are_those_that_nvidia_smi_lists() -> None:
    listed = (
        "GPU 0: NVIDIA GeForce RTX 3090 (UUID: GPU-0f2c0000-aaaa-bbbb-cccc-000000000000)\n"
        "GPU 1: NVIDIA A100 (UUID: GPU-1f2c0000-aaaa-bbbb-cccc-000000000000)\n"
        "  MIG 1g.5gb      Device  0: (UUID: MIG-2f2c0000-aaaa-bbbb-cccc-000000000000)\n"
    )
    assert answers.gpus_listed(listed) == (
        "GPU-0f2c0000-aaaa-bbbb-cccc-000000000000",
        "GPU-1f2c0000-aaaa-bbbb-cccc-000000000000",
        "MIG-2f2c0000-aaaa-bbbb-cccc-000000000000",
    )
    assert answers.gpus_listed("No devices were found\n") == ()

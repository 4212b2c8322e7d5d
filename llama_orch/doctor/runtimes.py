"""Asks podman and docker how they are, each once and for a few seconds.

Decides who has to be asked; what their answers mean, ``container_runtime.detection`` decides.
"""

from __future__ import annotations

import asyncio

import msgspec

from container_runtime import argv, detection
from container_runtime.base import ContainerRuntime, Detection, Redact
from container_runtime.choose import Choice
from container_runtime.command import Command
from container_runtime.docker import DockerRuntime
from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.podman import PodmanRuntime
from daemon_core.redaction import Redactor
from llama_orch.doctor.judge.containers import Runtime
from llama_orch.doctor.machine import Look

PODMAN_S = 8.0
"""Its first call after a boot sets up a user namespace and looks through its storage."""
DOCKER_S = 5.0


_UNASKED = Runtime(detection=Detection(runtime="", usable=False, reason="it was not asked"))


async def needed(look: Look) -> tuple[Runtime, Runtime]:
    """Podman and docker, as far as they have to be asked: podman where pools need one, docker where podman is none."""
    if not look.machine.needs.containers:
        return _UNASKED, _UNASKED
    first = await podman(look)
    return first, _UNASKED if first.detection.usable else await docker(look)


async def podman(look: Look) -> Runtime:
    """What podman says of itself."""
    return await look.once("podman", lambda: _podman(look))


async def docker(look: Look) -> Runtime:
    """What docker's daemon says of itself."""
    return await look.once("docker", lambda: _docker(look))


async def chosen(look: Look) -> Choice:
    """The runtime that is used, as ``container_runtime.choose`` would choose. Raises ContainerError with NO_RUNTIME."""
    environ = look.machine.environ
    first = await podman(look)
    runtime: ContainerRuntime
    if first.detection.usable:
        runtime = PodmanRuntime(environ, _redact())
        return Choice(runtime=runtime, reason=first.detection.reason, detections=(first.detection,))
    second = await docker(look)
    if second.detection.usable:
        runtime = DockerRuntime(environ, _redact())
        return Choice(runtime=runtime, reason=second.detection.reason, detections=(second.detection,))
    raise ContainerError(RuntimeCause.NO_RUNTIME, "no container runtime works here", "llama-orch doctor --check podman")


async def _podman(look: Look) -> Runtime:
    command = Command("podman", argv.client_environ(look.machine.environ))
    try:
        done = await command.run("info", "--format=json", timeout_s=PODMAN_S)
    except ContainerError as error:
        missing = error.cause is RuntimeCause.NO_RUNTIME
        seen = detection.not_installed("podman") if missing else _unusable("podman", error)
        return Runtime(installed=not missing, detection=seen)
    if done.status != 0:
        return Runtime(installed=True, detection=detection.podman_failed(_redact()(done.output)))
    try:
        info = msgspec.json.decode(done.stdout, type=dict)
    except msgspec.DecodeError:
        return Runtime(installed=True, detection=detection.podman_failed("it answers in another way than podman does"))
    return Runtime(installed=True, detection=detection.podman(info), info=info)


async def _docker(look: Look) -> Runtime:
    environ = look.machine.environ
    installed = look.machine.which("docker") is not None
    try:
        async with asyncio.timeout(DOCKER_S):
            seen = await DockerRuntime(environ, _redact()).detect()
            if not seen.usable:
                return Runtime(installed=installed, detection=seen)
            command = Command("docker", argv.client_environ(environ))
            done = await command.run("info", "--format={{json .}}", timeout_s=DOCKER_S)
            return Runtime(installed=True, detection=seen, info=msgspec.json.decode(done.stdout, type=dict))
    except TimeoutError:
        reason = f"docker info did not answer within {DOCKER_S:g} s and was ended"
        hint = "sudo systemctl restart docker"
        seen = Detection(runtime="docker", usable=False, reason=reason, hint=hint)
    except ContainerError as error:
        seen = _unusable("docker", error)
    except msgspec.DecodeError:
        seen = detection.docker_failed("it answers in another way than docker does")
    return Runtime(installed=installed, detection=seen)


def _unusable(runtime: str, error: ContainerError) -> Detection:
    return Detection(runtime=runtime, usable=False, reason=error.message, hint=error.hint)


def _redact() -> Redact:
    return Redactor().text

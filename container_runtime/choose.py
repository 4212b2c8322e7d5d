"""Chooses the runtime of this machine: rootless podman where it works, else docker, and says why.

Never runs a container, and never mends anything.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from container_runtime.base import ContainerRuntime, Detection, Redact
from container_runtime.detection import INSTALL_PODMAN
from container_runtime.docker import DockerRuntime
from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.podman import PodmanRuntime


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The runtime that is used, why that one, and what was seen of each that was looked at."""

    runtime: ContainerRuntime
    reason: str
    detections: tuple[Detection, ...]


async def choose(environ: Mapping[str, str], redact: Redact) -> Choice:
    """The runtime to use. Raises ContainerError with NO_RUNTIME, both reasons and the mend where neither works."""
    podman = PodmanRuntime(environ, redact)
    first = await podman.detect()
    if first.usable:
        return Choice(runtime=podman, reason=first.reason, detections=(first,))
    docker = DockerRuntime(environ, redact)
    second = await docker.detect()
    if second.usable:
        reason = f"{second.reason}; rootless podman comes first, but: {first.reason}"
        return Choice(runtime=docker, reason=reason, detections=(first, second))
    hints = dict.fromkeys(hint for hint in (first.hint or INSTALL_PODMAN, second.hint) if hint)
    raise ContainerError(
        RuntimeCause.NO_RUNTIME,
        f"no container runtime works here: {first.reason}; {second.reason}",
        "; or ".join(hints),
    )


def runtime_named(name: str, environ: Mapping[str, str], redact: Redact) -> ContainerRuntime:
    """The runtime that a handle or a prepared engine names. Raises ContainerError with NO_RUNTIME for another name."""
    match name:
        case "podman":
            return PodmanRuntime(environ, redact)
        case "docker":
            return DockerRuntime(environ, redact)
        case _:
            raise ContainerError(
                RuntimeCause.NO_RUNTIME,
                f"{name!r} is no container runtime that is known here",
                "podman and docker are",
            )

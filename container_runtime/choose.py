"""Chooses the runtime of this machine: rootless podman where it works, else docker, and says why."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from container_runtime.base import ContainerRuntime, Detection, Redact


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The runtime that is used, why that one, and what was seen of each."""

    runtime: ContainerRuntime
    reason: str
    detections: tuple[Detection, ...]


async def choose(environ: Mapping[str, str], redact: Redact) -> Choice:
    """The runtime to use. Raises ContainerError with NO_RUNTIME, both reasons and the mend where neither works."""
    raise NotImplementedError


def runtime_named(name: str, environ: Mapping[str, str], redact: Redact) -> ContainerRuntime:
    """The runtime that a handle or a prepared engine names. Raises ContainerError with NO_RUNTIME for another name."""
    raise NotImplementedError

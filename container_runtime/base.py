"""What may be asked of a container runtime.

Decides the shape only: rootless podman and docker are to answer with the same GPU, port, mount and stop semantics.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from container_runtime.spec import ContainerHandle, ContainerSpec, ContainerState, ImageIdentity
from contracts.engines import Finding

Progress = Callable[[str], None]


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a runtime can be used here, and the reason, for the log and the record."""

    runtime: str
    usable: bool
    reason: str
    version: str | None = None


class ContainerRuntime(Protocol):
    """One container runtime. Every method but ``detect`` raises ContainerError."""

    name: str

    async def detect(self) -> Detection:
        """Whether this runtime works here. Never raises, changes nothing."""

    async def preflight(self, spec: ContainerSpec) -> tuple[Finding, ...]:
        """Every problem that would stop ``run``, found at once: devices, ports, mounts."""

    async def pull(self, spec: ContainerSpec, progress: Progress) -> ImageIdentity:
        """Make the image be here, and say what it is. By digest, what came is checked to be that digest."""

    async def run(self, spec: ContainerSpec, key: str | None) -> ContainerHandle:
        """Start the container. ``key`` travels in the environment only. A container that did not start is removed."""

    async def stop(self, handle: ContainerHandle, *, timeout_ms: int) -> None:
        """Ask it to end, wait, and end it. Nothing of it is left; a container that is gone already is no error."""

    def logs(self, handle: ContainerHandle, *, follow: bool) -> AsyncIterator[str]:
        """Its output line by line, secrets redacted."""

    async def inspect(self, handle: ContainerHandle) -> ContainerState:
        """How it is right now. Raises ContainerError with CONTAINER_GONE where it is no more."""

    async def find(self, labels: dict[str, str]) -> tuple[ContainerHandle, ...]:
        """The containers that carry these labels, running or not: how those of a dead manager are found."""

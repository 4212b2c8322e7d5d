"""What may be asked of a container runtime.

Decides the shape only: rootless podman and docker answer with the same GPU, port, mount and stop semantics. Never knows
how either of them is asked.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import msgspec

from container_runtime.spec import (
    ContainerHandle,
    ContainerSpec,
    ContainerState,
    DeviceRequest,
    ImageIdentity,
    ImageReference,
)
from contracts.engines import Finding

Progress = Callable[[str], None]
"""Takes one line for the operator, without secrets."""
Redact = Callable[[str], str]
"""The text without the secrets in it."""


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a runtime can be used here, and the reason, for the log and the record."""

    runtime: str
    usable: bool
    reason: str
    version: str | None = None
    hint: str = ""
    """How to mend it; empty where it is usable."""


class ContainerRuntime(Protocol):
    """One container runtime. Every method but ``detect`` and ``preflight`` raises ContainerError."""

    @property
    def name(self) -> str:
        """``podman`` or ``docker``."""

    async def detect(self) -> Detection:
        """Whether this runtime works here. Never raises, changes nothing."""

    async def preflight(self, spec: ContainerSpec) -> tuple[Finding, ...]:
        """Every problem that would stop ``run``, found at once: runtime, devices, ports, mounts. Changes nothing."""

    async def present(self, reference: ImageReference) -> ImageIdentity | None:
        """The image as it is here already, or None. Asks no registry."""

    async def pull(self, reference: ImageReference, progress: Progress) -> ImageIdentity:
        """Make the image be here, and say what it is.

        By digest, what came is checked to be that digest. A tag is resolved to its digest, with a warning in
        ``progress``. Credentials are those of the user's own login; nobody reads them here.
        """

    async def run(self, spec: ContainerSpec, key: str | None, within: tuple[str, ...] = ()) -> ContainerHandle:
        """Start the container, by digest. ``key`` travels in the environment only.

        ``within`` is a command that puts what it is given into a scope, with all of it that runs outside the container.

        A container that did not start is removed. Whether its program serves is for others to see.
        """

    async def stop(self, handle: ContainerHandle, *, timeout_ms: int) -> None:
        """TERM, wait, KILL, remove. Nothing of it is left; a container that is gone already is no error."""

    def logs(self, handle: ContainerHandle, *, follow: bool, tail: int | None = None) -> AsyncGenerator[str, None]:
        """Its output from the beginning, line by line, secrets redacted, long lines cut.

        With ``tail`` it begins that many lines before the end of what is there already. With ``follow`` it ends when
        the container does. Close it (``contextlib.aclosing``) to stop earlier.
        """

    async def wait(self, handle: ContainerHandle) -> ContainerState:
        """How it ended, once it has. Raises ContainerError with CONTAINER_GONE where it is no more."""

    async def inspect(self, handle: ContainerHandle) -> ContainerState:
        """How it is right now. Raises ContainerError with CONTAINER_GONE where it is no more."""

    async def find(self, labels: dict[str, str]) -> tuple[ContainerHandle, ...]:
        """The containers that carry these labels, running or not: how those of a dead manager are found."""

    async def environment(self, handle: ContainerHandle) -> dict[str, str]:
        """Its environment, with the key: for a manager that adopts it after a restart. Never log it."""

    async def visible_gpus(self, identity: ImageIdentity, devices: tuple[DeviceRequest, ...]) -> tuple[str, ...]:
        """The UUIDs of the GPUs that a container of this image sees when it is given these devices.

        Runs ``nvidia-smi -L``, which comes with the devices, in a container that is thrown away.
        """

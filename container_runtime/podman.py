"""Rootless podman: how it is asked. GPUs by CDI name, since it takes ``--gpus`` and gives nothing for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from container_runtime import argv, cdi, detection, findings, host
from container_runtime.base import Detection, Redact
from container_runtime.client import QUESTION_S, Client
from container_runtime.command import Completed
from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.spec import ContainerSpec, DeviceRequest, ImageIdentity, ImageReference
from contracts.engines import Finding

_READS_NEW_CDI = (4, 6)


class PodmanRuntime(Client):
    """Containers of the user who runs the manager, without a daemon and without root."""

    _at_once = ("--time=0",)

    def __init__(
        self, environ: Mapping[str, str], redact: Redact, *, cdi_directories: tuple[Path, ...] = host.CDI_DIRECTORIES
    ) -> None:
        super().__init__("podman", environ, redact)
        self._cdi_directories = cdi_directories

    async def detect(self) -> Detection:
        """Whether rootless podman works here: it is run, and what it says of itself is looked through."""
        try:
            done = await self._command.run("info", "--format=json", timeout_s=QUESTION_S)
        except ContainerError as error:
            if error.cause is RuntimeCause.NO_RUNTIME:
                return detection.not_installed("podman")
            return Detection(runtime="podman", usable=False, reason=error.message, hint=error.hint)
        if done.status != 0:
            return detection.podman_failed(self._said(done))
        try:
            return detection.podman(msgspec.json.decode(done.stdout, type=dict))
        except msgspec.DecodeError:
            return detection.podman_failed("it answers in another way than podman does")

    async def _run_argv(self, spec: ContainerSpec, start: str, *, scoped: bool) -> tuple[str, ...]:
        return argv.podman_run(spec, start=start, scoped=scoped)

    async def _smi_argv(
        self, identity: ImageIdentity, devices: tuple[DeviceRequest, ...], start: str
    ) -> tuple[str, ...]:
        return argv.podman_smi(identity, devices, start=start)

    async def _resolve(self, reference: ImageReference, pulled: Completed) -> str:  # noqa: ARG002 - docker's answer
        """Podman does not say what it pulled, and an image may have come under several digests: ask the registry."""
        known = await self._repository_digests(reference)
        for digest in known[:-1]:
            try:
                await self._pull(ImageReference(image=reference.image, digest=digest), lambda _line: None)
            except ContainerError as error:
                if error.cause is not RuntimeCause.IMAGE_MISSING:
                    raise
            else:
                return digest
        return known[-1]

    async def _device_findings(self, devices: tuple[DeviceRequest, ...], seen: Detection) -> tuple[Finding, ...]:
        version = cdi.version_of(seen.version or "")
        newest = cdi.OLD_PODMAN_NEWEST if version < _READS_NEW_CDI else None
        files = await asyncio.to_thread(host.cdi_files, self._cdi_directories)
        return findings.of_cdi(tuple(cdi.readable(file, newest) for file in files), devices)

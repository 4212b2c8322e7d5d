"""Docker: how it is asked. Used where rootless podman does not work, with the same semantics."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from container_runtime import answers, argv, detection, findings, host
from container_runtime.base import Detection, Redact
from container_runtime.client import QUESTION_S, Client
from container_runtime.command import Completed
from container_runtime.detection import DockerFacts
from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.spec import ContainerSpec, DeviceRequest, ImageIdentity, ImageReference
from contracts.engines import Finding


class DockerRuntime(Client):
    """Containers of the docker daemon of this machine."""

    def __init__(
        self, environ: Mapping[str, str], redact: Redact, *, cdi_directories: tuple[Path, ...] = host.CDI_DIRECTORIES
    ) -> None:
        super().__init__("docker", environ, redact)
        self._cdi_directories = cdi_directories
        self._path = environ.get("PATH", "")
        self._facts: DockerFacts | None = None

    async def detect(self) -> Detection:
        """Whether a daemon of this machine answers this user."""
        try:
            done = await self._command.run("info", "--format={{json .}}", timeout_s=QUESTION_S)
            if done.status != 0:
                return detection.docker_failed(self._said(done))
            info: dict[str, Any] = msgspec.json.decode(done.stdout, type=dict)
            self._facts = detection.docker_facts(info)
            return detection.docker(info, await self._endpoint())
        except ContainerError as error:
            if error.cause is RuntimeCause.NO_RUNTIME:
                return detection.not_installed("docker")
            return Detection(runtime="docker", usable=False, reason=error.message, hint=error.hint)
        except msgspec.DecodeError:
            return detection.docker_failed("it answers in another way than docker does")

    async def _endpoint(self) -> str | None:
        """Where its daemon listens; None where this docker does not say."""
        asked = "{{.Endpoints.docker.Host}}"
        done = await self._command.run("context", "inspect", f"--format={asked}", timeout_s=QUESTION_S)
        return done.stdout.strip() if done.status == 0 else None

    async def _known(self) -> DockerFacts:
        """How this daemon is asked; it is asked itself once."""
        if self._facts is None:
            found = await self.detect()
            if self._facts is None:
                raise ContainerError(RuntimeCause.NO_RUNTIME, found.reason, found.hint)
        return self._facts

    async def _run_argv(self, spec: ContainerSpec, start: str, *, scoped: bool) -> tuple[str, ...]:  # noqa: ARG002 - its daemon runs it
        facts = await self._known()
        return argv.docker_run(spec, start=start, user=_user(facts), cdi=facts.cdi)

    async def _smi_argv(
        self, identity: ImageIdentity, devices: tuple[DeviceRequest, ...], start: str
    ) -> tuple[str, ...]:
        facts = await self._known()
        return argv.docker_smi(identity, devices, start=start, user=_user(facts), cdi=facts.cdi)

    async def _resolve(self, reference: ImageReference, pulled: Completed) -> str:
        known = await self._repository_digests(reference)
        said = answers.pulled_digest(pulled.stdout)
        return said if said in known else known[0]

    async def _device_findings(self, devices: tuple[DeviceRequest, ...], seen: Detection) -> tuple[Finding, ...]:  # noqa: ARG002 - podman's affair
        facts = await self._known()
        if facts.cdi:
            return findings.of_cdi(await asyncio.to_thread(host.cdi_files, self._cdi_directories), devices)
        if facts.nvidia or await asyncio.to_thread(host.nvidia_hook, self._path) is not None:
            return ()
        return findings.of_hook()


def _user(facts: DockerFacts) -> str:
    return argv.ROOTLESS_USER if facts.rootless else f"{os.getuid()}:{os.getgid()}"

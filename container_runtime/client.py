"""What podman and docker have in common: the order in which they are asked, and what is made of their answers.

Each of them is a subclass that says how it is asked. Decides no argument and no meaning: ``argv`` and ``answers`` do.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from container_runtime import answers, argv, host
from container_runtime.base import Detection, Progress, Redact
from container_runtime.command import Command, Completed
from container_runtime.errors import ContainerError, DigestMismatchError, ImageMissingError, RuntimeCause
from container_runtime.spec import (
    LABEL_START,
    ContainerHandle,
    ContainerSpec,
    ContainerState,
    DeviceRequest,
    ImageIdentity,
    ImageReference,
)
from contracts.engines import Finding

QUESTION_S = 30.0
START_S = 300.0
"""A first start of a large image on a slow disk."""
PULL_S = 6 * 3600.0
SMI_S = 60.0
_END_S = 60.0
"""On top of the time that a container has for its own end."""
_FOLLOW_AGAIN_S = 0.5
_LINE_CHARS = 8_192
_NO_IMAGE = ImageReference(image="the-container")


class Client(ABC):
    """A container runtime that is asked through its command-line program."""

    _at_once: tuple[str, ...] = ()
    """What keeps a forced removal from waiting, where it would."""

    def __init__(self, name: str, environ: Mapping[str, str], redact: Redact) -> None:
        self._name = name
        self._redact = redact
        self._command = Command(name, argv.client_environ(environ))

    @property
    def name(self) -> str:
        """``podman`` or ``docker``."""
        return self._name

    # --- what each of them says for itself ---------------------------------------------------------------------------

    @abstractmethod
    async def detect(self) -> Detection:
        """Whether this runtime works here. Never raises, changes nothing."""

    @abstractmethod
    async def _run_argv(self, spec: ContainerSpec, start: str, *, scoped: bool) -> tuple[str, ...]:
        """How a container is started, and whether that happens in a scope of its own."""

    @abstractmethod
    async def _smi_argv(
        self, identity: ImageIdentity, devices: tuple[DeviceRequest, ...], start: str
    ) -> tuple[str, ...]:
        """How a container is started that lists its GPUs."""

    @abstractmethod
    async def _resolve(self, reference: ImageReference, pulled: Completed) -> str:
        """The digest that a tag stands for, once it was pulled."""

    @abstractmethod
    async def _device_findings(self, devices: tuple[DeviceRequest, ...], seen: Detection) -> tuple[Finding, ...]:
        """Why these devices cannot be given."""

    # --- images ------------------------------------------------------------------------------------------------------

    async def present(self, reference: ImageReference) -> ImageIdentity | None:
        """The image as it is here already, or None. Asks no registry."""
        done = await self._ask("image", "inspect", reference.qualified)
        if done.status != 0:
            if answers.is_no_such_image(done.output):
                return None
            raise answers.ask_error(reference, self._said(done))
        digests = [
            digest for image in answers.objects(done.stdout) for digest in answers.repository_digests(image, reference)
        ]
        if reference.digest is not None:
            digests = [digest for digest in digests if digest == reference.digest]
        return self._identity(reference, digests[0]) if digests else None

    async def pull(self, reference: ImageReference, progress: Progress) -> ImageIdentity:
        """Make the image be here, and say what it is."""
        pulled = await self._pull(reference, progress)
        if reference.digest is not None:
            found = await self.present(reference)
            if found is None:
                raise DigestMismatchError(reference.text, "an image without this digest", output=self._said(pulled))
            return found
        digest = await self._resolve(reference, pulled)
        progress(f"warning: {reference.text} is a tag, which can change: it is {digest} now; pin that digest")
        return self._identity(reference, digest)

    async def _pull(self, reference: ImageReference, progress: Progress) -> Completed:
        done = await self._command.run(
            "pull", reference.qualified, timeout_s=PULL_S, on_line=lambda line: progress(self._line(line))
        )
        if done.status != 0:
            raise answers.pull_error(reference, self._said(done))
        return done

    async def _repository_digests(self, reference: ImageReference) -> tuple[str, ...]:
        done = await self._ask("image", "inspect", reference.qualified)
        for image in answers.objects(done.stdout):
            if found := answers.repository_digests(image, reference):
                return found
        raise ImageMissingError(reference.text, output=self._said(done))

    @staticmethod
    def _identity(reference: ImageReference, digest: str) -> ImageIdentity:
        return ImageIdentity(image=reference.image, tag=reference.tag, digest=digest)

    # --- containers --------------------------------------------------------------------------------------------------

    async def preflight(self, spec: ContainerSpec) -> tuple[Finding, ...]:
        """Every problem that would stop ``run``, found at once."""
        detection = await self.detect()
        if not detection.usable:
            why = f"{spec.reference.text} runs in a container, and nothing else can run it"
            return (Finding(check="container-runtime", message=detection.reason, why=why, hint=detection.hint),)
        found = list(await self._device_findings(spec.devices, detection)) if spec.devices else []
        for port in spec.ports:
            if host.port_taken(port):
                message = f"somebody listens on {port.address}:{port.host}"
                why = "the engine is reached there"
                hint = f"end it (ss -ltnp 'sport = :{port.host}' names it), or let the port be chosen"
                found.append(Finding(check="container-port", message=message, why=why, hint=hint))
        for mount in spec.all_mounts:
            if (problem := host.mount_problem(mount)) is not None:
                hint = f"ls -ld {mount.source}; the user who runs the manager needs it"
                why = f"the engine finds it at {mount.target}"
                text = f"{mount.source} {problem}"
                found.append(Finding(check="container-mount", message=text, why=why, hint=hint))
        return tuple(found)

    async def run(self, spec: ContainerSpec, key: str | None, within: tuple[str, ...] = ()) -> ContainerHandle:
        """Start the container, by digest. One that did not start is removed."""
        start = secrets.token_hex(16)
        args = await self._run_argv(spec, start, scoped=bool(within))
        carried = argv.carried_environ(spec, key)
        async with self._cleared_unless_started(start):
            done = await self._command.run(*args, timeout_s=START_S, environ=carried, within=within)
            if done.status != 0:
                raise answers.run_error(spec.reference, self._said(done))
            return answers.handle(self.name, await self._inspected(done.stdout.split()[-1]))

    async def stop(self, handle: ContainerHandle, *, timeout_ms: int) -> None:
        """TERM, wait, KILL, remove."""
        patience = argv.whole_seconds(timeout_ms)
        with contextlib.suppress(ContainerError):  # whatever it answers: what counts is that it can be removed
            await self._ask("stop", "-t", str(patience), handle.container_id, timeout_s=patience + _END_S)
        await self._remove(handle.container_id)

    async def logs(
        self, handle: ContainerHandle, *, follow: bool, tail: int | None = None
    ) -> AsyncGenerator[str, None]:
        """Its output from the beginning, or from its last lines on, line by line."""
        options = argv.log_options(follow=follow, tail=tail)
        await self._inspected(handle.container_id)  # which says what is wrong where it is gone
        while True:
            async with contextlib.aclosing(self._command.lines("logs", *options, handle.container_id)) as lines:
                async for line in lines:
                    yield self._line(line)
            if not follow:
                return
            try:
                container = await self._inspected(handle.container_id)
            except ContainerError as error:
                if error.cause is RuntimeCause.CONTAINER_GONE:
                    return
                raise
            if answers.main_process(container) is None:
                return
            # The one who followed has ended and the container has not, as when docker's daemon is started anew.
            options = argv.log_options(follow=True, tail=0)
            await asyncio.sleep(_FOLLOW_AGAIN_S)

    async def wait(self, handle: ContainerHandle) -> ContainerState:
        """How it ended, once it has."""
        while True:
            # As long as the container lives.
            done = await self._ask("wait", handle.container_id, timeout_s=None)
            if done.status != 0:
                raise answers.ask_error(_NO_IMAGE, self._said(done))
            try:
                found = await self.inspect(handle)
            except ContainerError as error:
                # Removed in between, by whoever stopped it; how it ended is known all the same.
                if error.cause is not RuntimeCause.CONTAINER_GONE:
                    raise
                code = done.stdout.strip()
                return ContainerState(running=False, exit_code=int(code) if code.isdigit() else None)
            if not found.running:
                return found

    async def inspect(self, handle: ContainerHandle) -> ContainerState:
        """How it is right now."""
        container = await self._inspected(handle.container_id)
        pid = answers.main_process(container)
        return answers.state(container, await asyncio.to_thread(host.descendants, pid) if pid else ())

    async def find(self, labels: dict[str, str]) -> tuple[ContainerHandle, ...]:
        """The containers that carry these labels, running or not."""
        ids = await self._ids(labels)
        if not ids:
            return ()
        # One that goes away in between is missing from the answer, which has the others all the same.
        done = await self._ask("container", "inspect", *ids)
        return tuple(answers.handle(self.name, container) for container in answers.objects(done.stdout))

    async def environment(self, handle: ContainerHandle) -> dict[str, str]:
        """Its environment, with the key. Never log it."""
        return answers.environment(await self._inspected(handle.container_id))

    async def visible_gpus(self, identity: ImageIdentity, devices: tuple[DeviceRequest, ...]) -> tuple[str, ...]:
        """The UUIDs of the GPUs that a container of this image sees when it is given these devices."""
        start = secrets.token_hex(16)
        args = await self._smi_argv(identity, devices, start)
        reference = ImageReference(image=identity.image, tag=identity.tag, digest=identity.digest)
        async with self._cleared_unless_started(start):
            done = await self._command.run(*args, timeout_s=SMI_S)
            if done.status == 0:
                return answers.gpus_listed(done.stdout)
            error = answers.run_error(reference, self._said(done))
            if error.cause not in {RuntimeCause.START_FAILED, RuntimeCause.FAILED}:
                raise error
            text = f"nvidia-smi did not run in a container of {reference.text}: {answers.telling_line(error.output)}"
            hint = "it comes with the devices: sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml; nvidia-smi"
            raise ContainerError(RuntimeCause.NO_DEVICE, text, hint, output=error.output)

    # --- how it is asked ---------------------------------------------------------------------------------------------

    async def _ask(self, *args: str, timeout_s: float | None = QUESTION_S) -> Completed:
        return await self._command.run(*args, timeout_s=timeout_s)

    async def _inspected(self, container_id: str) -> dict[str, Any]:
        done = await self._ask("container", "inspect", container_id)
        found = answers.objects(done.stdout) if done.status == 0 else ()
        if not found:
            raise answers.ask_error(_NO_IMAGE, self._said(done))
        return found[0]

    async def _ids(self, labels: dict[str, str]) -> tuple[str, ...]:
        filters = [f"--filter=label={name}={value}" for name, value in sorted(labels.items())]
        done = await self._ask("ps", "--all", "--quiet", "--no-trunc", *filters)
        if done.status != 0:
            raise answers.ask_error(_NO_IMAGE, self._said(done))
        return tuple(done.stdout.split())

    async def _remove(self, container_id: str) -> None:
        # By KILL, where it runs: it was asked to end before, or nobody ever used it.
        done = await self._ask("rm", "--force", "--volumes", *self._at_once, container_id, timeout_s=_END_S)
        if done.status != 0:
            error = answers.ask_error(_NO_IMAGE, self._said(done))
            if error.cause is not RuntimeCause.CONTAINER_GONE:
                raise error

    @contextlib.asynccontextmanager
    async def _cleared_unless_started(self, start: str) -> AsyncIterator[None]:
        """A failure, or the end of the caller's patience, leaves no container of this start."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(ContainerError):  # the first failure is the one to tell
                for container_id in await self._ids({LABEL_START: start}):
                    await self._remove(container_id)
            raise

    def _said(self, done: Completed) -> str:
        return self._redact(done.output)

    def _line(self, line: str) -> str:
        return self._redact(line)[:_LINE_CHARS]

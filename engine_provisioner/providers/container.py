"""Engines that run in a container: found or pulled by digest, seen to have the pool's GPUs, recorded.

Decides what must hold before an image is used: a container runtime works, its registry may be reached, and a container
of it sees the GPUs of the pool and no other. What an engine needs inside, ``container_engines`` decides. Never starts
one to serve.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from container_runtime.base import Redact
from container_runtime.choose import Choice
from container_runtime.choose import choose as choose_runtime
from container_runtime.errors import ContainerError, SpecError
from container_runtime.spec import (
    LABELS,
    ContainerSpec,
    DeviceRequest,
    ImageIdentity,
    ImageReference,
    Mount,
)
from contracts.config import ContainerImage, Engine, Pool, Profile
from contracts.engines import BindMount, ContainerRun, EngineEntry, Finding, Plan, PreparedEngine
from contracts.pools import Cause, Gpu
from daemon_core.redaction import Redactor
from engine_provisioner import triton_repository
from engine_provisioner.base import Checklist, Progress
from engine_provisioner.container_checks import as_yaml, gpu_error, pin_advice, provision_error, user_findings
from engine_provisioner.container_engines import (
    CACHE,
    REPOSITORY,
    arguments,
    environment,
    findings_on,
    image_of,
    model_name_in_triton,
    needs_of,
    notes_on,
    triton_repository_files,
)
from engine_provisioner.errors import ProvisionError, error_of
from engine_provisioner.gpu_mask import chosen
from engine_provisioner.gpus import GpuUnavailable, gpu_findings
from engine_provisioner.host import Host
from engine_provisioner.plan import StepKind, plan_for
from engine_provisioner.probes import generation_of, health_of
from engine_provisioner.providers.native import catalog_id, record

_log = logging.getLogger(__name__)

Choose = Callable[[Mapping[str, str], Redact], Awaitable[Choice]]
"""Raises ContainerError where no runtime works."""

_CAUSE_OF_CHECK = MappingProxyType(
    {
        "gpu": Cause.NO_GPU,
        "flags": Cause.POLICY_DENIED,
        "env": Cause.POLICY_DENIED,
        "container": Cause.CONTAINER_RUNTIME,
        "cache": Cause.ENGINE_FETCH,
        "image": Cause.ENGINE_FETCH,
    }
)
_WHY_IMAGE = "without it there is nothing to start"
_WHY_GPU = "an engine computes on the GPUs of its pool only, and never on the CPU"
_WHY_SPACE = "a pull that runs out of space leaves nothing that can be started"
_SPACE_HINT = "free some (podman system prune, docker system prune), or move paths.cache to a larger disk"
_GIB = 1 << 30


class ContainerProvider:
    """The provider of mode container, for every engine that has one."""

    def __init__(self, host: Host, profile: Profile, choose: Choose = choose_runtime) -> None:
        self._host = host
        self._profile = profile
        self._choose = choose

    def plan(self, pool: Pool) -> Plan:
        """See EngineProvider."""
        return plan_for(pool, self._profile)

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """See EngineProvider. Where the image is here, a container of it is asked which GPUs it sees."""
        found = list(await self._pool_findings(pool))
        try:
            reference = self._reference(pool)
        except ProvisionError:
            reference = None  # which is among the findings
        try:
            choice = await self._choose(self._host.environ, Redactor().text)
        except ContainerError as error:
            found.append(_finding("container", error.message, "engines of this mode run in it", error.hint))
            return (*found, *(await self._fetch_findings(pool, reference) if reference else ()))
        found += user_findings(pool, choice.runtime.name, os.geteuid())
        if reference is not None:
            found += await self._runtime_findings(pool, choice, reference)
        return tuple(found)

    async def ensure(self, pool: Pool, progress: Progress) -> PreparedEngine:
        """See EngineProvider."""
        steps = Checklist(self.plan(pool), progress)
        steps.begin(StepKind.CHECK)
        if findings := await self._pool_findings(pool):
            raise error_of(_CAUSE_OF_CHECK[findings[0].check], findings)
        for note in notes_on(pool, self._profile):
            progress(f"{note.message}: {note.hint}")
        gpus = await self._gpus(pool)
        steps.begin(StepKind.FIND)
        choice = await self._found(pool, progress)
        steps.begin(StepKind.FETCH)
        identity = await self._fetched(pool, choice, progress)
        mounts: tuple[BindMount, ...] = ()
        if pool.engine is Engine.TRITON:
            steps.begin(StepKind.WRITE)
            mounts = (await self._written_repository(pool, len(gpus)),)
        if self._profile is Profile.HOME:
            steps.begin(StepKind.VERIFY)
            await self._see_gpus(choice, identity, gpus)
        mounts = (*mounts, *await self._made_cache(pool, identity))
        steps.begin(StepKind.RECORD)
        entry = _entry(pool, identity)
        await record(self._host, entry)
        steps.end()
        return self._prepared(pool, _container_run(pool, choice, identity, mounts), entry, gpus)

    # --- what is in the way ------------------------------------------------------------------------------------------

    async def _pool_findings(self, pool: Pool) -> tuple[Finding, ...]:
        """What is wrong before any runtime is asked; a missing GPU comes first."""
        gpus: tuple[Finding, ...] = ()
        if self._profile is Profile.HOME:
            gpus = await asyncio.to_thread(gpu_findings, pool, self._host.gpus)
        cache = await asyncio.to_thread(_cache_findings, self._host.cache)
        return (*gpus, *findings_on(pool, self._profile), *self._spec_findings(pool), *cache)

    def _spec_findings(self, pool: Pool) -> tuple[Finding, ...]:
        """What no container can be made of, as the runtime's own rules say it."""
        try:
            _spec(pool, self._reference(pool), env=environment(pool, ()))
            Mount(source=str(self._host.cache.absolute()), target=CACHE)
        except ProvisionError as error:
            return (_finding("image", error.message, _WHY_IMAGE, error.hint),)
        except SpecError as error:
            where = {"env": f"pools[{pool.id}].env", "mounts.source": "paths.cache"}.get(error.field, error.field)
            hint = "paths.cache without ',' and ':'" if where == "paths.cache" else "correct it, or remove it"
            return (_finding("container", f"{where}: {error.message}", "no container can be made of it", hint),)
        return ()

    async def _runtime_findings(self, pool: Pool, choice: Choice, reference: ImageReference) -> list[Finding]:
        """What this runtime says of the image and of the devices."""
        try:
            gpus = await self._gpus(pool)
        except ProvisionError:
            gpus = ()  # which is among the findings
        devices = tuple(DeviceRequest.gpu(gpu.uuid) for gpu in gpus)
        found = list(await choice.runtime.preflight(_spec(pool, reference, devices=devices)))
        try:
            identity = await choice.runtime.present(reference)
            if identity is None:
                found += await self._fetch_findings(pool, reference)
            elif gpus and not found:
                await self._see_gpus(choice, identity, gpus)
        except (ContainerError, ProvisionError) as error:
            found.append(_finding("container", error.message, _WHY_GPU if gpus else _WHY_IMAGE, error.hint))
        return found

    async def _fetch_findings(self, pool: Pool, reference: ImageReference) -> tuple[Finding, ...]:
        """What is in the way of a pull."""
        found = []
        try:
            await self._require_registry(reference)
        except ProvisionError as error:
            found.append(_finding("policy", error.message, "the image is not here and must be pulled", error.hint))
        if text := await asyncio.to_thread(self._lack_of_space, pool):
            found.append(_finding("cache", text, _WHY_SPACE, _SPACE_HINT))
        return tuple(found)

    async def _require_registry(self, reference: ImageReference) -> None:
        """Policy's say on the registry. Raises ProvisionError."""
        await self._host.require_outbound(f"https://{reference.repository}")

    def _lack_of_space(self, pool: Pool) -> str | None:
        """Whether the cache's disk is too full for an image; rootless images lie in the same home. Blocks."""
        try:
            free = self._host.free_bytes(self._host.cache)
        except OSError:
            return None  # which _cache_findings tells
        need = self._needed_bytes(pool)
        text = f"{free / _GIB:.1f} GiB are free on the disk of {self._host.cache}"
        return None if free >= need else f"{text}, and the image takes about {need / _GIB:.0f} GiB"

    def _needed_bytes(self, pool: Pool) -> int:
        # In profile trial the image is the operator's own, which may be small.
        return needs_of(pool.engine).image_bytes if self._profile is Profile.HOME else _GIB

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _reference(self, pool: Pool) -> ImageReference:
        """The image of the pool. Raises ProvisionError."""
        image = image_of(pool, self._profile)
        if image is None:
            text = f"pool {pool.id} names no image, and the usual ones of {pool.engine} are made for CUDA"
            hint = 'provisioning: {mode: container, container: {image: "...", digest: "sha256:..."}}'
            raise ProvisionError(Cause.ENGINE_FETCH, text, hint)
        try:
            return ImageReference(image=image.image, tag=image.tag, digest=image.digest)
        except SpecError as error:
            text = f"pools[{pool.id}].provisioning.container.{error.field}: {error.message}"
            hint = "image, tag and digest have a key each: " + as_yaml(ContainerImage(image="ghcr.io/a/b", tag="v1"))
            raise ProvisionError(Cause.ENGINE_FETCH, text, hint) from error

    async def _gpus(self, pool: Pool) -> tuple[Gpu, ...]:
        """The GPUs of the pool's mask, in its order; none in profile trial. Raises ProvisionError."""
        if self._profile is not Profile.HOME:
            return ()
        try:
            there = await asyncio.to_thread(self._host.gpus)
        except GpuUnavailable as error:
            raise ProvisionError(Cause.NO_GPU, error.message, error.hint) from error
        return chosen(pool.devices, there)

    async def _found(self, pool: Pool, progress: Progress) -> Choice:
        """The runtime. Raises ProvisionError."""
        try:
            choice = await self._choose(self._host.environ, Redactor().text)
        except ContainerError as error:
            raise provision_error(error, Cause.CONTAINER_RUNTIME) from error
        extra = {"pool_id": pool.id, "runtime": choice.runtime.name}
        _log.info("pool %s runs in %s: %s", pool.id, choice.runtime.name, choice.reason, extra=extra)
        progress(f"{choice.runtime.name}: {choice.reason}")
        if findings := user_findings(pool, choice.runtime.name, os.geteuid()):
            raise error_of(Cause.CONTAINER_RUNTIME, findings)
        return choice

    async def _fetched(self, pool: Pool, choice: Choice, progress: Progress) -> ImageIdentity:
        """The image, which is here afterwards. One that is here already is used as it is. Raises ProvisionError."""
        reference = self._reference(pool)
        try:
            identity = await choice.runtime.present(reference)
            if identity is not None:
                newer = f"; for a newer one: {choice.runtime.name} pull {reference.qualified}"
                progress(f"{reference.text} is here{newer if reference.digest is None else ''}")
            else:
                await self._require_registry(reference)
                if text := await asyncio.to_thread(self._lack_of_space, pool):
                    raise ProvisionError(Cause.ENGINE_FETCH, text, _SPACE_HINT)
                identity = await choice.runtime.pull(reference, progress)
        except ContainerError as error:
            raise provision_error(error, Cause.ENGINE_FETCH) from error
        if reference.digest is None:
            progress(pin_advice(pool, reference, identity.digest))
        # By its whole name, which no runtime reads in another way than the next.
        return ImageIdentity(image=reference.repository, tag=reference.tag, digest=identity.digest)

    async def _written_repository(self, pool: Pool, gpus: int) -> BindMount:
        """Triton's model repository. Raises ProvisionError."""
        below = self._host.cache.absolute() / str(pool.engine) / "repositories"
        files = triton_repository_files(pool, gpus)
        try:
            directory = await asyncio.to_thread(triton_repository.write, below, pool.id, files)
        except OSError as error:
            raise _cannot_write(below, error) from error
        return BindMount(source=str(directory), target=REPOSITORY)

    async def _made_cache(self, pool: Pool, identity: ImageIdentity) -> tuple[BindMount, ...]:
        """Where an engine keeps what it compiles: one directory for each image. Raises ProvisionError."""
        if not needs_of(pool.engine).caches:
            return ()
        directory = self._host.cache.absolute() / str(pool.engine) / "compiled" / _short(identity.digest)
        try:
            await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise _cannot_write(directory, error) from error
        return (BindMount(source=str(directory), target=CACHE, writable=True),)

    async def _see_gpus(self, choice: Choice, identity: ImageIdentity, gpus: tuple[Gpu, ...]) -> None:
        """See from inside a container that it has these GPUs and no other. Raises ProvisionError."""
        try:
            seen = await choice.runtime.visible_gpus(identity, tuple(DeviceRequest.gpu(gpu.uuid) for gpu in gpus))
        except ContainerError as error:
            raise provision_error(error, Cause.CONTAINER_RUNTIME) from error
        if wrong := gpu_error(choice.runtime.name, identity, [gpu.uuid for gpu in gpus], seen):
            raise wrong

    # --- values ------------------------------------------------------------------------------------------------------

    def _prepared(self, pool: Pool, run: ContainerRun, entry: EngineEntry, gpus: tuple[Gpu, ...]) -> PreparedEngine:
        """How the engine is started for this pool."""
        loaded = model_name_in_triton(pool) if pool.engine is Engine.TRITON else None
        return PreparedEngine(
            engine=pool.engine,
            engine_version=entry.version,
            provisioning_mode=pool.mode,
            build_ref=entry.build_ref,
            engine_digest=entry.digest,
            image_ref=f"{run.image}@{run.digest}",
            container=run,
            args=arguments(pool, self._profile, len(gpus)),
            env=environment(pool, tuple(gpu.uuid for gpu in gpus)),
            key_env=needs_of(pool.engine).key_env,
            ports=(run.port,),
            engine_catalog_id=entry.id,
            health=health_of(pool.engine, loaded=loaded),
            generation=generation_of(pool.engine, pool.model, loaded=loaded),
        )


def _spec(
    pool: Pool,
    reference: ImageReference,
    *,
    devices: tuple[DeviceRequest, ...] = (),
    env: Mapping[str, str] = MappingProxyType({}),
) -> ContainerSpec:
    """A container of the image with these parts, to be looked at and not to be run. Raises SpecError."""
    return ContainerSpec(
        name=f"llama-orch-{pool.id}",
        image=reference.image,
        tag=reference.tag,
        digest=reference.digest,
        labels=dict.fromkeys(LABELS, pool.id),
        env=dict(env),
        devices=devices,
    )


def _container_run(pool: Pool, choice: Choice, identity: ImageIdentity, mounts: tuple[BindMount, ...]) -> ContainerRun:
    needs = needs_of(pool.engine)
    return ContainerRun(
        runtime=choice.runtime.name,
        runtime_reason=choice.reason,
        image=identity.image,
        tag=identity.tag,
        digest=identity.digest,
        port=needs.port,
        model_target=needs.model_target,
        mounts=mounts,
        shm_bytes=needs.shm_bytes,
    )


def _entry(pool: Pool, identity: ImageIdentity) -> EngineEntry:
    return EngineEntry(
        id=catalog_id(pool, identity.digest),
        engine=pool.engine,
        version=f"{pool.engine} {identity.tag or _short(identity.digest)}",
        build_ref=f"{identity.image}:{identity.tag}" if identity.tag else None,
        digest=identity.digest,
        artifacts=(f"{identity.image}@{identity.digest}",),
    )


def _cache_findings(cache: Path) -> tuple[Finding, ...]:
    """Whether the cache can be written, or be made. Blocks."""
    there = next(folder for folder in (cache, *cache.absolute().parents) if os.path.lexists(folder))
    if not there.is_dir():
        text, hint = f"{there} is no directory", "remove it, or set paths.cache"
    elif not os.access(there, os.W_OK | os.X_OK):
        text, hint = f"{there} cannot be written", f'sudo chown "$USER" {there}, or set paths.cache'
    else:
        return ()
    return (_finding("cache", text, "what an engine compiles and is given to read lies there", hint),)


def _cannot_write(path: Path, error: OSError) -> ProvisionError:
    text = f"{path} cannot be written: {error.strerror}"
    return ProvisionError(Cause.ENGINE_FETCH, text, "see ls -ld and df -h for it, or set paths.cache")


def _finding(check: str, message: str, why: str, hint: str) -> Finding:
    return Finding(check=check, message=message, why=why, hint=hint)


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]

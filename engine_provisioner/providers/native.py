"""Engines that are a program on this machine: found, asked, identified, recorded.

Decides what must hold before a llama-server is used: the GPUs of the pool are there, its flags are safe, the program
answers. Where the program is, its ``Source`` decides. Never starts it to serve.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Protocol

import msgspec

from catalog_core.errors import CatalogError
from contracts.config import Pool, Profile
from contracts.engines import EngineEntry, Finding, Plan, PreparedEngine
from contracts.pools import Cause
from engine_provisioner.base import Checklist, Progress
from engine_provisioner.errors import ProvisionError, error_of
from engine_provisioner.flags import configured, flag_findings, flags_in_help, llama_server_args
from engine_provisioner.gpus import gpu_findings, mask_of
from engine_provisioner.host import CommandError, Host, sha256_of
from engine_provisioner.plan import StepKind, plan_for
from engine_provisioner.pool_env import env_finding
from engine_provisioner.probes import generation_of, health_of

KEY_ENV = "LLAMA_API_KEY"
ANSWER_S = 20.0
"""How long a program may take to say its version. The first start after a boot reads it all from the disk."""


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A llama-server that was found."""

    argv: tuple[str, ...]
    """What comes before the flags."""
    digest_of: Path
    """The file whose bytes are this engine."""
    engine_version: str | None = None
    """Where something else than the program knows it better."""
    build_ref: str | None = None
    """As engine_version."""
    build_flags: tuple[str, ...] = ()
    """What it was built with, where that is known."""
    digest: str | None = None
    """The sha256 of digest_of, where it has just been computed."""
    flags: frozenset[str] | None = None
    """The flags it has, where they need not be asked for."""
    wanted_version: str | None = None
    """The release or the build (``b4621``) that the configuration asks for."""
    missing_hint: str


class Source(Protocol):
    """Where a program comes from."""

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """Every problem that would stop ``obtain``, found at once. Changes nothing."""

    async def present(self, pool: Pool) -> Program | None:
        """The program, where it can be used without doing anything first. Raises ProvisionError, changes nothing."""

    async def obtain(self, pool: Pool, steps: Checklist, progress: Progress) -> Program:
        """Do the steps of the plan that bring the program here. Idempotent. Raises ProvisionError."""


class Found:
    """A source that only looks: ``locate`` finds the program, and nothing is brought here."""

    def locate(self, pool: Pool) -> Program:
        """The program. Blocks for a moment. Raises ProvisionError."""
        raise NotImplementedError

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """See Source."""
        try:
            await asyncio.to_thread(self.locate, pool)
        except ProvisionError as error:
            return (engine_finding(error),)
        return ()

    async def present(self, pool: Pool) -> Program | None:
        """See Source."""
        return await asyncio.to_thread(self.locate, pool)

    async def obtain(self, pool: Pool, steps: Checklist, progress: Progress) -> Program:  # noqa: ARG002 - a Source
        """See Source."""
        steps.begin(StepKind.FIND)
        return await asyncio.to_thread(self.locate, pool)


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """What a llama-server says of itself: the release, and the build where it knows it (``b4621-6eecde3``)."""

    release: str
    build_ref: str | None = None


_OLD = re.compile(r"^version: (?P<build>\d+) \((?P<commit>\w+)\)", re.MULTILINE)
_NEW = re.compile(r"^version: (?P<release>\S+)(?: \(build (?P<build>\d+), commit (?P<commit>\w+)\))?", re.MULTILINE)


def parse_version(text: str) -> Version | None:
    """The version in what ``--version`` printed, or None where there is none in it."""
    old, new = _OLD.search(text), _NEW.search(text)
    if old:
        build = f"b{old['build']}-{old['commit']}"
        return Version(release=build, build_ref=build)
    if new is None:
        return None
    known = new["build"] and (new["build"] != "0" or new["commit"] != "unknown")
    return Version(release=new["release"], build_ref=f"b{new['build']}-{new['commit']}" if known else None)


class NativeProvider:
    """The provider of every program that speaks llama-server's flags."""

    def __init__(self, host: Host, profile: Profile, source: Source) -> None:
        self._host = host
        self._profile = profile
        self._source = source

    def plan(self, pool: Pool) -> Plan:
        """See EngineProvider."""
        return plan_for(pool, self._profile)

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """See EngineProvider."""
        found = [*await self._pool_findings(pool)]
        in_the_way = await self._source.preflight(pool)
        found += in_the_way
        try:
            program = None if in_the_way else await self._source.present(pool)
            if program is not None:
                await self._verify(pool, program)
        except ProvisionError as error:
            found.append(engine_finding(error))
        return tuple(found)

    async def ensure(self, pool: Pool, progress: Progress) -> PreparedEngine:
        """See EngineProvider."""
        steps = Checklist(self.plan(pool), progress)
        steps.begin(StepKind.CHECK)
        if findings := await self._pool_findings(pool):
            cause = Cause.NO_GPU if findings[0].check == "gpu" else Cause.POLICY_DENIED
            raise error_of(cause, findings)
        for note in configured(pool.flags, self._profile).notes:
            progress(f"{note.message}: {note.hint}")
        program = await self._source.obtain(pool, steps, progress)
        steps.begin(StepKind.VERIFY)
        version, flags = await self._verify(pool, program)
        steps.begin(StepKind.IDENTIFY)
        digest = await self._identify(program)
        steps.begin(StepKind.RECORD)
        entry = EngineEntry(
            id=catalog_id(pool, digest),
            engine=pool.engine,
            version=program.engine_version or version.release,
            build_ref=program.build_ref or version.build_ref,
            digest=digest,
            build_flags=program.build_flags,
            artifacts=(str(program.digest_of),),
        )
        await record(self._host, entry)
        steps.end()
        return self._prepared(pool, program, entry, flags)

    async def _pool_findings(self, pool: Pool) -> tuple[Finding, ...]:
        """What is wrong with the pool before any program is looked at; a missing GPU comes first."""
        gpus: tuple[Finding, ...] = ()
        if self._profile is Profile.HOME:
            gpus = await asyncio.to_thread(gpu_findings, pool, self._host.gpus)
        return (*gpus, *flag_findings(pool, self._profile), *env_findings(pool))

    async def _verify(self, pool: Pool, program: Program) -> tuple[Version, frozenset[str] | None]:
        """Ask the program for its version and its flags, and in profile home for a GPU. Raises ProvisionError."""
        version = parse_version(await self._ask(pool, program, "--version"))
        if version is None:
            text = f"{program.argv[-1]} --version does not answer as llama-server does"
            raise ProvisionError(Cause.ENGINE_MISSING, text, program.missing_hint)
        wanted = program.wanted_version
        if wanted and wanted != version.release and wanted not in (version.build_ref or "").split("-"):
            text = f"{program.argv[-1]} is version {version.release}, and the pool asks for {wanted}"
            raise ProvisionError(Cause.ENGINE_MISSING, text, "install that version, or remove package.version")
        flags = program.flags
        if flags is None:
            flags = flags_in_help(await self._ask(pool, program, "--help"))
        if self._profile is Profile.HOME and flags and "--list-devices" in flags:
            self._refuse_without_cuda(program, await self._ask(pool, program, "--list-devices"))
        return version, flags

    async def _identify(self, program: Program) -> str:
        """The digest of the program. Raises ProvisionError."""
        if program.digest is not None:
            return program.digest
        try:
            return await sha256_of(program.digest_of)
        except OSError as error:
            text = f"cannot read {program.digest_of}: {error.strerror}"
            raise ProvisionError(Cause.ENGINE_MISSING, text, program.missing_hint) from error

    def _prepared(
        self, pool: Pool, program: Program, entry: EngineEntry, flags: frozenset[str] | None
    ) -> PreparedEngine:
        """How the engine is started for this pool."""
        executable, *before = program.argv
        return PreparedEngine(
            engine=pool.engine,
            engine_version=entry.version,
            provisioning_mode=pool.mode,
            build_ref=entry.build_ref,
            engine_digest=entry.digest,
            bin_or_entry=executable,
            args=(*before, *llama_server_args(pool, self._profile, flags)),
            env=self._environment(pool),
            key_env=KEY_ENV,
            workdir=str(self._host.workdir) if self._host.workdir else None,
            engine_catalog_id=entry.id,
            health=health_of(pool.engine),
            generation=generation_of(pool.engine, pool.model),
        )

    def _environment(self, pool: Pool) -> dict[str, str]:
        # An empty mask hides every GPU: profile trial promises to leave them alone.
        mask = mask_of(pool) if self._profile is Profile.HOME else {"CUDA_VISIBLE_DEVICES": ""}
        return {**pool.env, **mask}

    async def _ask(self, pool: Pool, program: Program, flag: str) -> str:
        argv = (*program.argv, flag)
        try:
            result = await self._host.run(argv, timeout_s=ANSWER_S, env=self._environment(pool))
        except CommandError as error:
            raise ProvisionError(Cause.ENGINE_MISSING, str(error), program.missing_hint) from error
        if result.status != 0:
            text = f"{' '.join(argv)} ended with status {result.status}: {result.last_line}"
            raise ProvisionError(Cause.ENGINE_MISSING, text, program.missing_hint)
        return result.output

    def _refuse_without_cuda(self, program: Program, listing: str) -> None:
        if not re.search(r"^\s*CUDA\d+:", listing, re.MULTILINE):
            text = f"{program.argv[-1]} sees no CUDA device, so it would compute on the CPU"
            hint = "use a llama-server that was built with CUDA (cmake -DGGML_CUDA=ON), and check nvidia-smi"
            raise ProvisionError(Cause.NO_GPU, text, hint)


def catalog_id(pool: Pool, digest: str) -> str:
    """The id of an engine that is known by its bytes: two pools with the same one share the entry."""
    return f"{pool.engine}-{pool.mode}-{digest.removeprefix('sha256:')[:16]}"


async def record(host: Host, entry: EngineEntry) -> None:
    """Write an entry to the engine catalog. Raises ProvisionError."""
    now_ms = host.now_ms()
    try:
        await asyncio.to_thread(host.catalog.put, entry, now_ms=now_ms)
    except CatalogError as error:
        text = f"the engine cannot be recorded: {error.message}"
        raise ProvisionError(Cause.INTERNAL, text, error.hint) from error


def env_findings(pool: Pool) -> tuple[Finding, ...]:
    """The configured environment variables that are not the operator's to set."""
    found = (env_finding(pool, name, KEY_ENV) for name in sorted(pool.env))
    return tuple(finding for finding in found if finding is not None)


def engine_finding(error: ProvisionError) -> Finding:
    """What stops the preparation, as a preflight tells it."""
    return Finding(check="engine", message=error.message, why=_WHY_ENGINE, hint=error.hint)


_WHY_ENGINE = "without it there is nothing to start"

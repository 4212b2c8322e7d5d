"""llama-server, built from a git repository.

Decides when something is built and when what is there will do: a build is known by repository, commit and definitions,
and finished when its stamp says so (EP-19). Interrupted anywhere, the next run goes on or begins again. In profile home
it has CUDA or there is none: a configured build without CUDA is a failure (EP-06).
"""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import suppress
from pathlib import Path

from catalog_core.atomic import sync_directory, sync_file_system
from contracts.config import Pool, Profile, SourceBuild
from contracts.engines import Finding
from contracts.pools import Cause
from engine_provisioner import cmake, toolchain
from engine_provisioner.base import Checklist, Progress
from engine_provisioner.build_cache import BuildCache, Stamp, is_whole
from engine_provisioner.build_errors import Context
from engine_provisioner.build_tools import Need
from engine_provisioner.builder import Builder, Recipe
from engine_provisioner.errors import ProvisionError, error_of
from engine_provisioner.git import Repository
from engine_provisioner.git_refs import is_commit, judged_url, repository_findings
from engine_provisioner.gpus import GpuUnavailable
from engine_provisioner.host import CommandError, Host
from engine_provisioner.plan import StepKind, without_secrets
from engine_provisioner.providers.native import ANSWER_S, Program
from engine_provisioner.toolchain import Toolchain

MISSING_HINT = "remove the build below <cache>/llamacpp/builds, and it is built anew"


class SourceBuilder:
    """A Source of mode ``source``."""

    def __init__(self, host: Host, profile: Profile) -> None:
        self._host = host
        self._profile = profile
        self._cache = BuildCache(host.cache / "llamacpp")

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """See Source. A build that is here already needs no tools."""
        recipe, found = await self._recipe(pool)
        if not found and await self._remembered_build(recipe) is not None:
            return ()
        _, lacking = await self._look_around(recipe)
        late = await toolchain.driver_findings(self._host) if self._profile is Profile.HOME else ()
        return (*found, *lacking, *late, *await self._policy_findings(recipe))

    async def present(self, pool: Pool) -> Program | None:
        """See Source: the build of the commit that the ref was last."""
        recipe, found = await self._recipe(pool)
        return None if found else await self._remembered_build(recipe)

    async def obtain(self, pool: Pool, steps: Checklist, progress: Progress) -> Program:
        """See Source."""
        try:
            return await self._obtain(pool, steps, progress)
        except OSError as error:
            text = f"cannot use {error.filename or self._cache.root}: {error.strerror or error}"
            hint = "make room on that disk, and see that this user owns the directory; paths.cache names another one"
            raise ProvisionError(Cause.ENGINE_BUILD, text, hint) from error

    async def _obtain(self, pool: Pool, steps: Checklist, progress: Progress) -> Program:
        steps.begin(StepKind.FETCH)
        recipe, found = await self._recipe(pool)
        if found:
            raise error_of(Cause.ENGINE_BUILD, found)
        for note in recipe.options.notes:
            progress(f"{note.message}: {note.hint}")
        commit = await self._commit(recipe, progress)
        program = await self._usable(recipe, commit, progress)
        if program is None:
            async with self._cache.locked(lambda holder: progress(f"waits for another build ({holder})")) as descriptor:
                # Whoever had the lock may have built just this.
                program = await self._usable(recipe, commit, progress)
                if program is None:
                    return await self._made(recipe, commit, steps, progress, descriptor)
        progress(f"{program.engine_version} of {without_secrets(recipe.repo)} is built already")
        steps.begin(StepKind.CONFIGURE)
        steps.begin(StepKind.BUILD)
        return program

    async def _recipe(self, pool: Pool) -> tuple[Recipe, tuple[Finding, ...]]:
        """What to build for a pool, and what is wrong with its configuration."""
        source = pool.provisioning.source or SourceBuild()
        names: tuple[str, ...] = ()
        architectures = cmake.NATIVE
        if self._profile is Profile.HOME:
            with suppress(GpuUnavailable):  # the provider's own check says so
                names, architectures = await asyncio.to_thread(toolchain.devices_and_architectures, pool, self._host)
        options = cmake.options_for(self._profile, source.cmake_flags, architectures)
        recipe = Recipe(
            repo=source.repo,
            ref=source.ref,
            options=options,
            machine=names if options.value(cmake.ARCHITECTURES) == cmake.NATIVE else (),
            pool=pool,
        )
        why = "llama.cpp would not be built as this pool needs it"
        refused = tuple(
            Finding(
                check="cmake",
                message=f"pools[{pool.id}].provisioning.source.cmake_flags: {note.message}",
                why=why,
                hint=note.hint,
            )
            for note in options.notes
            if note.refused
        )
        return recipe, (*repository_findings(pool.id, source.repo, source.ref), *refused)

    async def _look_around(self, recipe: Recipe) -> tuple[Toolchain | None, tuple[Finding, ...]]:
        tools, lacking = await toolchain.look_around(self._host, self._profile, recipe.options)
        room = await asyncio.to_thread(toolchain.room_findings, self._host, self._profile)
        return tools, (*lacking, *room)

    async def _policy_findings(self, recipe: Recipe) -> tuple[Finding, ...]:
        try:
            await self._host.require_outbound(judged_url(recipe.repo))
        except ProvisionError as error:
            why = "the source of llama.cpp is fetched from it"
            return (Finding(check="policy", message=error.message, why=why, hint=error.hint),)
        return ()

    # --- what is here already -----------------------------------------------------------------------------------------

    async def _remembered_build(self, recipe: Recipe) -> Program | None:
        commit = await asyncio.to_thread(self._remembered, recipe)
        found = await asyncio.to_thread(self._cache.finished, recipe.build_id(commit)) if commit else None
        return _program(recipe, *found) if found else None

    def _remembered(self, recipe: Recipe) -> str | None:
        return recipe.ref if is_commit(recipe.ref) else self._cache.remembered(recipe.repo, recipe.ref)

    async def _usable(self, recipe: Recipe, commit: str | None, progress: Progress) -> Program | None:
        """The program of a finished build that is whole and still runs; one that is not is no finished build."""
        if commit is None:
            return None
        identifier = recipe.build_id(commit)
        found = await asyncio.to_thread(self._cache.finished, identifier)
        if found is None:
            return None
        stamp, path = found
        whole = await is_whole(path, stamp)
        problem = await self._breakage(path) if whole else f"{path} is not what was built"
        if problem is None:
            return _program(recipe, stamp, path)
        progress(f"{problem}: it is built anew")
        await asyncio.to_thread(self._cache.discard, identifier)
        return None

    async def _breakage(self, path: Path) -> str | None:
        """Why a program does not even start: a CUDA toolkit or a driver that was replaced takes its libraries away."""
        try:
            result = await self._host.run((str(path), "--version"), timeout_s=ANSWER_S)
        except CommandError as error:
            return str(error)
        return None if result.status == 0 else f"{path} does not start any more ({result.last_line})"

    # --- what is fetched and built ------------------------------------------------------------------------------------

    async def _commit(self, recipe: Recipe, progress: Progress) -> str | None:
        """The commit to build; None where only the fetched history can tell. Raises ProvisionError.

        Where nobody can be asked, the last known commit will do as long as something of it is here.
        """
        known = await asyncio.to_thread(self._remembered, recipe)
        if known is not None and re.fullmatch(r"[0-9a-f]{7,64}", recipe.ref) and known.startswith(recipe.ref):
            await asyncio.to_thread(self._cache.remember, recipe.repo, recipe.ref, known)  # its build stays
            return known  # a commit, whole or short: it does not move
        try:
            if self._host.which("git") is None:
                await self._tools(recipe)  # says what else is missing
            commit = await self._repository(recipe).commit(recipe.ref)
        except ProvisionError as error:
            if known is None or not self._has(recipe, known):
                raise
            progress(f"{error.message.splitlines()[0]}; {recipe.ref} was last {known[:9]}, and that is used")
            return known
        if commit is not None:
            progress(f"{recipe.ref} is {commit[:9]}")
            await asyncio.to_thread(self._cache.remember, recipe.repo, recipe.ref, commit)
        return commit

    def _has(self, recipe: Recipe, commit: str) -> bool:
        built = self._cache.finished(recipe.build_id(commit))
        return built is not None or self._cache.source(recipe.repo, commit).is_dir()

    def _repository(self, recipe: Recipe, keep_open: tuple[int, ...] = ()) -> Repository:
        git = self._host.which("git")
        if git is None:
            install = toolchain.install(self._host, Need.GIT)
            raise ProvisionError(Cause.ENGINE_BUILD, "there is no git on PATH", install)
        context = Context(install=lambda need: toolchain.install(self._host, need))
        return Repository(self._host, git, recipe.repo, context, keep_open)

    async def _tools(self, recipe: Recipe) -> Toolchain:
        """What the build is made with. Raises ProvisionError with all that lacks, before anything is fetched."""
        tools, lacking = await self._look_around(recipe)
        if tools is None or lacking:
            raise error_of(Cause.ENGINE_BUILD, lacking)
        return tools

    async def _fetched(self, recipe: Recipe, commit: str | None, descriptor: int, progress: Progress) -> str:
        """The commit to build, whose source is here then."""
        if commit is not None and self._cache.source(recipe.repo, commit).is_dir():
            return commit
        progress(f"fetches {recipe.ref} of {without_secrets(recipe.repo)}")
        incoming = self._cache.incoming(recipe.repo)
        commit = await self._repository(recipe, (descriptor,)).checkout(recipe.ref, commit, incoming)
        await asyncio.to_thread(_move, incoming, self._cache.source(recipe.repo, commit))
        await asyncio.to_thread(self._cache.remember, recipe.repo, recipe.ref, commit)
        return commit

    async def _made(
        self, recipe: Recipe, known: str | None, steps: Checklist, progress: Progress, descriptor: int
    ) -> Program:
        """Fetch what is missing and build it; the lock is held."""
        tools = await self._tools(recipe)
        commit = await self._fetched(recipe, known, descriptor, progress)
        builder = Builder(
            host=self._host,
            profile=self._profile,
            cache=self._cache,
            tools=tools,
            recipe=recipe,
            commit=commit,
            descriptor=descriptor,
        )
        steps.begin(StepKind.CONFIGURE)
        await builder.configure(progress)
        steps.begin(StepKind.BUILD)
        stamp, path = await builder.build(progress)
        await asyncio.to_thread(self._cache.prune, recipe.repo, commit)
        return _program(recipe, stamp, path)


def _program(recipe: Recipe, stamp: Stamp, path: Path) -> Program:
    return Program(
        argv=(str(path.absolute()),),
        digest_of=path,
        digest=stamp.digest,
        engine_version=f"{stamp.commit[:9]}-{recipe.options.label}",
        build_ref=stamp.commit,
        build_flags=cmake.arguments(recipe.options.definitions),
        missing_hint=MISSING_HINT,
    )


def _move(source: Path, target: Path) -> None:
    """Put a whole checkout in its place; one that is there already is as good."""
    if target.is_dir():
        shutil.rmtree(source)
    else:
        sync_file_system(
            source
        )  # git leaves that to the kernel, and after a power cut half a checkout would pass for one
        source.rename(target)
        sync_directory(target.parent)

"""One build of llama-server, under the lock of its cache.

Decides what of an interrupted build is used again: a build directory that was configured the same way, with tools that
are still there, if ninja wrote it; make takes a half-written object for a whole one. Never goes on without CUDA in
profile home.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from contracts.config import Pool, Profile
from contracts.pools import Cause
from engine_provisioner import cmake
from engine_provisioner.base import Progress
from engine_provisioner.build_cache import BuildCache, Stamp, new_log, read_tail
from engine_provisioner.build_errors import Context, Trouble, build_trouble, configure_trouble
from engine_provisioner.errors import ProvisionError
from engine_provisioner.git_refs import number_of
from engine_provisioner.gpus import mask_of
from engine_provisioner.host import CommandError, CommandResult, Host, sha256_of
from engine_provisioner.plan import SERVER, without_secrets
from engine_provisioner.toolchain import GIB, Toolchain, install

CONFIGURE_S = 900.0
BUILD_S = 6 * 3600.0
_PER_JOB = {Profile.TRIAL: 1 * GIB, Profile.HOME: 3 * GIB}
"""What one compiler may take; nvcc takes the most."""
NINJA = "Ninja"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What is built, but for the commit."""

    repo: str
    ref: str
    options: cmake.Options
    machine: tuple[str, ...] = ()
    """What else tells this build from another one."""
    pool: Pool

    def build_id(self, commit: str) -> str:
        """The build's name."""
        return cmake.build_id(self.repo, commit, self.options, self.machine)


class Builder:
    """Configures and builds one commit, whose source is in the cache. ``descriptor`` holds the cache's lock."""

    def __init__(
        self,
        *,
        host: Host,
        profile: Profile,
        cache: BuildCache,
        tools: Toolchain,
        recipe: Recipe,
        commit: str,
        descriptor: int,
    ) -> None:
        self._host = host
        self._profile = profile
        self._cache = cache
        self._tools = tools
        self._recipe = recipe
        self._commit = commit
        self._descriptor = descriptor
        self._id = recipe.build_id(commit)
        self._folder = cache.build(self._id)
        self._source = cache.source(recipe.repo, commit)
        self._build = self._folder / "build"
        self._configured = self._build / "configured"
        self._log = self._folder / "build.log"

    async def configure(self, progress: Progress) -> None:
        """Run CMake, and see that what it configured is what was asked for. Raises ProvisionError and OSError."""
        await asyncio.to_thread(self._prepare)
        progress(f"the log is {self._log}")
        reason = await asyncio.to_thread(self._unusable)
        again = self._configured.exists() and reason is None
        if again:
            progress("goes on with an interrupted build")
        elif self._build.exists():
            progress(f"begins again: {reason or 'an earlier configure did not end'}")
            await asyncio.to_thread(shutil.rmtree, self._build)
        result = await self._cmake()
        if result.status != 0 and again:
            progress("begins again: the interrupted build cannot be configured any more")
            await asyncio.to_thread(shutil.rmtree, self._build)
            result = await self._cmake()
        if result.status != 0:
            raise self._error("configured", configure_trouble(result.output, self._context()))
        self._require_cuda()
        self._configured.touch()

    async def build(self, progress: Progress) -> tuple[Stamp, Path]:
        """Build llama-server and stamp it. Raises ProvisionError and OSError."""
        resources = self._host.resources()
        wanted = self._host.environ.get("CMAKE_BUILD_PARALLEL_LEVEL")
        jobs = cmake.jobs_for(resources.cores, resources.memory_bytes, _PER_JOB[self._profile], wanted)
        progress(f"builds with {jobs} {'job' if jobs == 1 else 'jobs'} at a time")
        seen = cmake.Progress()

        def on_line(line: str) -> None:
            if (percent := seen.of(line)) is not None:
                progress(f"{percent} % built")

        argv = (str(self._tools.cmake), "--build", str(self._build), "--target", SERVER, "--parallel", str(jobs))
        result = await self._run(argv, timeout_s=BUILD_S, on_line=on_line)
        if result.status != 0:
            raise self._error("built", build_trouble(read_tail(self._log), self._context()))
        return await self._finish()

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        new_log(self._folder)
        # CMake compiles relative to this link, so ccache knows a file again in another commit's build.
        link = self._folder / "source"
        link.unlink(missing_ok=True)
        link.symlink_to(self._source.absolute())

    def _unusable(self) -> str | None:
        """Why an interrupted build directory cannot be used again. Blocks for a moment."""
        if not self._configured.exists():
            return None
        if self._tools.generator != NINJA:
            return "make would take a half-written object for a whole one"
        try:
            text = (self._build / "CMakeCache.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "its CMake cache is gone"
        cache = cmake.parse_cache(text)
        gone = [path for _, path in cmake.tool_paths(cache) if not Path(path).exists()]
        tools = dict(self._tool_definitions())
        return cmake.stale(
            cache, generator=self._tools.generator, source=str(self._folder / "source"), tools=tools, gone=gone
        )

    def _tool_definitions(self) -> tuple[tuple[str, str], ...]:
        """The toolchain's, but for what the operator has chosen: another CUDA compiler, another root."""
        own = dict(self._recipe.options.own)
        return tuple((name, value) for name, value in self._tools.definitions if name not in own)

    async def _cmake(self) -> CommandResult:
        definitions = (
            *self._recipe.options.definitions,
            *self._tool_definitions(),
            ("LLAMA_BUILD_NUMBER", number_of(self._recipe.ref)),
            *self._layout(),
        )
        argv = (
            *(str(self._tools.cmake), "-S", str(self._folder / "source"), "-B", str(self._build)),
            *("-G", self._tools.generator),
            *cmake.arguments(definitions),
        )
        return await self._run(argv, timeout_s=CONFIGURE_S)

    def _layout(self) -> tuple[tuple[str, str], ...]:
        """Until May 2025 the server stood among the examples."""
        return (("LLAMA_BUILD_EXAMPLES", "ON"),) if (self._source / "examples/server/CMakeLists.txt").exists() else ()

    def _require_cuda(self) -> None:
        """In profile home CMake must have found CUDA, whatever it says about success."""
        if self._profile is not Profile.HOME:
            return
        text = (self._build / "CMakeCache.txt").read_text(encoding="utf-8", errors="replace")
        if problem := cmake.cuda_problem(cmake.parse_cache(text)):
            hint = "set provisioning.source.ref to a revision of July 2024 or later; the log says what CMake found"
            trouble = Trouble(summary=f"{problem}, and it would compute on the CPU", lines=(), hint=hint)
            raise self._error("configured", trouble)

    async def _finish(self) -> tuple[Stamp, Path]:
        """Put the program where it stays, and stamp it."""
        built = self._build / "bin" / SERVER
        if not built.is_file():
            hint = "set provisioning.source.ref to a revision of July 2024 or later"
            raise self._error("built", Trouble(summary=f"the build made no bin/{SERVER}", lines=(), hint=hint))
        program = built
        if not self._recipe.options.shared:
            program = self._folder / SERVER
            await asyncio.to_thread(built.replace, program)
        stamp = Stamp(
            repo=without_secrets(self._recipe.repo),
            ref=self._recipe.ref,
            commit=self._commit,
            definitions=self._recipe.options.definitions,
            program=str(program.relative_to(self._folder)),
            digest=await sha256_of(program),
            size_bytes=program.stat().st_size,
            built_ms=self._host.now_ms(),
        )
        await asyncio.to_thread(self._cache.finish, self._id, stamp)
        if not self._recipe.options.shared:
            await asyncio.to_thread(shutil.rmtree, self._build, ignore_errors=True)
        return stamp, program

    async def _run(
        self, argv: tuple[str, ...], *, timeout_s: float, on_line: Callable[[str], None] | None = None
    ) -> CommandResult:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(argv)}\n")
        try:
            return await self._host.run(
                argv,
                timeout_s=timeout_s,
                env=self._environment(),
                log=self._log,
                on_line=on_line,
                keep_open=(self._descriptor,),
            )
        except CommandError as error:
            hint = f"the log is {self._log}; the next run goes on where this one ended"
            raise ProvisionError(Cause.ENGINE_BUILD, str(error), hint) from error

    def _environment(self) -> dict[str, str | None]:
        # CUDA's "native" asks the GPUs that are visible: those of this pool.
        mask = mask_of(self._recipe.pool) if self._profile is Profile.HOME else {}
        return {
            "LC_ALL": "C",
            "NINJA_STATUS": "[%f/%t] ",
            "CCACHE_BASEDIR": self._host.environ.get("CCACHE_BASEDIR", str(self._cache.root.absolute())),
            "CCACHE_NOHASHDIR": "1",
            # Where a make of somebody else started us, its jobs are not ours.
            **dict.fromkeys(("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "GIT_DIR", "GIT_WORK_TREE")),
            **mask,
        }

    def _context(self) -> Context:
        return Context(install=lambda need: install(self._host, need, self._tools), cuda=self._tools.release or "?")

    def _error(self, what: str, trouble: Trouble) -> ProvisionError:
        text = trouble.text(f"llama.cpp {self._commit[:9]} cannot be {what}", str(self._log))
        return ProvisionError(Cause.ENGINE_BUILD, text, trouble.hint)

"""The tools on this machine that build llama.cpp.

Decides which of them are used: ninja before make, ccache where there is one, the CUDA compiler that was named before
the one on PATH before those in the usual places. Finds all that is missing at once (EP-08). Never installs one.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from contracts.config import Pool, Profile
from contracts.engines import Finding
from engine_provisioner import cuda
from engine_provisioner.build_tools import Need, install_command, install_cublas_command, missing
from engine_provisioner.cmake import ARCHITECTURES, CUDA, NATIVE, Options, is_on
from engine_provisioner.host import CommandError, Host

ANSWER_S = 20.0
GIB = 1 << 30
_MINIMUM = {Profile.TRIAL: (3, 14), Profile.HOME: (3, 18)}
_MINIMUM_NATIVE = (3, 24)
"""Since when CMake asks the GPUs themselves for their architectures."""
_DISK = {Profile.TRIAL: 1 * GIB, Profile.HOME: 5 * GIB}
"""The source, the objects and the program, with a little room."""


class Toolchain(msgspec.Struct, frozen=True, kw_only=True):
    """What a build is made with."""

    git: Path
    cmake: Path
    generator: str
    ccache: Path | None = None
    toolkit: cuda.Toolkit | None = None
    release: str | None = None
    """Of the CUDA toolkit."""

    @property
    def definitions(self) -> tuple[tuple[str, str], ...]:
        """What CMake is told about them."""
        found: list[tuple[str, str]] = [("GGML_CCACHE", "OFF")]  # the launcher is ours, and only one may run
        if self.ccache:
            languages = ("C", "CXX", "CUDA") if self.toolkit else ("C", "CXX")
            found += [(f"CMAKE_{language}_COMPILER_LAUNCHER", str(self.ccache)) for language in languages]
        return (*found, *(self.toolkit.definitions if self.toolkit else ()))


async def look_around(host: Host, profile: Profile, options: Options) -> tuple[Toolchain | None, tuple[Finding, ...]]:
    """The toolchain, or everything that keeps this machine from having one. Changes nothing."""
    found: list[Finding] = []

    def lacks(need: Need, message: str) -> None:
        found.append(missing(need, message, install(host, need)))

    git, cmake = host.which("git"), host.which("cmake")
    if git is None:
        lacks(Need.GIT, "there is no git on PATH")
    if cmake is None:
        lacks(Need.CMAKE, "there is no cmake on PATH")
    elif problem := await _cmake_problem(host, cmake, profile, options):
        lacks(Need.CMAKE, problem)
    generator = next((name for tool, name in _GENERATORS if host.which(tool)), None)
    if generator is None:
        lacks(Need.GENERATOR, "there is neither ninja nor make on PATH")
    if problem := _compiler_problem(host):
        lacks(Need.COMPILER, problem)
    toolkit = release = None
    if profile is Profile.HOME:
        toolkit = await asyncio.to_thread(find_toolkit, host)
        if toolkit is None:
            lacks(Need.NVCC, "there is no nvcc on PATH, nor in CUDA_HOME, /usr/local/cuda or /opt/cuda")
        else:
            release, problems = await _nvcc_problems(host, toolkit, options)
            found += problems
    if found or git is None or cmake is None or generator is None:
        return None, tuple(found)
    ccache = host.which("ccache")
    return Toolchain(git=git, cmake=cmake, generator=generator, ccache=ccache, toolkit=toolkit, release=release), ()


async def driver_findings(host: Host) -> tuple[Finding, ...]:
    """Whether what the CUDA toolkit makes is too new for the driver, so that it would be built for nothing."""
    toolkit = await asyncio.to_thread(find_toolkit, host)
    release = cuda.release_in(await _said(host, toolkit.nvcc, "--version")) if toolkit else None
    behind = cuda.behind(release, await asyncio.to_thread(host.driver)) if release else None
    if behind is None or not behind.generation:
        return ()
    hint = behind.mend(host.distribution())
    return (Finding(check="cuda", message=behind.message, why=cuda.BEHIND_WHY, hint=hint),)


def install(host: Host, need: Need, toolchain: Toolchain | None = None) -> str:
    """The distribution's own command for what is missing."""
    distribution = host.distribution()
    if need is Need.CUBLAS and toolchain and toolchain.toolkit:
        root = toolchain.toolkit.root or ""
        if not root and Path(cuda.USUAL_ROOTS[0]).exists():
            root = cuda.USUAL_ROOTS[0]  # where the toolkit is that a wrapper on PATH belongs to
        return install_cublas_command(distribution, toolchain.release, root)
    return install_command(need, distribution)


def find_toolkit(host: Host, versioned: Iterable[str] | None = None) -> cuda.Toolkit | None:
    """The CUDA compiler, with its root where CMake would not find that by itself. Blocks for a moment."""
    on_path = host.which("nvcc")
    if versioned is None:
        folder, pattern = cuda.VERSIONED_ROOTS
        versioned = [str(path) for path in Path(folder).glob(pattern)]
    for nvcc in cuda.candidates(host.environ, str(on_path) if on_path else None, versioned):
        path = shutil.which(nvcc, path=host.environ.get("PATH", os.defpath))
        if path is None:
            continue
        root = cuda.root_of(path)
        # A wrapper on PATH belongs to no toolkit: nvcc itself tells CMake where its own is.
        whole = any(Path(root).glob("include/cuda_runtime*.h")) or any(Path(root).glob("targets/*/include"))
        hinted = whole or str(on_path) != path
        return cuda.Toolkit(nvcc=path, root=root if hinted else None)
    return None


def room_findings(host: Host, profile: Profile) -> tuple[Finding, ...]:
    """What is wrong with the place that a build is made in. Blocks for a moment."""
    cache = host.cache.absolute()
    there = next(path for path in (cache, *cache.parents) if path.exists())
    why = "the source and the build of llama.cpp are kept there"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "cannot be written" if there.is_dir() else "is no directory"
        hint = f"give this user {there}, or set paths.cache to a directory of its own"
        return (Finding(check="cache", message=f"{there} {what}", why=why, hint=hint),)
    try:
        free, need = host.free_bytes(cache), _DISK[profile]
    except OSError as error:
        return (Finding(check="cache", message=f"{there}: {error.strerror}", why=why, hint="check that disk"),)
    if free < need:
        text = f"{there} has {free / GIB:.1f} GiB free, and a build takes {need / GIB:.0f} GiB"
        hint = "make room there, or set paths.cache to a directory on another disk"
        return (Finding(check="cache", message=text, why=why, hint=hint),)
    return ()


def devices_and_architectures(pool: Pool, host: Host) -> tuple[tuple[str, ...], str]:
    """The names of the pool's GPUs, and the CUDA architectures to build for. Blocks; raises GpuUnavailable."""
    gpus = cuda.devices_of(pool, host.gpus())
    return tuple(gpu.name for gpu in gpus), cuda.architectures(gpus)


_GENERATORS = (("ninja", "Ninja"), ("ninja-build", "Ninja"), ("make", "Unix Makefiles"))
_COMPILERS = {"CC": ("cc", "gcc", "clang"), "CXX": ("c++", "g++", "clang++")}


async def _cmake_problem(host: Host, cmake: Path, profile: Profile, options: Options) -> str | None:
    text = await _said(host, str(cmake), "--version")
    match = re.search(r"cmake version (\d+)\.(\d+)", text)
    if match is None:
        return f"{cmake} --version does not answer as CMake does: {text.strip()[:200]}"
    native = options.value(ARCHITECTURES) == NATIVE and is_on(options.value(CUDA) or "")
    needed = _MINIMUM_NATIVE if native else _MINIMUM[profile]
    if (int(match[1]), int(match[2])) >= needed:
        return None
    return f"{cmake} is version {match[1]}.{match[2]}, and {needed[0]}.{needed[1]} is the first that will do"


def _compiler_problem(host: Host) -> str | None:
    lacking = []
    for variable, names in _COMPILERS.items():
        named = host.environ.get(variable, "").split()
        tried = named[:1] or list(names)
        if not any(host.which(name) for name in tried):
            lacking.append(f"{variable}={named[0]}" if named else names[1])
    return f"there is no {' and no '.join(lacking)} on PATH" if lacking else None


async def _nvcc_problems(host: Host, toolkit: cuda.Toolkit, options: Options) -> tuple[str | None, list[Finding]]:
    """The release of a CUDA compiler, and what it cannot do."""
    text = await _said(host, toolkit.nvcc, "--version")
    release = cuda.release_in(text)
    if release is None:
        problem = f"{toolkit.nvcc} --version does not answer as nvcc does: {text.strip()[:200]}"
        return None, [missing(Need.NVCC, problem, install(host, Need.NVCC))]
    known = cuda.known_architectures(await _said(host, toolkit.nvcc, "--list-gpu-arch"))
    wanted = cuda.numbers_in(options.value(ARCHITECTURES) or "")
    refused = cuda.unsupported(wanted, known, release)
    return release, [missing(Need.NVCC, refused[0], refused[1])] if refused else []


async def _said(host: Host, *argv: str) -> str:
    """What a tool answers, or why it does not."""
    try:
        return (await host.run(argv, timeout_s=ANSWER_S, env={"LC_ALL": "C"})).output
    except CommandError as error:
        return str(error)

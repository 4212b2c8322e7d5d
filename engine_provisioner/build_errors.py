"""What went wrong in git, CMake or a compiler, in the operator's words.

Decides which lines of an output say it, which known failure they are, and what mends that. Never reads a log: its text
is an argument.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from engine_provisioner.build_tools import Need
from engine_provisioner.cmake import percent_in

SHOWN_LINES = 12


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a mend needs to know of the machine."""

    install: Callable[[Need], str]
    """The distribution's own command for something that is missing."""
    cuda: str = "?"
    """The release of the CUDA toolkit."""


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """One failure: a line, the lines of the output that say it, and the mend."""

    summary: str
    lines: tuple[str, ...]
    hint: str
    passes: bool = False
    """The same may succeed later with nothing changed here."""

    def text(self, subject: str, log: str | None = None) -> str:
        """All of it but the mend, below what could not be done."""
        said = [f"{subject}: {self.summary}", *(f"  {line}" for line in self.lines)]
        return "\n".join([*said, f"  log: {log}"] if log else said)


class _Known(NamedTuple):
    """A failure that is known by its output."""

    pattern: re.Pattern[str]
    summary: str
    """``{1}`` stands for the first group of the pattern, ``{cuda}`` for the toolkit's release."""
    hint: Callable[[Context], str]
    passes: bool


def _known(pattern: str, summary: str, hint: str | Callable[[Context], str], *, passes: bool = False) -> _Known:
    return _Known(re.compile(pattern, re.MULTILINE), summary, hint if callable(hint) else lambda _: hint, passes)


_PIN_A_COMPILER = (
    "install an older g++ beside it, and add -DCMAKE_CUDA_HOST_COMPILER=/usr/bin/g++-12 (or the like) to "
    "provisioning.source.cmake_flags"
)
_FREE_MEMORY = (
    "set CMAKE_BUILD_PARALLEL_LEVEL=1 in the environment of pool-managerd, or stop what uses the memory; what is built "
    "already is kept"
)
_UNKNOWN_HINT = "check provisioning.source: another ref, or fewer cmake_flags, may be what it needs"
_NEWER_REVISION = "set provisioning.source.ref to a revision of July 2024 or later"

_FULL = _known(
    r"No space left on device|Disk quota exceeded",
    "the disk is full",
    "make room on the disk of the cache, or set paths.cache to another one",
)

_CONFIGURE = (
    _FULL,
    _known(
        r"^\s+CUDA::(cublas\w*)\s*$|Unable to find cublas_v2\.h",
        "CUDA::cublas not found: the CUDA toolkit {cuda} is here, its cuBLAS library is not",
        lambda context: context.install(Need.CUBLAS),
    ),
    _known(
        r"^\s+CUDA::(cuda_driver)\s*$",
        "CUDA::cuda_driver not found: libcuda.so of the NVIDIA driver is missing",
        "install the NVIDIA driver, or the toolkit's stubs",
    ),
    _known(
        r"CUDA Toolkit not found|Could NOT find CUDAToolkit|No CMAKE_CUDA_COMPILER could be found|Failed to find nvcc",
        "there is no CUDA toolkit",
        lambda context: context.install(Need.NVCC),
    ),
    _known(
        r"unsupported GNU version! gcc versions later than (\d+)",
        "CUDA {cuda} takes no g++ later than {1}, and the one here is later",
        _PIN_A_COMPILER,
    ),
    _known(
        r"unsupported clang version|unsupported Microsoft|host compiler is not supported",
        "CUDA {cuda} does not take this host compiler",
        _PIN_A_COMPILER,
    ),
    _known(
        r"Unsupported gpu architecture '?(\w+)'?|unsupported gpu architecture '?(\w+)'?",
        "CUDA {cuda} does not know the GPU architecture {1}",
        "install a CUDA toolkit that knows it, or remove CMAKE_CUDA_ARCHITECTURES from provisioning.source.cmake_flags",
    ),
    _known(
        r"CMake (\S+) or higher is required",
        "this revision needs CMake {1} or later",
        lambda context: f"install a newer CMake ({context.install(Need.CMAKE)}), or set an older source.ref",
    ),
    _known(
        r"No CMAKE_(?:C|CXX|ASM)_COMPILER could be found|is not able to compile a simple test program"
        r"|Could not find compiler set in environment variable",
        "there is no C and C++ compiler that works",
        lambda context: context.install(Need.COMPILER),
    ),
    _known(
        r"does not appear to contain CMakeLists\.txt",
        "the repository has no CMakeLists.txt, so it is not llama.cpp",
        "check provisioning.source.repo and provisioning.source.ref",
    ),
)

_BUILD = (
    _FULL,
    _known(
        r"Killed signal terminated program|signal 9 \(Kill signal\)|^Killed$|: Killed$|virtual memory exhausted"
        r"|Cannot allocate memory|out of memory allocating",
        "the machine ran out of memory",
        _FREE_MEMORY,
    ),
    *_CONFIGURE[4:7],
    _known(
        r"unknown target '?llama-server|No rule to make target '?llama-server",
        "this revision has no llama-server to build",
        _NEWER_REVISION,
    ),
    _known(
        r"cannot find -l(\w+)",
        "the library {1} is missing",
        "install it with its development files; the log says which file needs it",
    ),
    _known(
        r"fatal error: (\S+): No such file or directory",
        "the header {1} is missing",
        "install the development package that has it, or set another provisioning.source.ref",
    ),
)

_GIT = (
    _FULL,
    _known(
        r"could not read (?:Username|Password)|terminal prompts disabled|Authentication failed|Permission denied \(pub"
        r"|Host key verification failed|HTTP 40[13]|error: 40[13]\b|Invalid username or",
        "the repository wants authentication",
        "check that the URL is right; a private one needs a git credential helper or an SSH key",
    ),
    _known(
        r"couldn't find remote ref|Remote branch \S+ not found|no such ref|not our ref|unadvertised object",
        "the repository has no such ref",
        "set provisioning.source.ref to a branch, a tag or a commit that git ls-remote shows",
    ),
    _known(
        r"does not appear to be a git repository|[Rr]epository .*not found|Repository not found|HTTP 404|error: 404"
        r"|does not exist",
        "there is no such repository",
        "check provisioning.source.repo",
    ),
    _known(
        r"Could not resolve host|Could not resolve hostname|Failed to connect|Connection refused|Connection timed out"
        r"|Network is unreachable|No route to host|Operation too slow|timed out|early EOF|unexpected disconnect"
        r"|Connection reset|SSL|gnutls|unable to access",
        "the repository cannot be reached",
        "check the network and provisioning.source.repo; a pool whose build is here already does without",
        passes=True,
    ),
    _known(
        r"detected dubious ownership",
        "the repository belongs to another user, and git does not trust it",
        "git config --global --add safe.directory with its path, as pool-managerd's user",
    ),
)


def configure_trouble(output: str, context: Context) -> Trouble:
    """Why CMake could not configure."""
    return _trouble(output, _cmake_errors(output), _CONFIGURE, context, "CMake failed")


def build_trouble(output: str, context: Context) -> Trouble:
    """Why the build failed: the first thing that a compiler, the linker or the build tool complained of."""
    return _trouble(output, _compiler_errors(output), _BUILD, context, "a command failed")


def git_trouble(output: str, context: Context) -> Trouble:
    """Why git could not bring the source here."""
    complaints = [line for line in output.splitlines() if re.match(r"\s*(fatal|error|remote|ssh):", line)]
    return _trouble(output, complaints or _last(output), _GIT, context, "git failed")


def is_redirect(output: str) -> bool:
    """Whether git was sent to another address, which it does not follow."""
    return re.search(r"The requested URL returned error: 30[12378]\b", output) is not None


def redirect_target(trace: str) -> str | None:
    """The repository that a server named in place of the one that was asked for, out of git's trace of HTTP."""
    found = re.search(r"Recv header: location: (\S+)/info/refs\b", trace, re.IGNORECASE)
    return found[1] if found else None


def moved_trouble(address: str | None) -> Trouble:
    """A repository that has another address now, which is named where it is known."""
    hint = f"set provisioning.source.repo to {address or 'the address that it has now'}"
    return Trouble(summary="the repository has moved, and redirects are not followed", lines=(), hint=hint)


def is_absence(trouble: Trouble) -> bool:
    """Whether a server said that it does not hand out this ref by itself, which a full fetch may still bring."""
    return trouble.summary == _GIT[2].summary


def _trouble(output: str, lines: list[str], known: tuple[_Known, ...], context: Context, otherwise: str) -> Trouble:
    shown = tuple(line.rstrip() for line in lines if line.strip())[:SHOWN_LINES]
    # What was picked out says it better than a warning somewhere in the log.
    for text in ("\n".join(lines), output):
        for failure in known:
            if match := failure.pattern.search(text):
                first = next((group for group in match.groups() if group), "")
                summary = failure.summary.replace("{1}", first).replace("{cuda}", context.cuda)
                return Trouble(summary=summary, lines=shown, hint=failure.hint(context), passes=failure.passes)
    return Trouble(summary=otherwise, lines=shown, hint=_UNKNOWN_HINT)


def _cmake_errors(output: str) -> list[str]:
    """The first error block: its head and what is indented below it."""
    lines = output.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("CMake Error")]
    if not starts:
        return _last(output)
    found = [lines[starts[0]]]
    for line in lines[starts[0] + 1 :]:
        if (line.strip() and not line.startswith(" ")) or "Possible reasons include" in line:
            break
        found.append(line)
    return found


_COMPLAINT = re.compile(
    r"(?:\b(?:fatal )?error\b ?:|^nvcc (?:fatal|error)|undefined reference to|^ninja: (?:error|fatal)"
    r"|^g?make(?:\[\d+\])?: \*\*\*|Killed signal|No space left|: Killed$|^Killed$|cannot find -l|cannot execute"
    r"|internal compiler error)",
    re.IGNORECASE,
)


def _compiler_errors(output: str) -> list[str]:
    """The first complaint and what follows it."""
    lines = output.splitlines()
    first = next((number for number, line in enumerate(lines) if _COMPLAINT.search(line)), None)
    if first is None:
        return _last(output)
    following = itertools.takewhile(lambda line: percent_in(line) is None, lines[first + 1 : first + 5])
    return [lines[first], *following]


def _last(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.strip()][-5:]

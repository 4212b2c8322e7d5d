"""The CMake side of a build of llama.cpp: its definitions, its cache, its progress.

Decides which definitions a build gets and who has the last word on each (EP-04), what names a build (EP-19), and when a
CMake cache is worth nothing any more. Never runs CMake and never looks at a file: what stands in one is an argument.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from contracts.config import Profile
from engine_provisioner.flags import Note

Definitions = tuple[tuple[str, str], ...]
"""CMake cache variables, name and value, sorted by name."""

CUDA = "GGML_CUDA"
ARCHITECTURES = "CMAKE_CUDA_ARCHITECTURES"
NATIVE = "native"

_REQUIRED: Mapping[str, str] = MappingProxyType(
    {"LLAMA_BUILD_SERVER": "ON", "LLAMA_BUILD_COMMON": "ON", "LLAMA_BUILD_TOOLS": "ON"}
)
"""Without them there is no llama-server; which of them a revision knows has changed over time."""

_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "OFF",  # the program stands alone
        "LLAMA_BUILD_APP": "OFF",
        "LLAMA_BUILD_EXAMPLES": "OFF",
        "LLAMA_BUILD_TESTS": "OFF",
        # Nobody browses an engine on loopback, and the prebuilt page would be downloaded.
        "LLAMA_BUILD_UI": "OFF",
        "LLAMA_USE_PREBUILT_UI": "OFF",
        # Models are fetched by model_provisioner, so the engine needs no libraries for it.
        "LLAMA_CURL": "OFF",
        "LLAMA_OPENSSL": "OFF",
    }
)

_MACHINE = frozenset(
    {
        "CMAKE_C_COMPILER_LAUNCHER",
        "CMAKE_CXX_COMPILER_LAUNCHER",
        "CMAKE_CUDA_COMPILER_LAUNCHER",
        "CMAKE_GENERATOR",
        "CMAKE_HOME_DIRECTORY",
        "CMAKE_CACHEFILE_DIR",
        "CMAKE_MAKE_PROGRAM",
        "CMAKE_RUNTIME_OUTPUT_DIRECTORY",
        "GGML_CCACHE",
        "LLAMA_BUILD_NUMBER",
    }
)
"""Chosen for each machine and each build; they do not change what the program computes."""

_MOVED = frozenset(
    (
        *("ACCELERATE", "AVX", "AVX2", "AVX512", "AVX512_BF16", "AVX512_VBMI", "AVX512_VNNI", "BLAS", "BLAS_VENDOR"),
        *("CCACHE", "CPU_HBM", "F16C", "FMA", "LLAMAFILE", "LTO", "METAL", "METAL_EMBED_LIBRARY", "NATIVE", "OPENMP"),
        *("RPC", "SCHED_MAX_COPIES", "STATIC", "SYCL", "SYCL_F16", "VULKAN"),
    )
)
"""Options that were LLAMA_x and are GGML_x since June 2024."""

_OFF = frozenset({"", "0", "OFF", "NO", "FALSE", "N", "IGNORE", "NOTFOUND"})
_DEFINITION = re.compile(r"(?:-D\s*)?([A-Za-z_][\w.+-]*)(?::[A-Za-z]+)?=([^\0\r\n]*)")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a build is configured with, and what the operator should know about it."""

    definitions: Definitions
    own: Definitions = ()
    """Those of them that only the operator's configuration explains."""
    notes: tuple[Note, ...] = ()

    def value(self, name: str) -> str | None:
        """The value of a definition."""
        return dict(self.definitions).get(name)

    @property
    def shared(self) -> bool:
        """Whether the program needs libraries that were built with it."""
        return is_on(self.value("BUILD_SHARED_LIBS") or "")

    @property
    def label(self) -> str:
        """A short name: what it computes on, and what the operator added."""
        cuda = (self.value(ARCHITECTURES) or NATIVE).replace(";", ".") if is_on(self.value(CUDA) or "") else None
        compute = "cpu" if cuda is None else f"cuda{cuda}" if cuda[:1].isdigit() else f"cuda-{cuda}"
        return "+".join([compute, *(f"{name}={value}" for name, value in self.own)])


def options_for(profile: Profile, flags: Iterable[str], architectures: str | None = None) -> Options:
    """The definitions of a build for this profile, from ``provisioning.source.cmake_flags`` and our own.

    Old names become the present ones, the last of duplicates wins, the order does not matter. A flag that would take
    something away that we rely on is refused by a note. ``architectures`` are those of the pool's GPUs.
    """
    required = {**_REQUIRED, CUDA: "ON" if profile is Profile.HOME else "OFF"}
    defaults = dict(_DEFAULTS)
    if profile is Profile.HOME:
        defaults[ARCHITECTURES] = architectures or NATIVE
    notes: list[Note] = []
    own: dict[str, str] = {}
    for flag in _joined(flags):
        match = _DEFINITION.fullmatch(flag)
        if match is None:
            text = f"{flag!r} is no definition"
            notes.append(Note(flag=flag, message=text, hint="write it as -DNAME=VALUE, or remove it", refused=True))
            continue
        given, value = match[1], match[2]
        name, value = renamed(given, value)
        if name != given:
            notes.append(Note(flag=given, message=f"{given} is deprecated", hint=f"{name}={value} is used instead"))
        if refusal := _refusal(name, given, value, required, profile):
            notes.append(refusal)
        elif name not in required:
            own[name] = value
    added = {name: value for name, value in own.items() if defaults.get(name) != value}
    return Options(
        definitions=tuple(sorted({**defaults, **own, **required}.items())),
        own=tuple(sorted(added.items())),
        notes=tuple(notes),
    )


def renamed(name: str, value: str) -> tuple[str, str]:
    """A definition in the present names of llama.cpp. LLAMA_CUBLAS and all that began like it asked for CUDA."""
    if name in {"LLAMA_CUBLAS", "GGML_CUBLAS"}:
        return CUDA, value
    if name.startswith("LLAMA_CUBLAS_"):
        return CUDA, "ON"
    if name == "LLAMA_CUDA" or name.startswith("LLAMA_CUDA_") or name.removeprefix("LLAMA_") in _MOVED:
        return f"GGML_{name.removeprefix('LLAMA_')}", value
    if name in {"LLAMA_BUILD_WEBUI", "LLAMA_USE_PREBUILT_WEBUI"}:
        return name.replace("WEBUI", "UI"), value
    return name, value


def is_on(value: str) -> bool:
    """Whether CMake takes a value for true."""
    return value.upper() not in _OFF and not value.upper().endswith("-NOTFOUND")


def build_id(repo: str, commit: str, options: Options, machine: Iterable[str] = ()) -> str:
    """The name of a build: the same repository, commit and definitions have the same one.

    ``machine`` tells builds apart whose definitions say less than they mean, as ``native`` does.
    """
    material = json.dumps([repo, commit, options.definitions, sorted(machine)])
    return f"{commit[:9]}-{hashlib.sha256(material.encode()).hexdigest()[:12]}"


def arguments(definitions: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Definitions as CMake's command line has them."""
    return tuple(f"-D{name}={value}" for name, value in definitions)


def jobs_for(cores: int, memory_bytes: int | None, bytes_per_job: int, wanted: str | None = None) -> int:
    """How many compilers run at a time: one per core, as far as memory goes; ``wanted`` is the operator's number."""
    if wanted is not None and re.fullmatch(r"[1-9][0-9]{0,3}", wanted):
        return int(wanted)
    fitting = cores if memory_bytes is None else memory_bytes // bytes_per_job
    return max(1, min(cores, fitting))


# --- what CMake leaves behind -----------------------------------------------------------------------------------------

_ENTRY = re.compile(r'^"?([^"#/\s=:][^"=:]*)"?:([A-Z]+)=(.*)$', re.MULTILINE)
_PATHS = (
    "CMAKE_MAKE_PROGRAM",
    "CMAKE_C_COMPILER",
    "CMAKE_CXX_COMPILER",
    "CMAKE_CUDA_COMPILER",
    "CMAKE_CUDA_HOST_COMPILER",
    "CMAKE_C_COMPILER_LAUNCHER",
    "CMAKE_CXX_COMPILER_LAUNCHER",
    "CMAKE_CUDA_COMPILER_LAUNCHER",
    "CUDAToolkit_BIN_DIR",
    "CUDA_CUDART",
    "CUDA_cublas_LIBRARY",
)
"""Entries that name what a build uses; each is a path, or a bare name that CMake found on PATH."""


_UNASKED = "UNINITIALIZED"


class CacheEntry(msgspec.Struct, frozen=True):
    """One line of CMakeCache.txt. The type UNINITIALIZED means that nobody asked for it."""

    type: str
    value: str


Cache = Mapping[str, CacheEntry]


def parse_cache(text: str) -> dict[str, CacheEntry]:
    """The entries of a CMakeCache.txt, by name. Whatever is no entry is passed over."""
    return {match[1]: CacheEntry(match[2], match[3]) for match in _ENTRY.finditer(text)}


def tool_paths(cache: Cache) -> Iterator[tuple[str, str]]:
    """The absolute paths in a cache without which it is stale: what they were and where they were."""
    for name in _PATHS:
        entry = cache.get(name)
        if entry is not None and entry.value.startswith("/"):
            yield name, entry.value


def stale(cache: Cache, *, generator: str, source: str, tools: Mapping[str, str], gone: Iterable[str]) -> str | None:
    """Why a configured build directory has to be removed, in words; None where it can be used again.

    ``tools`` are the compilers that are wanted now, by cache entry; ``gone`` the paths that are no longer there.
    """
    wanted = {"CMAKE_GENERATOR": generator, "CMAKE_HOME_DIRECTORY": source}
    for name, value in wanted.items():
        entry = cache.get(name)
        if entry is None or entry.value != value:
            return f"it was configured with {name}={entry.value if entry else '(none)'} and not {value}"
    for name, value in tools.items():
        if (entry := cache.get(name)) is not None and entry.value != value:
            return f"it was configured with {name}={entry.value} and not {value}"
    for path in gone:
        return f"it was configured with {path}, which is gone"
    for name in cache:
        if renamed(name, "")[0] != name:
            return f"it holds the deprecated entry {name}"
    return None


def cuda_problem(cache: Cache) -> str | None:
    """Why what was configured would compute on the CPU; None where it has CUDA."""
    cuda, compiler = cache.get(CUDA), cache.get("CMAKE_CUDA_COMPILER")
    if cuda is None or cuda.type == _UNASKED:
        return f"this revision does not know {CUDA}"
    if not is_on(cuda.value):
        return f"CMake set {CUDA}={cuda.value}"
    if compiler is None or compiler.type == _UNASKED or not is_on(compiler.value):
        return "CMake found no CUDA compiler"
    return None


# --- progress ---------------------------------------------------------------------------------------------------------

_NINJA = re.compile(r"^\[(\d+)/(\d+)\] ")
_MAKE = re.compile(r"^\[ {0,2}(\d{1,3})%\] ")
STEP = 5


class Progress(msgspec.Struct):
    """Thins out a build's lines: one for every STEP percent."""

    shown: int = 0

    def of(self, line: str) -> int | None:
        """The percentage that this line brings, where it is worth saying."""
        percent = percent_in(line)
        if percent is None or percent // STEP <= self.shown // STEP:
            return None
        self.shown = percent
        return percent


def percent_in(line: str) -> int | None:
    """How far a build is, by a line of ninja or make."""
    if match := _NINJA.match(line):
        done, total = int(match[1]), int(match[2])
        return min(100, 100 * done // total) if total else None
    match = _MAKE.match(line)
    return min(100, int(match[1])) if match else None


def _joined(flags: Iterable[str]) -> Iterator[str]:
    """The flags with a lone ``-D`` joined to what follows it."""
    lone = ""
    for flag in map(str.strip, flags):
        if flag == "-D" and not lone:
            lone = flag
            continue
        yield f"{lone}{flag}"
        lone = ""
    if lone:
        yield lone


def _refusal(name: str, given: str, value: str, required: Mapping[str, str], profile: Profile) -> Note | None:
    """Why a definition cannot be the operator's; None where it can, or says what holds anyway."""
    said = f"{given}={value}"
    if name in _MACHINE:
        text = f"{said} is not the operator's to say: llama-orch chooses it for each build"
        return Note(flag=name, message=text, hint="remove it", refused=True)
    if name not in required or is_on(value) == is_on(required[name]):
        return None
    if name != CUDA:
        text = f"{said} would leave out llama-server"
    elif profile is Profile.HOME:
        text = f"{said} would compute on the CPU, and profile home is GPU only"
    else:
        text = f"{said} wants a GPU, and profile trial computes on the CPU"
    hint = "remove it" if profile is Profile.TRIAL or name != CUDA else "remove it, or set profile: trial"
    return Note(flag=name, message=text, hint=hint, refused=True)

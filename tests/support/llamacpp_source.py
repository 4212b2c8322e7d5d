"""What a build of llama-server needs: llama.cpp in a git repository, a tiny one that answers like it, and CUDA.

llama.cpp comes out of the source distribution of ``llama-cpp-python``, from the package index that pip is configured
with, pinned by its sha256. The CUDA compiler comes from there too, without cuBLAS. Both are fetched once and kept in
``.cache/llamacpp-source``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

KEPT = Path(__file__).parents[2] / ".cache" / "llamacpp-source"
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_TREE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"

IDENTITY = {
    "GIT_AUTHOR_NAME": "A Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00+0000",
    "GIT_COMMITTER_NAME": "A Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00+0000",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


@contextmanager
def kept(lock: str = "lock") -> Iterator[Path]:
    """The directory that is kept between runs, for one run at a time."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / lock).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield KEPT


def llamacpp_repository() -> str:
    """The URL of a repository with the whole of llama.cpp on its branch master. To be called within ``kept``."""
    repository = KEPT / f"llama.cpp-{VERSION}.git"
    if not repository.exists():
        with tempfile.TemporaryDirectory(dir=KEPT) as folder:
            _make(Path(folder), repository)
    return repository.as_uri()


def cuda_toolkit() -> Path:
    """The root of a CUDA toolkit that has no cuBLAS. To be called within ``kept``."""
    root = KEPT / "cuda-13.0"
    if not root.exists():
        with tempfile.TemporaryDirectory(dir=KEPT) as folder:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
            subprocess.run([*pip, *_CUDA_WHEELS], check=True, timeout=600)
            (made,) = Path(folder).glob("nvidia/cu13")
            # As NVIDIA's own packages have them.
            (made / "lib/libcudart.so").symlink_to("libcudart.so.13")
            (made / "lib64").symlink_to("lib")
            made.rename(root)
    return root


_CUDA_WHEELS = (
    *("nvidia-cuda-nvcc==13.0.88", "nvidia-cuda-crt==13.0.88", "nvidia-nvvm==13.0.88"),
    *("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cccl==13.0.85"),
)


def _make(folder: Path, repository: Path) -> None:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
    # pip asks the package for its metadata, which starts its build backend but builds nothing.
    subprocess.run([*pip, "--require-hashes", "-r", str(wanted), "--dest", str(folder)], check=True, timeout=600)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        members = [member for member in file if member.name.startswith(_TREE) and not member.name.endswith("/.git")]
        file.extractall(folder, members, filter="data")
    git = _Git(folder / "new.git", folder / _TREE)
    git("init", "--quiet", "--bare", "--initial-branch=master", str(git.repository))
    git("add", "--all", "--force")
    git("commit", "--quiet", "--message", f"llama.cpp as in llama-cpp-python {VERSION}")
    shutil.move(git.repository, repository)


class TinyRepository:
    """A repository with a CMake project that builds a llama-server of a few lines."""

    def __init__(self, folder: Path) -> None:
        self._git = _Git(folder / "tiny.git", folder / "tiny")
        self._git.tree.mkdir(parents=True)
        self._git("init", "--quiet", "--bare", "--initial-branch=master", str(self._git.repository))
        self.path = self._git.repository
        self.url = self.path.as_uri()
        self.first = self.commit({})

    def commit(self, files: Mapping[str, str]) -> str:
        """Put a commit with these files changed on master; its name."""
        for name, content in ({} if any(self._git.tree.iterdir()) else _TINY).items() | files.items():
            (self._git.tree / name).write_text(content)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message", "a change")
        return self._git("rev-parse", "HEAD")

    def tag(self, name: str, *, annotated: bool = False) -> None:
        """Name the present commit."""
        self._git("tag", *(("--annotate", "--message", name) if annotated else ()), name)


class _Git:
    """git on one repository and one tree, whatever the user's own configuration says."""

    def __init__(self, repository: Path, tree: Path) -> None:
        self.repository = repository
        self.tree = tree

    def __call__(self, *args: str) -> str:
        places = {"GIT_DIR": str(self.repository), "GIT_WORK_TREE": str(self.tree)} if args[0] != "init" else {}
        environ = {**os.environ, **IDENTITY, **places}
        done = subprocess.run(["git", *args], env=environ, check=True, timeout=120, capture_output=True, text=True)
        return done.stdout.strip()


PARTS = 6

_CMAKE = f"""\
cmake_minimum_required(VERSION 3.14)
project(tiny C)
option(LLAMA_BUILD_SERVER "build the server" OFF)
option(GGML_CUDA "use CUDA" OFF)
option(BUILD_SHARED_LIBS "as libraries" ON)
if (NOT LLAMA_BUILD_SERVER)
    message(FATAL_ERROR "the server was not asked for")
endif()
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${{CMAKE_BINARY_DIR}}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${{CMAKE_BINARY_DIR}}/bin)
include(cuda.cmake)
add_custom_command(
    OUTPUT ${{CMAKE_BINARY_DIR}}/gate.c
    COMMAND sh ${{CMAKE_SOURCE_DIR}}/gate.sh ${{CMAKE_BINARY_DIR}}/gate.c
    DEPENDS ${{CMAKE_SOURCE_DIR}}/gate.sh part1.c)
add_library(parts {" ".join(f"part{number}.c" for number in range(1, PARTS + 1))})
add_executable(llama-server main.c ${{CMAKE_BINARY_DIR}}/gate.c)
target_link_libraries(llama-server PRIVATE parts)
if (GGML_CUDA)
    target_compile_definitions(llama-server PRIVATE WITH_CUDA)
endif()
"""
_CUDA = """\
if (GGML_CUDA)
    enable_language(CUDA)
endif()
"""
_GATE = """\
# Where TINY_GATE names two FIFOs, the build says that it is here, with this pid, and waits to be let on.
if [ -n "$TINY_GATE" ]; then
    echo $$ > "$TINY_GATE.here"
    read -r _ < "$TINY_GATE.on"
fi
echo 'int gate;' > "$1"
"""
_MAIN = r"""
#include <stdio.h>
#include <string.h>

int part1(void);

int main(int argc, char ** argv) {
    const char * flag = argc == 2 ? argv[1] : "";
    if (strcmp(flag, "--version") == 0) {
        puts("version: 0.5.0-dev (build 0, commit unknown)");
    } else if (strcmp(flag, "--help") == 0) {
        puts("-m,    --model FNAME    model\n--port PORT             port\n--list-devices          devices");
    } else if (strcmp(flag, "--list-devices") == 0) {
#ifdef WITH_CUDA
        puts("Available devices:\n  CUDA0: A GPU (24000 MiB, 23000 MiB free)");
#else
        puts("Available devices:");
#endif
    } else {
        return part1();
    }
    return 0;
}
"""
_TINY = {
    "CMakeLists.txt": _CMAKE,
    "cuda.cmake": _CUDA,
    "gate.sh": _GATE,
    "main.c": _MAIN,
    **{f"part{number}.c": f"int part{number}(void) {{ return {number}; }}\n" for number in range(1, PARTS + 1)},
}

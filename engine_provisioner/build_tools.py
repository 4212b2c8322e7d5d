"""The tools that a build of llama.cpp needs: what distributions call them, and what is said where one lacks.

Decides names and wording. Never looks for a tool: ``toolchain`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from contracts.engines import Finding
from engine_provisioner.packages import Family, family_of, install_hint


class Need(StrEnum):
    """Something that a build cannot do without."""

    GIT = "git"
    CMAKE = "cmake"
    GENERATOR = "ninja"
    COMPILER = "g++"
    NVCC = "nvcc"
    CUBLAS = "cublas"


_PACKAGES: Mapping[Need, Mapping[Family, str]] = MappingProxyType(
    {
        Need.GIT: {},
        Need.CMAKE: {},
        Need.GENERATOR: {Family.DEBIAN: "ninja-build", Family.FEDORA: "ninja-build"},
        Need.COMPILER: {
            Family.ARCH: "base-devel",
            Family.DEBIAN: "build-essential",
            Family.FEDORA: "gcc-c++",
            Family.SUSE: "gcc-c++",
            Family.ALPINE: "build-base",
        },
        Need.NVCC: {Family.ARCH: "cuda", Family.DEBIAN: "nvidia-cuda-toolkit", Family.FEDORA: "cuda-toolkit"},
        Need.CUBLAS: {Family.ARCH: "cuda", Family.DEBIAN: "nvidia-cuda-toolkit", Family.FEDORA: "cuda-toolkit"},
    }
)
_ELSEWHERE: Mapping[Need, str] = MappingProxyType({Need.NVCC: "cuda-toolkit", Need.CUBLAS: "cuda-toolkit"})

_WHY: Mapping[Need, str] = MappingProxyType(
    {
        Need.GIT: "it fetches the source of llama.cpp",
        Need.CMAKE: "it configures the build of llama.cpp",
        Need.GENERATOR: "it runs the build of llama.cpp",
        Need.COMPILER: "it compiles llama.cpp",
        Need.NVCC: "it compiles what runs on the GPU, and nothing ever falls back to the CPU",
    }
)


def install_command(need: Need, distribution: Mapping[str, str]) -> str:
    """What installs it, in the words of the distribution that os-release names."""
    family = family_of(distribution)
    name = _PACKAGES[need].get(family) if family else None
    return install_hint(name or _ELSEWHERE.get(need, need), distribution)


def install_cublas_command(distribution: Mapping[str, str], release: str | None, root: str) -> str:
    """What adds cuBLAS to a CUDA toolkit; one of NVIDIA's own repository, as its root shows, comes in parts."""
    parts = {Family.DEBIAN: "libcublas-dev-", Family.FEDORA: "libcublas-devel-", Family.SUSE: "libcublas-devel-"}
    part = parts.get(family_of(distribution) or Family.ARCH)
    if part is None or release is None or not root.startswith("/usr/local/cuda"):
        return install_command(Need.CUBLAS, distribution)
    return install_hint(part + release.replace(".", "-"), distribution)


def missing(need: Need, message: str, install: str) -> Finding:
    """The finding for a tool that is not there, or not good enough."""
    return Finding(check="tools", message=message, why=_WHY[need], hint=install)

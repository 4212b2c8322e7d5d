"""What each pool's GPUs can compute, against what its engine was built for and what it asks for.

Decides which generations of GPUs an engine runs on. That a CUDA toolkit does not know a generation, the check
``engine`` says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import MappingProxyType

from contracts.config import Engine, Mode, Pool, Profile
from contracts.pools import Gpu
from engine_provisioner import cmake
from engine_provisioner.gpu_mask import chosen
from llama_orch.doctor.base import Kind, Result, ok, skipped

CHECK = "compute_capability"

TOO_LOW = Kind(
    id="compute_capability.too-low",
    what="a GPU is older than the engine of its pool runs on",
    why="the engine ends at its start: no kernel image is available for execution on the device",
    mend="give the pool another GPU, or another engine: llamacpp runs on the oldest ones",
)
NOT_BUILT_FOR = Kind(
    id="compute_capability.not-built-for",
    what="CMAKE_CUDA_ARCHITECTURES of a pool leaves its GPU out",
    why="the build holds nothing that this GPU can run",
    mend="remove CMAKE_CUDA_ARCHITECTURES from cmake_flags: the pool's GPUs are chosen by themselves",
)
COMPILED_AT_START = Kind(
    id="compute_capability.compiled-at-start",
    what="CMAKE_CUDA_ARCHITECTURES of a pool names an older generation than its GPU",
    why="the driver compiles everything at the first start, which takes minutes, and the code is slower",
    mend="remove CMAKE_CUDA_ARCHITECTURES from cmake_flags: the pool's GPUs are chosen by themselves",
    note=True,
)
NO_BFLOAT16 = Kind(
    id="compute_capability.no-bfloat16",
    what="a GPU of a vLLM or TGI pool has no bfloat16",
    why="most models are published in it, and vLLM refuses to start with one there",
    mend='flags: ["--dtype", "half"]',
    note=True,
)

LEAST = MappingProxyType({Engine.LLAMACPP: (5, 0), Engine.VLLM: (7, 0), Engine.TGI: (7, 0), Engine.TRITON: (7, 0)})
"""The oldest generation that each engine's CUDA builds run on (Triton: with the vLLM backend)."""
_BFLOAT16 = (8, 0)


def judge(pools: Sequence[Pool], profile: Profile, gpus: Sequence[Gpu]) -> list[Result]:
    """Every pool with each of its GPUs."""
    found = [
        result
        for pool in pools
        if pool.mode is not Mode.EXTERNAL
        for gpu in chosen(pool.devices, gpus)
        if (result := _one(pool, profile, gpu)) is not None
    ]
    known = dict.fromkeys(gpu.compute_capability for gpu in gpus if gpu.compute_capability)
    if found:
        return found
    return [ok(CHECK, ", ".join(known))] if known else [skipped(CHECK, "the driver does not tell it")]


def _one(pool: Pool, profile: Profile, gpu: Gpu) -> Result | None:
    capability = _pair(gpu.compute_capability)
    if capability is None:
        return None
    shown = f"pool {pool.id}: GPU {gpu.index} ({gpu.name}) has compute capability {gpu.compute_capability}"
    least = LEAST.get(pool.engine)
    if least is not None and capability < least:
        return TOO_LOW.found(f"{shown}, and {pool.engine} begins at {least[0]}.{least[1]}")
    if pool.mode is Mode.SOURCE and pool.provisioning.source is not None:
        options = cmake.options_for(profile, pool.provisioning.source.cmake_flags, "")
        return _built(shown, capability, options.value(cmake.ARCHITECTURES) or "")
    if pool.engine in {Engine.VLLM, Engine.TGI} and capability < _BFLOAT16 and not _has_dtype(pool):
        return NO_BFLOAT16.found(f"{shown}: it has no bfloat16")
    return None


def _built(shown: str, capability: tuple[int, int], architectures: str) -> Result | None:
    """Whether a build for these architectures runs there: compiled code within a generation, PTX on all later ones."""
    parts = [
        match for part in architectures.split(";") if (match := re.fullmatch(r"(\d+)([af]?)(-\w+)?", part.strip()))
    ]
    if not parts or len(parts) != len(architectures.split(";")):
        return None  # native, all, all-major: CMake's own words
    number = capability[0] * 10 + capability[1]
    text = f"{shown}, and the build is for {architectures}"
    if any(int(each[1]) // 10 == capability[0] and int(each[1]) <= number and each[3] != "-virtual" for each in parts):
        return None
    if any(int(each[1]) <= number and not each[2] and each[3] != "-real" for each in parts):
        return COMPILED_AT_START.found(text)
    return NOT_BUILT_FOR.found(text)


def _has_dtype(pool: Pool) -> bool:
    return any(flag.partition("=")[0] == "--dtype" for flag in pool.flags)


def _pair(text: str | None) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d+)\.(\d)", text or "")
    return (int(match[1]), int(match[2])) if match else None

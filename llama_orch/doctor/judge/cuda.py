"""The CUDA toolkit beside the driver and the host's compiler: whether what it makes can run, and whether it makes it.

Decides by versions. Whether a toolkit is needed and there at all, the check ``engine`` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from contracts.base import Message
from engine_provisioner import cuda
from engine_provisioner.cuda import Driver
from llama_orch.doctor.base import Kind, Result, ok, skipped

CHECK = "cuda"

DRIVER_TOO_OLD = Kind(
    id="cuda.driver-too-old",
    what="the CUDA toolkit is of a newer generation than the driver knows",
    why=cuda.BEHIND_WHY,
    mend="update the NVIDIA driver and reboot, or install the toolkit of the older generation",
)
DRIVER_BEHIND = Kind(
    id="cuda.driver-behind",
    what="the CUDA toolkit is newer than the driver, within one generation",
    why="compiled code runs; what is compiled at run time (PTX, some engines) may be refused",
    mend="update the NVIDIA driver",
    note=True,
)
COMPILER_TOO_NEW = Kind(
    id="cuda.compiler-too-new",
    what="the C++ compiler is newer than this CUDA toolkit takes",
    why="nvcc refuses it: unsupported GNU version",
    mend="install an older g++ beside it and name it in NVCC_CCBIN, or install a newer CUDA toolkit",
)

_LIMIT = re.compile(r"#\s*if\s+(?:defined\s*\(?\s*__GNUC__\s*\)?\s*&&\s*)?__GNUC__\s*>\s*(\d+)")


class Facts(Message, frozen=True, kw_only=True):
    """What was seen."""

    nvcc: str | None = None
    release: str | None = None
    """Of the toolkit: ``13.0``."""
    driver: Driver | None = None
    """None where it does not answer."""
    gcc: int | None = None
    """The major version of the compiler that nvcc takes by itself; None where another one is named for it."""
    newest_gcc: int | None = None
    """That the toolkit takes."""


def newest_gcc(header: str) -> int | None:
    """From the toolkit's host_config.h."""
    found = _LIMIT.search(header)
    return int(found[1]) if found else None


def judge(facts: Facts, builds: tuple[str, ...], distribution: Mapping[str, str]) -> list[Result]:
    """The toolkit, where pools' engines are compiled here."""
    if not builds:
        return [skipped(CHECK, "no engine is compiled here")]
    if facts.nvcc is None or facts.release is None:
        return [skipped(CHECK, "there is no CUDA toolkit that answers; the check engine says whether that matters")]
    found = [*_by_driver(facts, facts.release, distribution), *_by_compiler(facts, facts.release)]
    return found or [ok(CHECK, f"CUDA toolkit {facts.release}, {facts.nvcc}")]


def _by_driver(facts: Facts, release: str, distribution: Mapping[str, str]) -> list[Result]:
    behind = cuda.behind(release, facts.driver)
    if behind is None:
        return []
    if behind.generation:
        return [DRIVER_TOO_OLD.found(behind.message, behind.mend(distribution))]
    return [DRIVER_BEHIND.found(behind.message)]


def _by_compiler(facts: Facts, release: str) -> list[Result]:
    if facts.gcc is None or facts.newest_gcc is None or facts.gcc <= facts.newest_gcc:
        return []
    text = f"g++ is version {facts.gcc}, and CUDA toolkit {release} takes up to {facts.newest_gcc}"
    named = f"NVCC_CCBIN=g++-{facts.newest_gcc}"
    mend = f"install g++-{facts.newest_gcc} and write {named} into ~/.config/llama-orch/environment; {_NEWER}"
    return [COMPILER_TOO_NEW.found(text, mend)]


_NEWER = "or install a newer CUDA toolkit"

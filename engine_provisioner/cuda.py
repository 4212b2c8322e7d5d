"""The CUDA toolkit of a build: where it may be, which architectures it has to know, which it does know.

Decides the order in which places are tried, the architectures of a pool's GPUs, and whether a driver is new enough for
it. Never looks at the machine: what is there is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from contracts.config import Pool
from contracts.pools import Gpu
from engine_provisioner.cmake import NATIVE
from engine_provisioner.gpu_mask import chosen
from engine_provisioner.packages import install_driver

USUAL_ROOTS = ("/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr/lib/nvidia-cuda-toolkit")
BEHIND_WHY = "what it compiles ends at its start: CUDA driver version is insufficient for CUDA runtime version"
VERSIONED_ROOTS = ("/usr/local", "cuda-*")
"""The folder and the pattern of toolkits that are installed beside each other."""


class Toolkit(msgspec.Struct, frozen=True, kw_only=True):
    """A CUDA compiler, and the root to hint CMake to where it would not find it by itself."""

    nvcc: str
    root: str | None = None

    @property
    def definitions(self) -> tuple[tuple[str, str], ...]:
        """The hints for CMake."""
        hints = [("CMAKE_CUDA_COMPILER", self.nvcc)]
        if self.root:
            hints.append(("CUDAToolkit_ROOT", self.root))
        return tuple(hints)


def candidates(environ: Mapping[str, str], on_path: str | None, versioned: Iterable[str]) -> Iterator[str]:
    """Where nvcc may be, the most deliberate place first. ``versioned`` are the roots such as /usr/local/cuda-12.8."""
    if cudacxx := environ.get("CUDACXX", "").strip():
        yield cudacxx
    if on_path:
        yield on_path
    named = (environ.get(name, "").strip() for name in ("CUDAToolkit_ROOT", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"))
    roots = [*filter(None, named), *USUAL_ROOTS, *sorted(versioned, key=_version, reverse=True)]
    for root in dict.fromkeys(roots):
        yield f"{root.rstrip('/')}/bin/nvcc"


def root_of(nvcc: str) -> str:
    """The root that an nvcc in ``bin`` belongs to."""
    return nvcc.rpartition("/bin/")[0] or "/"


def devices_of(pool: Pool, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs of a pool's mask; all of them where it names none."""
    return chosen(pool.devices, gpus)


def architectures(gpus: Sequence[Gpu]) -> str:
    """CMAKE_CUDA_ARCHITECTURES for these GPUs; ``native`` where the driver does not tell the capability of each."""
    known = {_architecture(gpu.compute_capability) for gpu in gpus}
    if not known or None in known:
        return NATIVE
    return ";".join(str(number) for number in sorted(filter(None, known)))


def numbers_in(architectures: str) -> tuple[int, ...]:
    """The numbers in a value of CMAKE_CUDA_ARCHITECTURES: ``86-real;120a`` holds 86 and 120."""
    return tuple(int(match[1]) for part in architectures.split(";") if (match := re.match(r"(\d+)", part.strip())))


def known_architectures(listing: str) -> tuple[int, ...]:
    """What ``nvcc --list-gpu-arch`` printed; empty for one that has no such option."""
    return tuple(sorted({int(number) for number in re.findall(r"^compute_(\d+)", listing, re.MULTILINE)}))


def release_in(text: str) -> str | None:
    """The release in what ``nvcc --version`` printed: ``13.0``."""
    match = re.search(r"release (\d+\.\d+)", text)
    return match[1] if match else None


def unsupported(wanted: Iterable[int], known: Sequence[int], release: str) -> tuple[str, str] | None:
    """What this nvcc cannot build for, and the mend; None where it can, or does not tell."""
    missing = sorted(set(wanted) - set(known)) if known else []
    if not missing:
        return None
    newer = [number for number in missing if number > known[-1]]
    names = ", ".join(f"{number // 10}.{number % 10}" for number in missing)
    text = f"CUDA {release} does not know compute capability {names}"
    if newer:
        return text, f"install a newer CUDA toolkit: this one ends at {known[-1] // 10}.{known[-1] % 10}"
    return text, f"install an older CUDA toolkit: this one begins at {known[0] // 10}.{known[0] % 10}"


class Driver(msgspec.Struct, frozen=True, kw_only=True):
    """NVIDIA's driver."""

    version: str
    cuda: int | None = None
    """The newest CUDA that it knows, as NVML numbers it: 12040. None where it does not tell."""


class Behind(msgspec.Struct, frozen=True, kw_only=True):
    """A driver that is older than a CUDA toolkit; by a whole generation, nothing that is compiled runs."""

    message: str
    generation: bool
    newest: int
    """The generation that the driver knows."""

    def mend(self, distribution: Mapping[str, str]) -> str:
        """What makes them fit."""
        either = f"or install a CUDA toolkit {self.newest}.x and set CUDACXX to its nvcc"
        return f"{install_driver(distribution)}; {either}"


def behind(release: str, driver: Driver | None) -> Behind | None:
    """How a driver is behind a toolkit of this release; None where it is not, or does not tell."""
    if driver is None or driver.cuda is None:
        return None
    newest = (driver.cuda // 1000, driver.cuda % 1000 // 10)
    toolkit = tuple(int(part) for part in release.split("."))
    if toolkit <= newest:
        return None
    text = f"CUDA toolkit {release}, and driver {driver.version} knows CUDA up to {cuda_text(driver.cuda)}"
    return Behind(message=text, generation=toolkit[0] > newest[0], newest=newest[0])


def cuda_text(number: int) -> str:
    """NVML's 12040 as people write it: 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _architecture(capability: str | None) -> int | None:
    match = re.fullmatch(r"(\d+)\.(\d)", capability or "")
    return int(match[1]) * 10 + int(match[2]) if match else None


def _version(root: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", root.rpartition("/")[2]))

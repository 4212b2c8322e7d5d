"""What NVIDIA's container toolkit has written for containers: the devices of each pool, of the driver that runs.

Decides when a CDI file is stale or contradicts another. Which devices are offered, ``container_runtime`` decides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from container_runtime.cdi import CdiFile
from container_runtime.findings import GENERATE
from contracts.base import Message
from contracts.engines import Finding
from llama_orch.doctor.base import Kind, Result, ok, skipped

CHECK = "toolkit_cdi"

MISSING = Kind(
    id="toolkit_cdi.missing",
    what="no CDI file offers a GPU of a pool, or docker has no support for NVIDIA GPUs",
    why="engines compute on the GPUs of their pool and on nothing else",
    mend=f"install nvidia-container-toolkit; {GENERATE}",
)
STALE = Kind(
    id="toolkit_cdi.stale",
    what="a CDI file names the libraries of another driver than the one that is installed",
    why="containers are given files that are gone, or that do not fit the kernel module (NVML error 18)",
    mend=f"{GENERATE}, after every update of the driver",
)
CONTRADICTED = Kind(
    id="toolkit_cdi.contradicted",
    what="two CDI files in one directory offer the same device",
    why="podman refuses a device that is defined twice: unresolvable CDI devices",
    mend="remove one of the two files",
)

_DRIVER = re.compile(r"lib(?:cuda|nvidia-ml|nvidia-ptxjitcompiler)\.so\.(\d{3,}\.\d+(?:\.\d+)?)")


class File(Message, frozen=True, kw_only=True):
    """One CDI file: what it offers, and the version of the driver whose libraries it names."""

    offers: CdiFile
    driver: str | None = None


def driver_in(text: str) -> str | None:
    """The version of the driver that a CDI file was written for."""
    found = _DRIVER.search(text)
    return found[1] if found else None


def judge(
    files: Sequence[File],
    found: Sequence[Finding],
    driver: str | None,
    pools: tuple[str, ...],
    no_gpu: str | None,
    *,
    runtime: bool = True,
) -> list[Result]:
    """``found`` is what the preflight said of the devices; ``pools`` are those in containers.

    ``runtime`` says whether a container runtime works: without one nobody has asked for devices.
    """
    if not pools or no_gpu is not None:
        return [skipped(CHECK, (no_gpu if pools else None) or "no pool runs in a container")]
    results = [MISSING.found(finding.message, finding.hint) for finding in found]
    for file in files:
        if driver is not None and file.driver is not None and file.driver != driver and file.offers.problem is None:
            text = f"{file.offers.path} is of driver {file.driver}, and driver {driver} is installed"
            results.append(STALE.found(text, f"sudo nvidia-ctk cdi generate --output={file.offers.path}"))
    for device, paths in _twice(files):
        results.append(CONTRADICTED.found(f"{device} stands in {' and in '.join(paths)}", f"sudo rm {paths[-1]}"))
    names = ", ".join(file.offers.path for file in files if file.offers.problem is None)
    if not results and not runtime:
        return [skipped(CHECK, "no container runtime works: the check podman says why")]
    return results or [ok(CHECK, names or "the runtime gives GPUs by its own means")]


def _twice(files: Sequence[File]) -> list[tuple[str, list[str]]]:
    """The first device of each pair of files in one directory that is in both."""
    places: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for file in files:
        for device in file.offers.devices:
            places[file.offers.path.rpartition("/")[0], device].append(file.offers.path)
    told: dict[tuple[str, ...], str] = {}
    for (_, device), paths in places.items():
        if len(paths) > 1:
            told.setdefault(tuple(paths), device)
    return [(device, list(paths)) for paths, device in told.items()]

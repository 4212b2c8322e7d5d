"""Room on the disks for what the configuration brings there.

Decides how large a model will be whose name alone is known, and when that does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from contracts.base import Message
from llama_orch.amounts import size_text
from llama_orch.doctor.base import Kind, Result, ok

CHECK = "disk"
GIB = 1 << 30
LEAST_FREE = 1 * GIB

FULL = Kind(
    id="disk.full",
    what="less than 1 GiB is free where models, tasks or logs lie",
    why="downloads and builds do not fit, and on a full disk no task can be kept",
    mend="make room, or set paths.cache, paths.data or paths.state to a larger disk",
)
NO_INODES = Kind(
    id="disk.no-inodes",
    what="the file system has no room for further files",
    why="nothing new can be written, however many bytes are free",
    mend="df -i shows it; remove many small files, or set paths: to another file system",
)
TOO_SMALL = Kind(
    id="disk.too-small",
    what="the models that are still to be fetched do not fit on the disk",
    why="a download that runs out of room is cut off, and its pool never starts",
    mend="make room, set paths.cache to a larger disk, or choose smaller models (llama-orch models find)",
)
TIGHT = Kind(
    id="disk.tight",
    what="the models that are still to be fetched may not fit on the disk",
    why="their size is estimated from their names: it will be close",
    mend="make room before they are fetched: llama-orch models list, llama-orch models rm",
    note=True,
)

_CERTAIN = 0.7
"""The part of an estimate that a model certainly takes."""
_PARAMETERS = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", re.IGNORECASE)
_BITS = (
    (re.compile(r"i?q([1-8])_", re.IGNORECASE), None),
    (re.compile(r"awq|gptq|int4|w4a16|nf4|mxfp4|nvfp4|4bit", re.IGNORECASE), 4.5),
    (re.compile(r"fp8|int8|w8a8|8bit", re.IGNORECASE), 8.5),
    (re.compile(r"f32|fp32", re.IGNORECASE), 32.0),
    (re.compile(r"bf16|f16|fp16", re.IGNORECASE), 16.0),
)
_OVERHEAD_BITS = 0.9
"""What scales and the larger layers of a quantized file add to each weight: Q4_K_M has 4.85 bits."""
_UNQUANTIZED_BITS = 16.0


class Place(Message, frozen=True, kw_only=True):
    """What is free where one of the directories lies, or will lie. ``files`` is None where nobody counts them."""

    name: str
    path: str
    free: int
    files: int | None = None


def estimate(reference: str) -> int | None:
    """How many bytes a model takes that is called so; None where its name does not say."""
    text = reference.partition("@")[0]
    sizes = [
        int(found[1] or 1) * float(found[2]) * (1e9 if found[3] in "bB" else 1e6)
        for found in _PARAMETERS.finditer(text)
    ]
    if not sizes:
        return None
    name = text.rpartition("/")[2] if ".gguf" in text.lower() else text
    return int(max(sizes) * _bits(name) / 8)


def judge(places: Sequence[Place], missing: Sequence[str]) -> list[Result]:
    """``missing`` are the references of models that are not here yet."""
    found = []
    for place in places:
        text = f"{place.name}: {size_text(place.free)} free below {place.path}"
        if place.free < LEAST_FREE:
            found.append(FULL.found(text, f"make room, or set paths.{place.name} to a larger disk"))
        if place.files == 0:
            found.append(NO_INODES.found(f"{place.name}: no file can be added below {place.path}"))
    cache = next((place for place in places if place.name == "cache"), None)
    if cache is not None and cache.free >= LEAST_FREE:
        found += _for_models(cache, missing)
    return found or [ok(CHECK, ", ".join(f"{place.name} {size_text(place.free)} free" for place in places))]


def _for_models(cache: Place, missing: Sequence[str]) -> list[Result]:
    sizes = {reference: size for reference in missing if (size := estimate(reference)) is not None}
    need = sum(sizes.values())
    text = f"{size_text(cache.free)} are free below {cache.path}, and {', '.join(sizes)} take about {size_text(need)}"
    if need * _CERTAIN > cache.free:
        return [TOO_SMALL.found(text)]
    return [TIGHT.found(text)] if need + LEAST_FREE > cache.free else []


def _bits(name: str) -> float:
    """How many bits a weight takes."""
    for pattern, bits in _BITS:
        if found := pattern.search(name):
            return float(found[1]) + _OVERHEAD_BITS if bits is None else bits
    return _UNQUANTIZED_BITS

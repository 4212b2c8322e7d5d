"""Decides which devices the CDI files of this machine offer, and which files a runtime cannot read.

A CDI file says how a container gets a device: ``nvidia-ctk cdi generate`` writes one. Never reads a file: it is handed
what stood in each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from container_runtime.spec import DeviceRequest

OLD_PODMAN_NEWEST = (0, 5, 0)
"""The newest version of the format that podman before 4.6 reads; it skips a newer file without a word."""


class CdiFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file: the devices it offers by their full names, or why it offers none."""

    path: str
    version: str = ""
    devices: tuple[str, ...] = ()
    problem: str | None = None


def read(path: str, document: Any) -> CdiFile:  # noqa: ANN401 - whatever stood in the file
    """What a parsed file offers."""
    if not isinstance(document, dict):
        return CdiFile(path=path, problem="it is no CDI specification")
    version, kind, listed = document.get("cdiVersion"), document.get("kind"), document.get("devices")
    if not isinstance(version, str) or not isinstance(kind, str) or not isinstance(listed, list):
        return CdiFile(path=path, problem="it is no CDI specification: cdiVersion, kind or devices is missing")
    names = [str(device["name"]) for device in listed if isinstance(device, dict) and "name" in device]
    return CdiFile(path=path, version=version, devices=tuple(f"{kind}={name}" for name in names))


def readable(file: CdiFile, newest: tuple[int, ...] | None) -> CdiFile:
    """The file as a runtime sees it that reads versions up to ``newest``."""
    if file.problem or newest is None or version_of(file.version) <= newest:
        return file
    limit = ".".join(map(str, newest))
    return CdiFile(path=file.path, version=file.version, problem=f"its cdiVersion {file.version} is newer than {limit}")


def unoffered(files: Iterable[CdiFile], devices: Iterable[DeviceRequest]) -> tuple[str, ...]:
    """The requested devices that no file offers."""
    offered = {name for file in files for name in file.devices}
    return tuple(device.cdi for device in devices if device.cdi not in offered)


def version_of(text: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version; () where there are none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()

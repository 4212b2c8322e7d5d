"""Looks at this machine for the preflight and for the processes of a container: CDI files, ports, paths, /proc.

Decides nothing about what may run.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import yaml

from container_runtime import cdi
from container_runtime.spec import Mount, PortMapping
from daemon_core import ports, procfs

CDI_DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
"""Where podman and docker look, and nowhere else."""
_CDI_BYTES = 4 * 1024 * 1024
_HOOKS = ("nvidia-container-runtime-hook", "nvidia-container-toolkit")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def cdi_files(directories: tuple[Path, ...] = CDI_DIRECTORIES) -> tuple[cdi.CdiFile, ...]:
    """The CDI files of this machine. Those that cannot be read say why."""
    paths = [
        path
        for directory in directories
        if directory.is_dir()
        for path in sorted(directory.iterdir())
        if path.suffix in {".yaml", ".json"}
    ]
    return tuple(_cdi_file(path) for path in paths)


def _cdi_file(path: Path) -> cdi.CdiFile:
    try:
        with path.open("rb") as file:
            text = file.read(_CDI_BYTES)
        return cdi.read(str(path), yaml.safe_load(text))  # which reads JSON too
    except OSError as error:
        return cdi.CdiFile(path=str(path), problem=f"it cannot be read: {error.strerror}")
    except (yaml.YAMLError, UnicodeDecodeError):
        return cdi.CdiFile(path=str(path), problem="it is neither YAML nor JSON")


def nvidia_hook(path: str) -> Path | None:
    """NVIDIA's hook, as a docker daemon would find it for ``--gpus``: on this PATH, or on that of the system."""
    places = [Path(directory, hook) for directory in f"{path}:{_SYSTEM_PATH}".split(":") for hook in _HOOKS]
    return next((place for place in places if os.access(place, os.X_OK)), None)


def port_taken(port: PortMapping) -> bool:
    """Whether somebody listens there. A port that the runtime chooses is never taken."""
    return port.host != 0 and ports.refusal(port.address, port.host) is not None


def mount_problem(mount: Mount) -> str | None:
    """Why a path cannot be mounted as it should be, if it cannot."""
    if not os.path.lexists(mount.source):
        return "does not exist"
    if not os.access(mount.source, os.R_OK):
        return "cannot be read"
    if mount.writable and not os.access(mount.source, os.W_OK):
        return "cannot be written"
    return None


def descendants(pid: int) -> tuple[int, ...]:
    """The process and all that came from it; () where it is no more. Readable whoever they belong to."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    alive = False
    for stat in procfs.stats():
        alive = alive or (stat.pid == pid and stat.alive)
        children[stat.parent].append(stat.pid)
    if not alive:
        return ()
    found = [pid]
    for parent_pid in found:  # which grows
        found += children[parent_pid]
    return tuple(sorted(found))

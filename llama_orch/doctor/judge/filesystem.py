"""What kind of file system each directory lies on, and what that forbids.

Decides it from the kernel's list of mounts. Never looks at a disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok
from llama_orch.doctor.needs import Needs

CHECK = "filesystem"

TASKS_ON_NETWORK = Kind(
    id="filesystem.tasks-on-network",
    what="the task store lies on a network file system",
    why="SQLite's shared memory and locks do not hold there: tasks and receipts can be lost or damaged",
    mend="set paths.data to a directory on a disk of this machine, or store.durability: memory",
)
SOCKET_ON_NETWORK = Kind(
    id="filesystem.socket-on-network",
    what="the runtime directory lies on a network file system",
    why="Unix sockets do not work on most of them, so the daemons could not meet",
    mend="log in so that XDG_RUNTIME_DIR is set, or set paths.runtime to a directory on a disk of this machine",
)
CACHE_ON_NETWORK = Kind(
    id="filesystem.cache-on-network",
    what="models and builds lie on a network file system",
    why="a model is read at the speed of the network at each start, and a server that is away holds up everything",
    mend="set paths.cache to a directory on a disk of this machine",
    note=True,
)
NOEXEC = Kind(
    id="filesystem.noexec",
    what="the cache lies on a file system that runs no programs (noexec)",
    why="engines that are built or fetched lie there, and cannot be started",
    mend="set paths.cache to another file system, or mount this one without noexec",
)
READ_ONLY = Kind(
    id="filesystem.read-only",
    what="a directory lies on a file system that is read-only",
    why="nothing can be written there; a disk with errors is made read-only by the kernel",
    mend="journalctl -k says why; sudo mount -o remount,rw MOUNTPOINT, or fsck",
)

NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs", "ncpfs"),
        *("fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.glusterfs", "fuse.davfs", "davfs", "fuse.ceph"),
    }
)
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(Message, frozen=True, kw_only=True):
    """One line of /proc/self/mountinfo."""

    point: str
    kind: str
    options: frozenset[str]


def mounts_in(text: str) -> tuple[Mount, ...]:
    """The mounts of /proc/self/mountinfo, in its order."""
    found = []
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        left, right = head.split(), tail.split()
        if separator and len(left) >= 6 and len(right) >= 3:
            options = {*left[5].split(","), *right[2].split(",")}
            point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), left[4])
            found.append(Mount(point=point, kind=right[0], options=frozenset(options)))
    return tuple(found)


def mount_of(path: str, mounts: tuple[Mount, ...]) -> Mount | None:
    """The mount that a path, with its links resolved, lies on: the deepest one, and of those the latest."""
    parents = {str(parent) for parent in (PurePosixPath(path), *PurePosixPath(path).parents)}
    there = [mount for mount in mounts if mount.point in parents]
    return max(enumerate(there), key=lambda each: (len(each[1].point), each[0]))[1] if there else None


def judge(places: Mapping[str, str], mounts: tuple[Mount, ...], needs: Needs) -> list[Result]:
    """``places`` are the directories by the name of their setting: cache, data, state, runtime."""
    found, shown = [], []
    for name, path in places.items():
        mount = mount_of(path, mounts)
        if mount is None:
            continue
        shown.append(f"{name} on {mount.kind}")
        text = f"{name}: {path} lies on {mount.kind} ({mount.point})"
        if "ro" in mount.options:
            found.append(READ_ONLY.found(f"{text}, which is read-only"))
        if mount.kind in NETWORK:
            found += _over_the_network(name, text, needs)
        if name == "cache" and "noexec" in mount.options and needs.programs:
            found.append(NOEXEC.found(f"{text}, which runs no programs"))
    return found or [ok(CHECK, ", ".join(shown) or "nothing is known of the mounts here")]


def _over_the_network(name: str, text: str, needs: Needs) -> list[Result]:
    match name:
        case "data":
            return [TASKS_ON_NETWORK.found(text)] if needs.tasks_are_kept else []
        case "runtime":
            return [SOCKET_ON_NETWORK.found(text)]
        case "cache":
            return [CACHE_ON_NETWORK.found(text)]
        case _:
            return []

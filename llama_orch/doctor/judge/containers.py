"""Podman and docker, where pools run in containers: one of them must serve, and rootless podman comes first.

Decides which of the two a failure counts for, and what is worth knowing of the one that serves. Whether a runtime
works at all, ``container_runtime.detection`` decides.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from container_runtime.base import Detection
from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok, skipped

PODMAN, DOCKER = "podman", "docker"
NEEDLESS = "no pool runs in a container"

NO_RUNTIME = Kind(
    id="podman.no-runtime",
    what="pools run in containers, and neither rootless podman nor docker works",
    why="their engines cannot be started",
    mend="install rootless podman, or mend what is there",
)
UNUSABLE = Kind(
    id="podman.unusable",
    what="podman does not work, and docker serves instead",
    why="docker's daemon is root; rootless podman needs no right that you do not have",
    mend="mend or install podman",
    note=True,
)
VFS = Kind(
    id="podman.vfs",
    what="podman stores images without overlays (driver vfs)",
    why="every layer of an image is copied whole: ten times the room and the time",
    mend='set driver = "overlay" in ~/.config/containers/storage.conf, then podman system reset (removes its images)',
    note=True,
)
CGROUPFS = Kind(
    id="podman.cgroupfs",
    what="podman makes its control groups itself, beside systemd (cgroup_manager cgroupfs)",
    why="limits of memory and processes may not hold, and systemd does not know the containers",
    mend="remove cgroup_manager from containers.conf, and log in so that systemctl --user works",
    note=True,
)
CGROUP_V1 = Kind(
    id="podman.cgroup-v1",
    what="the machine uses the old control groups (v1)",
    why="without root nothing can be limited there, and podman gives them up",
    mend="boot with systemd.unified_cgroup_hierarchy=1",
    note=True,
)
DOCKER_UNUSABLE = Kind(
    id="docker.unusable",
    what="docker is installed and does not work either",
    why="it would serve where podman does not",
    mend="sudo systemctl enable --now docker, and be in the group docker; or use podman",
    note=True,
)
DOCKER_IS_ROOT = Kind(
    id="docker.root",
    what="engines run under docker's daemon",
    why="whoever may speak to it is as good as root on this machine (group docker)",
    mend="install rootless podman, which comes first by itself",
    note=True,
)


class Runtime(Message, frozen=True, kw_only=True):
    """One of the two, as it was seen. ``info`` is what it says of itself."""

    installed: bool = False
    detection: Detection
    info: dict[str, Any] = field(default_factory=dict)


def judge_podman(podman: Runtime, docker: Runtime, pools: tuple[str, ...]) -> list[Result]:
    """Podman, where it is needed."""
    if not pools:
        return [skipped(PODMAN, NEEDLESS)]
    seen = podman.detection
    if seen.usable:
        return [ok(PODMAN, seen.reason), *_worth_knowing(podman.info)]
    if docker.detection.usable:
        return [UNUSABLE.found(f"{seen.reason}; docker serves instead", seen.hint)]
    return [NO_RUNTIME.found(f"{seen.reason}; {docker.detection.reason}", seen.hint or docker.detection.hint)]


def judge_docker(podman: Runtime, docker: Runtime, pools: tuple[str, ...]) -> list[Result]:
    """Docker, where podman does not serve."""
    if not pools:
        return [skipped(DOCKER, NEEDLESS)]
    if podman.detection.usable:
        return [skipped(DOCKER, "podman serves")]
    seen = docker.detection
    if not seen.usable:
        if not docker.installed:
            return [skipped(DOCKER, seen.reason)]
        return [DOCKER_UNUSABLE.found(seen.reason, seen.hint)]
    options = [str(option) for option in docker.info.get("SecurityOptions") or ()]
    rootless = any("name=rootless" in option for option in options)
    return [ok(DOCKER, seen.reason), *([] if rootless else [DOCKER_IS_ROOT.found(DOCKER_IS_ROOT.what)])]


def _worth_knowing(info: dict[str, Any]) -> list[Result]:
    host, store = info.get("host"), info.get("store")
    found = []
    if isinstance(store, dict) and store.get("graphDriverName") == "vfs":
        found.append(VFS.found(VFS.what))
    if isinstance(host, dict) and host.get("cgroupVersion") == "v1":
        found.append(CGROUP_V1.found(CGROUP_V1.what))
    elif isinstance(host, dict) and host.get("cgroupManager") == "cgroupfs":
        found.append(CGROUPFS.found(CGROUPFS.what))
    return found

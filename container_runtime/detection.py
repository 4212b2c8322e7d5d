"""Decides whether a runtime works here, from what it says of itself. What is installed is not enough.

Never asks a runtime; and what it finds is for the log and the record: which runtime is used, and why.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from container_runtime.answers import telling_line
from container_runtime.base import Detection
from container_runtime.cdi import version_of

INSTALL_PODMAN = (
    "install rootless podman: sudo apt install podman uidmap slirp4netns (Debian, Ubuntu), sudo dnf install podman"
    " (Fedora), sudo pacman -S podman (Arch)"
)
_SUBIDS = "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER, then: podman system migrate"
_CDI_SINCE = (4, 1)
_FEW_IDS = 1000
"""Fewer user numbers than this, and the files of most images cannot be unpacked."""
_DOCKER_GROUP = "sudo usermod --append --groups docker $USER and log in again, which makes you as good as root; or "


class DockerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What of a docker daemon changes how it is asked."""

    rootless: bool = False
    cdi: bool = False
    """Whether it knows CDI devices."""
    nvidia: bool = False
    """Whether NVIDIA's runtime is registered with it."""


def podman(info: dict[str, Any]) -> Detection:
    """From ``podman info``."""
    host, store = _part(info, "host"), _part(info, "store")
    version = str(_part(info, "version").get("Version", ""))
    problem = _podman_problem(host, store, version)
    if problem is not None:
        reason, hint = problem
        return Detection(runtime="podman", usable=False, reason=reason, version=version, hint=hint)
    lacking = _unlimited([str(name) for name in host.get("cgroupControllers") or ()])
    reason = f"rootless podman {version} works{lacking}"
    return Detection(runtime="podman", usable=True, reason=reason, version=version)


def _podman_problem(host: dict[str, Any], store: dict[str, Any], version: str) -> tuple[str, str] | None:
    """Why it cannot be used, and the mend."""
    if host.get("serviceIsRemote") is True:
        return "podman speaks to another machine", "unset CONTAINER_HOST and CONTAINER_CONNECTION"
    if _part(host, "security").get("rootless") is not True:
        return "podman is not rootless here", "run the daemons as an ordinary user, not as root"
    if version_of(version) < _CDI_SINCE:
        return f"podman {version} cannot give a GPU to a container: CDI came with 4.1", "install a newer podman"
    for kind in ("uidmap", "gidmap"):
        mapped = _part(host, "idMappings").get(kind) or ()
        count = sum(int(entry.get("size", 0)) for entry in mapped)
        if count < _FEW_IDS:
            file = "/etc/subuid" if kind == "uidmap" else "/etc/subgid"
            return f"podman has {count} ids for containers: {file} gives this user no range", _SUBIDS
    if not any(_part(host, name).get("executable") for name in ("slirp4netns", "pasta")):
        return "podman has neither slirp4netns nor pasta, so no port can be reached", INSTALL_PODMAN
    if not store.get("graphRoot"):
        return "podman has no storage", "podman system reset, which removes this user's images and containers"
    return None


def podman_failed(output: str) -> Detection:
    """From the words of a ``podman info`` that failed."""
    line = telling_line(output) or "it ended without a word"
    hint = "see: podman info"
    if re.search(r"newuidmap|newgidmap|subuid|subgid", output):
        hint = f"install newuidmap (package uidmap or shadow); {_SUBIDS}"
    elif re.search(r"user namespace|cannot clone|unshare", output, re.IGNORECASE):
        hint = "let ordinary users make user namespaces: sudo sysctl kernel.unprivileged_userns_clone=1, or AppArmor's"
    return Detection(runtime="podman", usable=False, reason=f"podman info failed: {line}", hint=hint)


def docker(info: dict[str, Any], endpoint: str | None) -> Detection:
    """From ``docker info``, and where its daemon listens."""
    version = str(info.get("ServerVersion") or "")
    errors = " ".join(str(error) for error in info.get("ServerErrors") or ())
    if "host" in info:
        return docker_failed("docker is podman under another name here")
    if not version:
        return docker_failed(errors or "the daemon says no version")
    if endpoint is not None and not endpoint.startswith("unix://"):
        reason = f"docker speaks to another machine: {endpoint}"
        return Detection(
            runtime="docker", usable=False, reason=reason, version=version, hint="unset DOCKER_HOST; docker context use"
        )
    if info.get("OSType", "linux") != "linux":
        reason = f"docker runs {info.get('OSType')} containers"
        return Detection(runtime="docker", usable=False, reason=reason, version=version, hint=INSTALL_PODMAN)
    limits = {"memory": "MemoryLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
    lacking = _unlimited([name for name, field in limits.items() if info.get(field) is not False])
    return Detection(runtime="docker", usable=True, reason=f"docker {version} answers{lacking}", version=version)


def docker_failed(output: str) -> Detection:
    """From the words of a ``docker info`` that failed."""
    line = telling_line(output) or "it ended without a word"
    hint = "start the daemon: sudo systemctl enable --now docker"
    if "permission denied" in output.lower():
        hint = _DOCKER_GROUP + INSTALL_PODMAN
    return Detection(runtime="docker", usable=False, reason=f"the docker daemon cannot be used: {line}", hint=hint)


def not_installed(runtime: str) -> Detection:
    """There is no such program."""
    hint = INSTALL_PODMAN if runtime == "podman" else "install docker, or better rootless podman"
    return Detection(runtime=runtime, usable=False, reason=f"{runtime} is not installed", hint=hint)


def docker_facts(info: dict[str, Any]) -> DockerFacts:
    """From ``docker info``."""
    options = [str(option) for option in info.get("SecurityOptions") or ()]
    return DockerFacts(
        rootless=any("name=rootless" in option for option in options),
        cdi=bool(info.get("CDISpecDirs")),  # the daemon clears them where CDI is not enabled
        nvidia="nvidia" in _part(info, "Runtimes"),
    )


def _unlimited(controllers: list[str]) -> str:
    """What this host cannot limit, for the end of a sentence."""
    lacking = [name for name in ("memory", "cpu", "pids") if name not in controllers]
    return f"; it cannot limit {', '.join(lacking)} here" if lacking else ""


def _part(info: dict[str, Any], name: str) -> dict[str, Any]:
    part = info.get(name)
    return part if isinstance(part, dict) else {}

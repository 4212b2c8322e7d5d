"""Decides what is typed for podman and for docker: a container's specification becomes an argument vector.

The two differ where the runtimes do; what a container of ours may do is the same in both. Inside, the program is the
user who runs the manager, so that it reads the models and writes what is his: number 0 where the runtime is rootless,
his own number where it is not. No value that could be a secret stands in a vector: variables travel in the client's
environment, and are named here. Never runs anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.spec import (
    LABEL_START,
    STEERS_CLIENT,
    ContainerSpec,
    DeviceRequest,
    ImageIdentity,
    ImageReference,
    Limits,
    Mount,
    PortMapping,
)

PODMAN_LOG = ("--log-driver=k8s-file", "--log-opt=max-size=10mb")
DOCKER_LOG = ("--log-driver=json-file", "--log-opt=max-size=5m", "--log-opt=max-file=2")
ROOTLESS_USER = "0:0"
"""The user who runs the manager, as a rootless container numbers him."""

_HARDENED = (
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    # SELinux would otherwise keep the container from the user's models and from its GPU; without SELinux it is nothing.
    "--security-opt=label=disable",
    "--pull=never",
    "--no-healthcheck",
)
_PODMAN_ONLY = (
    # What podman would do by itself or by the user's containers.conf, and docker never does.
    "--userns=host",  # which means the user's own, as podman is rootless
    "--env-host=false",
    "--http-proxy=false",
    "--sdnotify=ignore",
    "--systemd=false",
)
_SMI = "nvidia-smi"
_CLIENT_READS = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_[A-Z]+|TZ|TMPDIR|XDG_[A-Z_]+|DBUS_SESSION_BUS_ADDRESS|SSL_CERT_(FILE|DIR)"
    r"|(CONTAINERS?|DOCKER|STORAGE|REGISTRY)_[A-Z_]+|(?i:(https?|no|all)_proxy)"
)
_CDI_GPU = "nvidia.com/gpu="


def podman_run(spec: ContainerSpec, *, start: str, scoped: bool = False) -> tuple[str, ...]:
    """The vector, without the program's name. ``start`` is the value of LABEL_START.

    ``scoped``: it is typed in a scope of our own, where podman's monitor of the container stays, so that who ends the
    scope ends the container.
    """
    read_only = ("--read-only", "--read-only-tmpfs=false") if spec.read_only_root else ()
    monitor = ("--cgroups=no-conmon",) if scoped else ()
    own = (f"--user={ROOTLESS_USER}", *_PODMAN_ONLY, *monitor, *PODMAN_LOG, *cdi_devices(spec.devices), *read_only)
    return _run(spec, start, own)


def docker_run(spec: ContainerSpec, *, start: str, user: str, cdi: bool) -> tuple[str, ...]:
    """The vector, without the program's name. ``user`` is ``uid:gid``; ``cdi`` whether the daemon knows CDI devices."""
    read_only = ("--read-only",) if spec.read_only_root else ()
    own = (f"--user={user}", *DOCKER_LOG, *docker_devices(spec.devices, cdi=cdi), *read_only)
    return _run(spec, start, own)


def podman_smi(identity: ImageIdentity, devices: tuple[DeviceRequest, ...], *, start: str) -> tuple[str, ...]:
    """The vector of a container that lists its GPUs and is gone."""
    own = (f"--user={ROOTLESS_USER}", *_PODMAN_ONLY, "--log-driver=none", *cdi_devices(devices))
    return _smi(identity, start, own)


def docker_smi(
    identity: ImageIdentity, devices: tuple[DeviceRequest, ...], *, start: str, user: str, cdi: bool
) -> tuple[str, ...]:
    """As ``podman_smi``."""
    return _smi(identity, start, (f"--user={user}", "--log-driver=none", *docker_devices(devices, cdi=cdi)))


def cdi_devices(devices: tuple[DeviceRequest, ...]) -> tuple[str, ...]:
    """By CDI name. podman takes ``--gpus`` too, and gives nothing for it."""
    return tuple(f"--device={device.cdi}" for device in devices)


def docker_devices(devices: tuple[DeviceRequest, ...], *, cdi: bool) -> tuple[str, ...]:
    """By CDI name where the daemon knows them, else through NVIDIA's hook, which fails where there is none."""
    if cdi or not devices:
        return cdi_devices(devices)
    strangers = [device.cdi for device in devices if not device.cdi.startswith(_CDI_GPU)]
    if strangers:
        raise ContainerError(
            RuntimeCause.NO_DEVICE,
            f"this docker gives no device but NVIDIA's GPUs, and {', '.join(strangers)} is none",
            "enable CDI in docker (features.cdi in /etc/docker/daemon.json), or use podman",
        )
    chosen = ",".join(device.cdi.removeprefix(_CDI_GPU) for device in devices)
    return (f'--gpus="device={chosen}","capabilities=compute,utility"',)


def client_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What the runtime's client gets of the manager's environment: no token, and nothing of its service manager's."""
    return {name: value for name, value in environ.items() if _CLIENT_READS.fullmatch(name)}


def carried_environ(spec: ContainerSpec, key: str | None) -> dict[str, str]:
    """What the client's environment carries into the container, with the key."""
    carried = {name: value for name, value in spec.env.items() if not STEERS_CLIENT.fullmatch(name)}
    if spec.key_env and key is not None:
        carried[spec.key_env] = key
    return carried


def log_options(*, follow: bool, tail: int | None) -> tuple[str, ...]:
    """Which lines of a container are shown: the last so many, or all, and with ``follow`` those that come."""
    return (*(("--follow",) if follow else ()), *(() if tail is None else (f"--tail={tail}",)))


def whole_seconds(milliseconds: int) -> int:
    """What runtimes count in: never less than was asked for."""
    return math.ceil(milliseconds / 1000)


def _run(spec: ContainerSpec, start: str, own: tuple[str, ...]) -> tuple[str, ...]:
    if spec.digest is None:
        raise ContainerError(
            RuntimeCause.BAD_REFERENCE,
            f"{spec.reference.text} has no digest, and nothing runs by a tag",
            "pull the image first: that says its digest",
        )
    return (
        "run",
        "--detach",
        f"--name={spec.name}",
        *_HARDENED,
        *own,
        "--stop-signal=SIGTERM",
        f"--stop-timeout={whole_seconds(spec.stop_timeout_ms)}",
        *_labels(spec.labels | {LABEL_START: start}),
        *_environment(spec),
        *(_port(port) for port in spec.ports),
        *(_mount(mount) for mount in spec.all_mounts),
        # exec: engines build programs there and load them, which docker would forbid by default and podman not.
        *(f"--tmpfs={path}:rw,exec,nosuid,nodev,mode=1777" for path in spec.tmpfs),
        *_limits(spec.limits),
        *((f"--entrypoint={spec.entrypoint}",) if spec.entrypoint else ()),
        spec.reference.qualified,
        *spec.args,
    )


def _smi(identity: ImageIdentity, start: str, own: tuple[str, ...]) -> tuple[str, ...]:
    image = ImageReference(image=identity.image, digest=identity.digest).qualified
    labels = _labels({LABEL_START: start})
    alone = ("--rm", "--network=none", "--read-only")
    return ("run", *alone, *_HARDENED, *own, *labels, f"--entrypoint={_SMI}", image, "-L")


def _labels(labels: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"--label={name}={value}" for name, value in sorted(labels.items()))


def _environment(spec: ContainerSpec) -> tuple[str, ...]:
    """By name alone, but for those that would change what the client itself does."""
    named = [f"{name}={value}" if STEERS_CLIENT.fullmatch(name) else name for name, value in sorted(spec.env.items())]
    return tuple(f"--env={text}" for text in [*named, *((spec.key_env,) if spec.key_env else ())])


def _port(port: PortMapping) -> str:
    address = f"[{port.address}]" if ":" in port.address else port.address
    return f"--publish={address}:{port.host or ''}:{port.container}/tcp"


def _mount(mount: Mount) -> str:
    return f"--mount=type=bind,source={mount.source},target={mount.target}{'' if mount.writable else ',readonly'}"


def _limits(limits: Limits) -> tuple[str, ...]:
    given = {
        "--memory": None if limits.memory_bytes is None else f"{limits.memory_bytes}b",
        "--shm-size": None if limits.shm_bytes is None else f"{limits.shm_bytes}b",
        "--cpus": limits.cpus,
        "--pids-limit": limits.pids,
    }
    return tuple(f"{option}={value}" for option, value in given.items() if value is not None)

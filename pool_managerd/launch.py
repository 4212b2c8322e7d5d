"""Decides what exactly is started: arguments with their placeholders filled in, and the container of an engine.

Values in, values out. ``Launch`` says all of a start but what differs between two starts of the same: port, key, name.
So does ``command_of``, in the words of a shell and without secrets. Never starts anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

import msgspec
from msgspec.structs import replace

from container_runtime.spec import (
    LABEL_ENGINE,
    LABEL_POOL,
    LABEL_REPLICA,
    ContainerSpec,
    DeviceRequest,
    Limits,
    Mount,
    PortMapping,
)
from contracts.base import Message
from contracts.config import Pool
from contracts.engines import ContainerRun, PreparedEngine, ResolvedModel
from daemon_core.redaction import MASK, names_a_secret

LABEL_HANDLE = "llama-orch.handle"
"""The path of its handle file: it tells the containers of two installations on one machine apart."""

LOOPBACK = "127.0.0.1"
INSIDE = "0.0.0.0"  # noqa: S104 - inside a container; outside, its port is on loopback only
_PLACEHOLDER = re.compile(r"\{(model|host|port)\}")


class Launch(Message, frozen=True, kw_only=True):
    """One engine as it is to be started. ``env`` is what the engine gets beside the daemon's own; no secret in it."""

    engine: PreparedEngine
    model_path: str
    model_digest: str | None
    env: dict[str, str]
    devices: tuple[str, ...]
    """UUIDs of the GPUs that it may use."""
    model_parts: tuple[str, ...] = ()
    """Of a split model the files that the engine finds beside the first."""

    @property
    def hash(self) -> str:
        """Tells launches apart: two with the same hash are the same engine, with the same model, on the same GPUs."""
        engine = self.engine
        if engine.container is not None:  # why a runtime was chosen says nothing about what runs
            engine = replace(engine, container=replace(engine.container, runtime_reason=""))
        return hashlib.sha256(msgspec.json.encode(replace(self, engine=engine), order="deterministic")).hexdigest()


def launch_of(
    engine: PreparedEngine, model: ResolvedModel | None, env: dict[str, str], devices: tuple[str, ...]
) -> Launch:
    """The launch of an engine with a model."""
    return Launch(
        engine=engine,
        model_path=model.local_path if model is not None else "",
        model_digest=model.digest if model is not None else None,
        env=env,
        devices=devices,
        model_parts=model.parts if model is not None else (),
    )


def launch_in(pool: Pool, engine: PreparedEngine, model: ResolvedModel | None, devices: tuple[str, ...]) -> Launch:
    """The launch of an engine of a pool; without ``devices`` it sees no GPU that it was not told of elsewhere."""
    native = gpu_env(devices) if devices and engine.container is None else {}
    return launch_of(engine, model, {**pool.env, **engine.env, **native}, devices)


def command_of(launch: Launch, redact: Callable[[str], str]) -> tuple[str, ...]:
    """What is started, as one would tell a shell: ``NAME=value`` of each variable, then program and arguments.

    The same for every start of the same: where the port differs, ``{port}`` stands for it, and the key is a variable
    that is not among these. The program of a container is its image by digest. Secrets that somebody configured are
    masked.
    """
    engine, container = launch.engine, launch.engine.container
    if container is None:
        program = (engine.bin_or_entry or "",)
        args = fill(engine.args, model=launch.model_path, host=LOOPBACK, port="{port}")
    else:
        program = (f"{container.image}@{container.digest}", *((container.entrypoint,) if container.entrypoint else ()))
        inside = _inside(container, launch.model_path)
        args = fill(engine.args, model=inside, host=INSIDE, port=container.port)
    variables = tuple(redact(f"{name}={value}") for name, value in sorted(launch.env.items()))
    return (*variables, *_masked((*program, *args), redact))


def _masked(args: tuple[str, ...], redact: Callable[[str], str]) -> tuple[str, ...]:
    """Arguments without secrets: also one that is a secret only by the name of the flag before it."""
    flags = ("", *args[:-1])
    return tuple(MASK if _wants_secret(flag) else redact(arg) for flag, arg in zip(flags, args, strict=True))


def _wants_secret(flag: str) -> bool:
    """Whether what stands behind ``--api-key`` or ``--hf-token``, and not in it, is a secret."""
    name = flag.lstrip("-")
    return name != flag and (names_a_secret(name) or names_a_secret(name.upper().replace("-", "_")))


def fill(args: Iterable[str], *, model: str, host: str, port: int | str) -> tuple[str, ...]:
    """The arguments with ``{model}``, ``{host}`` and ``{port}`` filled in; other braces stay as they are."""
    values = {"model": model, "host": host, "port": str(port)}
    return tuple(_PLACEHOLDER.sub(lambda found: values[found[1]], arg) for arg in args)


def gpu_env(devices: tuple[str, ...]) -> dict[str, str]:
    """The variables that show a native engine these GPUs and no other."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def container_of(
    launch: Launch, container: ContainerRun, *, pool_id: str, replica_id: str, name: str, marker: str, stop_ms: int
) -> ContainerSpec:
    """The container of a launch. Raises SpecError where it would not be safe to run."""
    engine = launch.engine
    inside = _inside(container, launch.model_path)
    return ContainerSpec(
        name=name,
        image=container.image,
        tag=container.tag,
        digest=container.digest,
        entrypoint=container.entrypoint,
        args=fill(engine.args, model=inside, host=INSIDE, port=container.port),
        env=launch.env,
        key_env=engine.key_env,
        labels={
            LABEL_POOL: pool_id,
            LABEL_REPLICA: replica_id,
            LABEL_ENGINE: str(engine.engine),
            LABEL_HANDLE: marker,
        },
        devices=tuple(DeviceRequest.gpu(uuid) for uuid in launch.devices),
        ports=(PortMapping(container=container.port),),
        model_mount=Mount(source=launch.model_path, target=inside) if launch.model_path else None,
        mounts=(
            *(Mount(source=part, target=_beside(inside, part)) for part in launch.model_parts),
            *(Mount(source=each.source, target=each.target, writable=each.writable) for each in container.mounts),
        ),
        tmpfs=container.tmpfs,
        limits=Limits(memory_bytes=container.memory_bytes, shm_bytes=container.shm_bytes, pids=container.pids),
        read_only_root=container.read_only_root,
        stop_timeout_ms=stop_ms,
    )


def _inside(container: ContainerRun, model_path: str) -> str:
    """Where the model is, inside."""
    target = container.model_target
    return f"{target}{PurePosixPath(model_path).name}" if target.endswith("/") else target


def _beside(inside: str, part: str) -> str:
    return str(PurePosixPath(inside).with_name(PurePosixPath(part).name))

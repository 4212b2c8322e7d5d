"""Prepares an engine with a real container runtime and prints what came of it, as JSON. Its argument is a scene.

Runs on the throw-away host, against the product's own classes. $DIGEST is the digest of the image in $IMAGE, which has
a shell, busybox's tools and a stand-in for tritonserver that says what it finds.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from catalog_core.engines import FsEngineCatalog
from container_runtime.choose import runtime_named
from contracts.config import ContainerImage, Engine, Mode, Outbound, Policy, Pool, Profile, Provisioning, Verdict
from contracts.engines import ModelFormat, PreparedEngine, ResolvedModel
from contracts.pools import Gpu
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.registry import provider_for
from pool_managerd.launch import container_of, launch_of

IMAGE, DIGEST = os.environ["IMAGE"], os.environ["DIGEST"]
GPUS = tuple(
    Gpu(
        index=index,
        uuid=f"GPU-00000000-0000-0000-0000-00000000000{index}",
        name="NVIDIA Stand-in",
        vram_total_bytes=24 << 30,
        vram_used_bytes=0,
        driver="580.1",
    )
    for index in (0, 1)
)

Answers = dict[str, Any]


def pool(digest: str | None = DIGEST, **parts: Any) -> Pool:  # noqa: ANN401 - any field of it
    provisioning = Provisioning(mode=Mode.CONTAINER, container=ContainerImage(image=IMAGE, tag="1", digest=digest))
    chosen: dict[str, Any] = {
        "id": "gpu1",
        "engine": Engine.TRITON,
        "model": "file:m",
        "devices": (1,),
        "provisioning": provisioning,
    }
    return Pool(**(chosen | parts))


def host(environ: Mapping[str, str] = os.environ) -> Host:
    home = Path.home()
    return Host(
        environ=environ,
        catalog=FsEngineCatalog(home / "catalog"),
        cache=home / "cache",
        policy=Policy(outbound=Outbound(default=Verdict.DENY)),  # a registry of this machine is none to forbid
        gpus=lambda: GPUS,
        free_bytes=lambda _: 1 << 40,
    )


async def ensured(wanted: Pool, where: Host, profile: Profile = Profile.HOME) -> Answers:
    said: list[str] = []
    try:
        engine = await provider_for(wanted, profile, where).ensure(wanted, said.append)
    except ProvisionError as error:
        return {"cause": error.cause, "error": error.message, "hint": error.hint, "retriable": error.retriable}
    return {"engine": msgspec.to_builtins(engine), "said": said}


async def by_digest() -> Answers:
    first = await ensured(pool(), host())
    again = await ensured(pool(), host())
    engine = msgspec.convert(first["engine"], PreparedEngine)
    return {
        "engine": first["engine"],
        "same": again["engine"] == first["engine"],
        "again": again["said"],
        "entries": [(entry.id, entry.version, entry.digest) for entry in host().catalog.list()],
        "preflight": [
            finding.message for finding in await provider_for(pool(), Profile.HOME, host()).preflight(pool())
        ],
        "log": await started(engine),
    }


async def started(engine: PreparedEngine) -> list[str]:
    """What the engine says when it is started as pool-managerd does."""
    run = engine.container
    assert run is not None
    model = Path.home() / "model"
    model.mkdir(mode=0o700)
    (model / "config.json").write_text("the model\n")
    resolved = ResolvedModel(
        id="m", ref="file:m", local_path=str(model), size_bytes=1, digest="", format=ModelFormat.HF_DIRECTORY
    )
    launch = launch_of(engine, resolved, engine.env, (GPUS[1].uuid,))
    names = {"pool_id": "gpu1", "replica_id": "r", "name": "engine", "marker": "handle"}
    runtime = runtime_named(run.runtime, os.environ, str)
    handle = await runtime.run(container_of(launch, run, **names, stop_ms=1000), None)
    await runtime.wait(handle)
    async with contextlib.aclosing(runtime.logs(handle, follow=True)) as lines:
        found = [line async for line in lines]
    await runtime.stop(handle, timeout_ms=1000)
    return found


async def by_tag() -> Answers:
    return await ensured(pool(None), host())


async def trial() -> Answers:
    return await ensured(pool(engine=Engine.LLAMACPP, devices=()), host(), Profile.TRIAL)


async def by_docker() -> Answers:
    only = Path.home() / "only-docker"
    only.mkdir()
    (only / "docker").symlink_to("/usr/bin/docker")
    return await ensured(pool(), host(os.environ | {"PATH": str(only)}))


async def refused() -> Answers:
    found = await provider_for(pool(), Profile.HOME, host()).preflight(pool())
    return {**await ensured(pool(), host()), "preflight": [finding.message for finding in found]}


async def pulls() -> Answers:
    """The ways a pull fails, with their texts."""
    elsewhere = ContainerImage(image="127.0.0.1:5001/engine", tag="1")
    wanted = {
        "no digest": pool(f"sha256:{'0' * 64}"),
        "no registry": pool(provisioning=Provisioning(mode=Mode.CONTAINER, container=elsewhere)),
    }
    return {name: await ensured(each, host()) for name, each in wanted.items()}


SCENES = (by_digest, by_tag, trial, by_docker, refused, pulls)


if __name__ == "__main__":
    scene = next(scene for scene in SCENES if scene.__name__ == sys.argv[1])
    json.dump(asyncio.run(scene()), sys.stdout, default=str)

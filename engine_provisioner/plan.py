"""Which way a pool gets its engine, and the steps of that way.

Decides both from the configuration alone, so a plan can be printed on any machine. Never looks at the machine: a step
that turns out to be impossible there is a finding of ``preflight``.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import assert_never

from msgspec.structs import replace

from contracts.config import MODES, TRIAL_WHEEL, Engine, Mode, Pool, Profile, SourceBuild
from contracts.engines import Plan, PlanStep
from contracts.pools import Cause
from daemon_core.outbound import without_secrets as without_secrets  # noqa: PLC0414 - plans and errors show URLs with it
from engine_provisioner.container_engines import image_of, image_text
from engine_provisioner.errors import ProvisionError


class Way(StrEnum):
    """The ways there are."""

    SOURCE = "source"
    """Built here, from a git repository."""
    CONTAINER = "container"
    WHEEL = "wheel"
    """The server in a Python wheel: profile trial only."""
    BINARY = "binary"
    """A program that is on this machine."""
    DOWNLOAD = "download"
    """A program or an archive of one, fetched by its sha256."""
    SYSTEM_PACKAGE = "system_package"
    EXTERNAL = "external"
    """An endpoint that somebody else runs."""


class StepKind(StrEnum):
    """What a step does."""

    CHECK = "check"
    FIND = "find"
    FETCH = "fetch"
    UNPACK = "unpack"
    INSTALL = "install"
    CONFIGURE = "configure"
    BUILD = "build"
    WRITE = "write"
    VERIFY = "verify"
    IDENTIFY = "identify"
    ENDPOINT = "endpoint"
    RECORD = "record"


SERVER = "llama-server"
TRIAL_WAYS = (Way.WHEEL, Way.SOURCE, Way.CONTAINER, Way.EXTERNAL)
"""What profile trial may use: engines that it can start on the CPU by its own decision, and endpoints."""


def way_of(pool: Pool, profile: Profile) -> Way:
    """The way that holds for this pool. Raises ProvisionError where there is none, naming the valid ones."""
    _refuse_nonsense(pool)
    way = _way_of_mode(pool)
    if profile is Profile.HOME and way is Way.WHEEL:
        text = f"the wheel {TRIAL_WHEEL} computes on the CPU, and profile home is GPU only"
        raise ProvisionError(Cause.NO_GPU, text, "use another provisioning mode, or set profile: trial")
    if profile is Profile.TRIAL and not _fits_trial(pool, way):
        text = f"profile trial cannot use {pool.engine} in mode {pool.mode}"
        hint = f"valid in trial: {trial_modes()}; or set profile: home on a GPU machine"
        raise ProvisionError(Cause.ENGINE_MISSING, text, hint)
    return way


def trial_modes() -> str:
    """What profile trial can use, in words."""
    return f"llamacpp in mode package (name {TRIAL_WHEEL}), source or container, and external for every engine"


def plan_for(pool: Pool, profile: Profile) -> Plan:
    """What ``ensure`` would do. Raises ProvisionError where it could do nothing."""
    return Plan(pool_id=pool.id, steps=_steps(pool, profile, way_of(pool, profile)))


def _steps(pool: Pool, profile: Profile, way: Way) -> tuple[PlanStep, ...]:
    match way:
        case Way.WHEEL:
            return _native(pool, profile, _wheel_steps(), f"the server of {TRIAL_WHEEL}")
        case Way.BINARY:
            binary = pool.provisioning.binary
            path = (binary.path if binary else None) or SERVER
            return _native(pool, profile, _find_steps(path), path)
        case Way.SYSTEM_PACKAGE:
            return _native(pool, profile, _package_steps(pool), SERVER)
        case Way.DOWNLOAD:
            return _native(pool, profile, _download_steps(pool), SERVER)
        case Way.SOURCE:
            return _native(pool, profile, _source_steps(pool, profile), SERVER)
        case Way.CONTAINER:
            return _container_steps(pool, profile)
        case Way.EXTERNAL:
            return _external(pool)
        case _:
            assert_never(way)


def _nobody_in(image: str) -> str:
    """The name of an image as it may be shown: without user name and password, with which it is refused later."""
    return re.sub(r".*@(?!sha256:)", "", image)


def _refuse_nonsense(pool: Pool) -> None:
    legal = MODES.get(pool.engine)
    if legal is None:
        text = f"{str(pool.engine)!r} is no engine that llama-orch knows"
        raise ProvisionError(Cause.ENGINE_MISSING, text, f"valid engines: {', '.join(Engine)}")
    if pool.mode not in legal:
        text = f"{pool.engine} cannot be provisioned in mode {pool.mode}"
        raise ProvisionError(Cause.ENGINE_MISSING, text, f"valid for {pool.engine}: {', '.join(legal)}")


def _way_of_mode(pool: Pool) -> Way:
    provisioning = pool.provisioning
    match pool.mode:
        case Mode.SOURCE:
            return Way.SOURCE
        case Mode.CONTAINER:
            return Way.CONTAINER
        case Mode.PACKAGE:
            package = provisioning.package
            return Way.WHEEL if package and package.name == TRIAL_WHEEL else Way.SYSTEM_PACKAGE
        case Mode.BINARY:
            return Way.DOWNLOAD if provisioning.binary and provisioning.binary.url else Way.BINARY
        case Mode.EXTERNAL:
            return Way.EXTERNAL
        case _:
            assert_never(pool.mode)


def _fits_trial(pool: Pool, way: Way) -> bool:
    return way in TRIAL_WAYS and (pool.engine is Engine.LLAMACPP or way is Way.EXTERNAL)


def _native(pool: Pool, profile: Profile, obtain: tuple[PlanStep, ...], what: str) -> tuple[PlanStep, ...]:
    """The steps of an engine that is a program: check, whatever brings it here, prove it, record it."""
    return (
        _check_step(pool, profile),
        *obtain,
        PlanStep(kind=StepKind.VERIFY, detail=f"ask {what} for its version and its flags"),
        PlanStep(kind=StepKind.IDENTIFY, detail=f"compute the sha256 of {what}"),
        _RECORD,
    )


def _check_step(pool: Pool, profile: Profile) -> PlanStep:
    devices = ", ".join(str(device) for device in pool.devices) or "none named"
    check = f"check the GPUs ({devices}) and the flags" if profile is Profile.HOME else "check the flags"
    return PlanStep(kind=StepKind.CHECK, detail=f"{check} of pool {pool.id}")


_RECORD = PlanStep(kind=StepKind.RECORD, detail="record the engine in the engine catalog")


def _wheel_steps() -> tuple[PlanStep, ...]:
    return (PlanStep(kind=StepKind.FIND, detail=f"find the installed wheel {TRIAL_WHEEL}"),)


def _find_steps(path: str) -> tuple[PlanStep, ...]:
    where = path if path != SERVER else f"{SERVER} on PATH"
    return (PlanStep(kind=StepKind.FIND, detail=f"find {where}"),)


def _package_steps(pool: Pool) -> tuple[PlanStep, ...]:
    package = pool.provisioning.package
    name = package.name if package else "(no name)"
    return (
        PlanStep(kind=StepKind.FIND, detail=f"find {SERVER} on PATH, as the system package {name} installs it"),
        PlanStep(kind=StepKind.INSTALL, detail=f"where it is missing, have the package manager install {name}"),
    )


def _download_steps(pool: Pool) -> tuple[PlanStep, ...]:
    binary = pool.provisioning.binary
    url = without_secrets(binary.url) if binary and binary.url else "(no url)"
    digest = binary.sha256 if binary else None
    return (
        PlanStep(kind=StepKind.FETCH, detail=f"download {url}, unless its sha256 {digest} is here"),
        PlanStep(kind=StepKind.UNPACK, detail=f"unpack it, unless that is done, and find {SERVER} in it"),
    )


def _source_steps(pool: Pool, profile: Profile) -> tuple[PlanStep, ...]:
    source = pool.provisioning.source or SourceBuild()
    repo = without_secrets(source.repo)
    compute = "with CUDA" if profile is Profile.HOME else "for the CPU (profile trial)"
    return (
        PlanStep(kind=StepKind.FETCH, detail=f"fetch {source.ref} of {repo}, unless it is here"),
        PlanStep(kind=StepKind.CONFIGURE, detail=f"configure it {compute}, unless it is built"),
        PlanStep(kind=StepKind.BUILD, detail=f"build {SERVER}, unless it is built"),
    )


def _container_steps(pool: Pool, profile: Profile) -> tuple[PlanStep, ...]:
    image = image_of(pool, profile)
    named = image and replace(image, image=_nobody_in(image.image))
    fetch = f"pull {image_text(named)}, unless it is here" if named else "pull the image (provisioning.container)"
    steps = [
        _check_step(pool, profile),
        PlanStep(kind=StepKind.FIND, detail="find a container runtime that works: rootless podman, else docker"),
        PlanStep(kind=StepKind.FETCH, detail=fetch),
    ]
    if pool.engine is Engine.TRITON:
        steps.append(PlanStep(kind=StepKind.WRITE, detail=f"write the model repository of pool {pool.id}"))
    if profile is Profile.HOME:
        text = "check that a container of it sees the GPUs of the pool, and no other"
        steps.append(PlanStep(kind=StepKind.VERIFY, detail=text))
    return (*steps, _RECORD)


def _external(pool: Pool) -> tuple[PlanStep, ...]:
    external = pool.provisioning.external
    key = external.api_key_env if external else None
    url = without_secrets(external.url) if external else "(no url)"
    return (
        PlanStep(kind=StepKind.CHECK, detail=f"check that {key} is set" if key else "no API key is configured"),
        PlanStep(kind=StepKind.ENDPOINT, detail=f"use the endpoint {url}; nothing is started"),
        _RECORD,
    )

"""Which way a pool gets its engine, and the steps of that way.

Decides both from the configuration alone, so a plan can be printed on any machine. Never looks at the machine: a step
that turns out to be impossible there is a finding of ``preflight``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never
from urllib.parse import urlsplit, urlunsplit

from contracts.config import MODES, TRIAL_WHEEL, Engine, Mode, Pool, Profile
from contracts.engines import Plan, PlanStep
from contracts.pools import Cause
from engine_provisioner.errors import ProvisionError


class Way(StrEnum):
    """The ways that this version knows."""

    WHEEL = "wheel"
    BINARY = "binary"
    SYSTEM_PACKAGE = "system_package"
    EXTERNAL = "external"


class StepKind(StrEnum):
    """What a step does."""

    CHECK = "check"
    FIND = "find"
    VERIFY = "verify"
    IDENTIFY = "identify"
    ENDPOINT = "endpoint"
    RECORD = "record"


PROVISIONABLE = (Mode.PACKAGE, Mode.BINARY, Mode.EXTERNAL)
"""The modes that this version can provision."""

SERVER = "llama-server"


def way_of(pool: Pool, profile: Profile) -> Way:
    """The way that holds for this pool. Raises ProvisionError where there is none, naming the valid ones."""
    _refuse_nonsense(pool)
    way = _way_of_mode(pool)
    if profile is Profile.HOME and way is Way.WHEEL:
        text = f"the wheel {TRIAL_WHEEL} computes on the CPU, and profile home is GPU only"
        raise ProvisionError(Cause.NO_GPU, text, "use another provisioning mode, or set profile: trial")
    if profile is Profile.TRIAL and way not in {Way.WHEEL, Way.EXTERNAL}:
        text = f"profile trial cannot use {pool.engine} in mode {pool.mode}"
        hint = f"valid in trial: package with name {TRIAL_WHEEL}, external; or set profile: home on a GPU machine"
        raise ProvisionError(Cause.ENGINE_MISSING, text, hint)
    return way


def plan_for(pool: Pool, profile: Profile) -> Plan:
    """What ``ensure`` would do. Raises ProvisionError where it could do nothing."""
    way = way_of(pool, profile)
    match way:
        case Way.WHEEL:
            steps = _native(pool, profile, f"find the installed wheel {TRIAL_WHEEL}", f"the server of {TRIAL_WHEEL}")
        case Way.BINARY:
            binary = pool.provisioning.binary
            path = binary.path if binary else None
            steps = _native(pool, profile, f"find {path or f'{SERVER} on PATH'}", path or SERVER)
        case Way.SYSTEM_PACKAGE:
            package = pool.provisioning.package
            origin = f", as the system package {package.name} installs it" if package else ""
            steps = _native(pool, profile, f"find {SERVER} on PATH{origin}", SERVER)
        case Way.EXTERNAL:
            steps = _external(pool)
        case _:
            assert_never(way)
    return Plan(pool_id=pool.id, steps=steps)


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user name, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no valid url)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _refuse_nonsense(pool: Pool) -> None:
    legal = MODES.get(pool.engine)
    if legal is None:
        text = f"{str(pool.engine)!r} is no engine that llama-orch knows"
        raise ProvisionError(Cause.ENGINE_MISSING, text, f"valid engines: {', '.join(Engine)}")
    if pool.mode not in legal:
        text = f"{pool.engine} cannot be provisioned in mode {pool.mode}"
        raise ProvisionError(Cause.ENGINE_MISSING, text, f"valid for {pool.engine}: {', '.join(legal)}")
    if pool.mode not in PROVISIONABLE:
        text = f"{pool.engine} cannot be provisioned in mode {pool.mode} by this version"
        able = [mode for mode in legal if mode in PROVISIONABLE]
        raise ProvisionError(Cause.ENGINE_MISSING, text, f"it can use for {pool.engine}: {', '.join(able)}")


def _way_of_mode(pool: Pool) -> Way:
    provisioning = pool.provisioning
    if pool.mode is Mode.PACKAGE:
        package = provisioning.package
        return Way.WHEEL if package and package.name == TRIAL_WHEEL else Way.SYSTEM_PACKAGE
    if pool.mode is Mode.BINARY:
        if provisioning.binary and provisioning.binary.url:
            text = f"{without_secrets(provisioning.binary.url)} cannot be downloaded by this version"
            hint = "download it yourself, make it executable and set provisioning.binary.path"
            raise ProvisionError(Cause.ENGINE_MISSING, text, hint)
        return Way.BINARY
    return Way.EXTERNAL


def _native(pool: Pool, profile: Profile, find: str, what: str) -> tuple[PlanStep, ...]:
    devices = ", ".join(str(device) for device in pool.devices) or "none named"
    check = f"check the GPUs ({devices}) and the flags" if profile is Profile.HOME else "check the flags"
    return (
        PlanStep(kind=StepKind.CHECK, detail=f"{check} of pool {pool.id}"),
        PlanStep(kind=StepKind.FIND, detail=find),
        PlanStep(kind=StepKind.VERIFY, detail=f"ask {what} for its version and its flags"),
        PlanStep(kind=StepKind.IDENTIFY, detail=f"compute the sha256 of {what}"),
        PlanStep(kind=StepKind.RECORD, detail="record the engine in the engine catalog"),
    )


def _external(pool: Pool) -> tuple[PlanStep, ...]:
    external = pool.provisioning.external
    key = external.api_key_env if external else None
    url = without_secrets(external.url) if external else "(no url)"
    return (
        PlanStep(kind=StepKind.CHECK, detail=f"check that {key} is set" if key else "no API key is configured"),
        PlanStep(kind=StepKind.ENDPOINT, detail=f"use the endpoint {url}; nothing is started"),
        PlanStep(kind=StepKind.RECORD, detail="record the engine in the engine catalog"),
    )

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec
import pytest

from catalog_core.engines import FsEngineCatalog
from container_runtime.base import ContainerRuntime, Detection, Progress, Redact
from container_runtime.choose import Choice
from container_runtime.errors import (
    ContainerError,
    DigestMismatchError,
    ImageMissingError,
    RegistryUnreachableError,
    RuntimeCause,
    TamperedContentError,
)
from container_runtime.spec import ContainerSpec, DeviceRequest, ImageIdentity, ImageReference
from contracts.config import ContainerImage, Engine, Mode, Outbound, Policy, Pool, Profile, Provisioning, Verdict
from contracts.engines import BindMount, ContainerRun, Finding, HttpProbe, PreparedEngine
from contracts.pools import Cause
from engine_provisioner import triton_repository
from engine_provisioner.container_checks import CAUSES, provision_error
from engine_provisioner.errors import ProvisionError, render
from engine_provisioner.gpus import GpuUnavailable
from engine_provisioner.probes import generation_of
from engine_provisioner.providers.container import ContainerProvider
from engine_provisioner.registry import provider_for
from tests.plugins.failures import OperatorSees
from tests.unit.engine_provisioner.conftest import GPUS, MakeHost, a_pool

DIGEST = f"sha256:{'1f' * 32}"
IMAGE = "registry.example/vllm"
REFERENCE = f"{IMAGE}@{DIGEST}"
GIB = 1 << 30


@dataclass
class Recording:
    """A container runtime whose every answer is the test's, and which remembers what it was asked."""

    name: str = "podman"
    here: set[str] = field(default_factory=set)
    """The references that are present."""
    sees: tuple[str, ...] | None = None
    """What is seen inside; None for what was asked for."""
    pull_error: ContainerError | None = None
    smi_error: ContainerError | None = None
    findings: tuple[Finding, ...] = ()
    asked: list[str] = field(default_factory=list)
    specs: list[ContainerSpec] = field(default_factory=list)

    async def preflight(self, spec: ContainerSpec) -> tuple[Finding, ...]:
        self.specs.append(spec)
        return self.findings

    async def present(self, reference: ImageReference) -> ImageIdentity | None:
        self.asked.append(f"present {reference.text}")
        return self._identity(reference) if reference.text in self.here else None

    async def pull(self, reference: ImageReference, progress: Progress) -> ImageIdentity:
        self.asked.append(f"pull {reference.text}")
        if self.pull_error is not None:
            raise self.pull_error
        self.here.add(reference.text)
        return self._identity(reference)

    async def visible_gpus(self, identity: ImageIdentity, devices: tuple[DeviceRequest, ...]) -> tuple[str, ...]:
        named = [device.cdi.removeprefix("nvidia.com/gpu=") for device in devices]
        self.asked.append(f"see {' '.join(named)} in {identity.image}@{identity.digest}")
        if self.smi_error is not None:
            raise self.smi_error
        return tuple(named) if self.sees is None else self.sees

    async def choose(self, environ: Mapping[str, str], redact: Redact) -> Choice:
        detection = Detection(runtime=self.name, usable=True, reason="it works")
        return Choice(runtime=cast("ContainerRuntime", self), reason="it works", detections=(detection,))

    def _identity(self, reference: ImageReference) -> ImageIdentity:
        return ImageIdentity(image=reference.image, tag=reference.tag, digest=reference.digest or DIGEST)


async def no_runtime(environ: Mapping[str, str], redact: Redact) -> NoReturn:
    text = "no container runtime works here: podman is not installed; docker is not installed"
    raise ContainerError(RuntimeCause.NO_RUNTIME, text, "install rootless podman")


def container_pool(engine: Engine = Engine.VLLM, *, digest: str | None = DIGEST, **parts: object) -> Pool:
    image = ContainerImage(image=IMAGE, tag="v1", digest=digest)
    provisioning = Provisioning(mode=Mode.CONTAINER, container=image)
    return a_pool(**({"engine": engine, "model": "hf:org/m", "provisioning": provisioning} | parts))


def provider_of(
    make_host: MakeHost,
    runtime: Recording | None = None,
    profile: Profile = Profile.HOME,
    **parts: Any,  # noqa: ANN401 - any part of a host
) -> ContainerProvider:
    host = make_host(**({"free_bytes": lambda _: 500 * GIB} | parts))
    return ContainerProvider(host, profile, choose=runtime.choose if runtime else no_runtime)


async def prepare(
    pool: Pool,
    make_host: MakeHost,
    runtime: Recording,
    profile: Profile = Profile.HOME,
    **parts: Any,  # noqa: ANN401 - any part of a host
) -> PreparedEngine:
    return await provider_of(make_host, runtime, profile, **parts).ensure(pool, lambda _: None)


async def refusal(
    pool: Pool,
    make_host: MakeHost,
    runtime: Recording | None,
    **parts: Any,  # noqa: ANN401 - any part of a host
) -> ProvisionError:
    with pytest.raises(ProvisionError) as caught:
        await provider_of(make_host, runtime, **parts).ensure(pool, lambda _: None)
    return caught.value


# --- what comes of it -------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3801", "ORCH-3802", "ORCH-3805", "EP-18")
async def test_an_image_is_pulled_by_digest_seen_and_recorded(make_host: MakeHost, tmp_path: Path) -> None:
    runtime = Recording()
    pool = container_pool(devices=(1,), env={"VLLM_LOGGING_LEVEL": "DEBUG"})
    engine = await prepare(pool, make_host, runtime)
    assert runtime.asked == [
        f"present {IMAGE}@{DIGEST}",
        f"pull {IMAGE}@{DIGEST}",
        f"see {GPUS[1].uuid} in {IMAGE}@{DIGEST}",
    ]
    cache = tmp_path / "cache" / "vllm" / "compiled" / "1f1f1f1f1f1f"
    assert cache.is_dir()
    assert engine.container == ContainerRun(
        runtime="podman",
        runtime_reason="it works",
        image=IMAGE,
        tag="v1",
        digest=DIGEST,
        port=8000,
        mounts=(BindMount(source=str(cache), target="/cache", writable=True),),
        shm_bytes=8 * GIB,
    )
    assert engine == PreparedEngine(
        engine=Engine.VLLM,
        engine_version="vllm v1",
        provisioning_mode=Mode.CONTAINER,
        build_ref=f"{IMAGE}:v1",
        engine_digest=DIGEST,
        image_ref=f"{IMAGE}@{DIGEST}",
        container=engine.container,
        args=engine.args,
        env=engine.env,
        key_env="VLLM_API_KEY",
        ports=(8000,),
        engine_catalog_id="vllm-container-1f1f1f1f1f1f1f1f",
        health=HttpProbe(path="/health"),
        generation=generation_of(Engine.VLLM, "hf:org/m"),
    )
    assert engine.args[:6] == ("--model", "{model}", "--host", "{host}", "--port", "{port}")
    assert engine.env["VLLM_LOGGING_LEVEL"] == "DEBUG"
    (entry,) = FsEngineCatalog(tmp_path / "catalog").list()
    assert (entry.id, entry.version, entry.build_ref, entry.digest, entry.artifacts) == (
        engine.engine_catalog_id, "vllm v1", f"{IMAGE}:v1", DIGEST, (f"{IMAGE}@{DIGEST}",),
    )  # fmt: skip


@pytest.mark.req("EP-01")
@pytest.mark.parametrize("engine", [Engine.LLAMACPP, Engine.VLLM, Engine.TGI, Engine.TRITON])
async def test_ensure_does_the_steps_of_the_plan_and_again_gives_the_same(
    engine: Engine, make_host: MakeHost, tmp_path: Path
) -> None:
    runtime, pool = Recording(), container_pool(engine)
    provider = provider_of(make_host, runtime)
    plan = provider.plan(pool)
    assert not (tmp_path / "catalog").exists()
    said: list[str] = []
    first = await provider.ensure(pool, said.append)
    assert [line for line in said if line in {step.detail for step in plan.steps}] == [s.detail for s in plan.steps]
    assert await provider.ensure(pool, said.append) == first
    assert [line for line in runtime.asked if line.startswith("pull")] == [f"pull {IMAGE}@{DIGEST}"]


@pytest.mark.req("ORCH-3801")
async def test_the_choice_of_the_runtime_and_its_reason_are_said_and_logged(
    make_host: MakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    with caplog.at_level(logging.INFO):
        await provider_of(make_host, Recording(name="docker")).ensure(container_pool(), said.append)
    assert "docker: it works" in said
    assert "pool gpu0 runs in docker: it works" in caplog.messages


@pytest.mark.req("ORCH-3802")
async def test_a_tag_is_pulled_with_the_line_that_pins_it(make_host: MakeHost) -> None:
    runtime, said = Recording(), list[str]()
    engine = await provider_of(make_host, runtime).ensure(container_pool(digest=None), said.append)
    assert f"pull {IMAGE}:v1" in runtime.asked
    assert (
        f"warning: {IMAGE}:v1 is a tag, which can mean another image tomorrow; to keep this one:"
        f' pools[gpu0].provisioning.container: {{image: "{IMAGE}", tag: "v1", digest: "{DIGEST}"}}'
    ) in said
    assert engine.image_ref == f"{IMAGE}@{DIGEST}"
    assert engine.engine_digest == DIGEST


@pytest.mark.req("ORCH-3802")
async def test_what_is_here_is_used_without_the_network(make_host: MakeHost) -> None:
    denied = Policy(outbound=Outbound(default=Verdict.DENY))
    for pool, reference in (
        (container_pool(), f"{IMAGE}@{DIGEST}"),
        (container_pool(digest=None), f"{IMAGE}:v1"),
    ):
        runtime = Recording(here={reference})
        engine = await prepare(pool, make_host, runtime, policy=denied, free_bytes=lambda _: 0)
        assert engine.image_ref == f"{IMAGE}@{DIGEST}"
        assert not [line for line in runtime.asked if line.startswith("pull")]
    said: list[str] = []
    await provider_of(make_host, Recording(here={f"{IMAGE}:v1"})).ensure(container_pool(digest=None), said.append)
    assert f"{IMAGE}:v1 is here; for a newer one: podman pull {IMAGE}:v1" in said


async def test_a_version_without_a_tag_is_the_beginning_of_the_digest(make_host: MakeHost) -> None:
    image = ContainerImage(image="org/vllm", digest=DIGEST)
    pool = container_pool(provisioning=Provisioning(mode=Mode.CONTAINER, container=image))
    engine = await prepare(pool, make_host, Recording())
    assert engine.engine_version == "vllm 1f1f1f1f1f1f"
    assert engine.build_ref is None
    # By its whole name: podman would ask which registry, or guess it.
    assert engine.image_ref == f"docker.io/org/vllm@{DIGEST}"


async def test_triton_is_given_a_repository_and_asked_for_its_model(make_host: MakeHost) -> None:
    engine = await prepare(container_pool(Engine.TRITON, devices=()), make_host, Recording())
    assert engine.container is not None
    repository, cache = engine.container.mounts
    assert (repository.target, repository.writable) == ("/repository", False)
    document = json.loads((Path(repository.source) / "gpu0" / "1" / "model.json").read_text())
    assert document["tensor_parallel_size"] == len(GPUS)
    assert cache.target == "/cache"
    assert engine.container.model_target == "/model"
    assert engine.key_env is None
    assert engine.health.path == "/v2/models/gpu0/ready"
    assert engine.generation == HttpProbe(
        path="/v2/models/gpu0/generate", body='{"text_input":"a","parameters":{"max_tokens":1,"temperature":0}}'
    )


async def test_trial_runs_a_named_image_of_llama_server_without_a_device(
    make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    def no_driver() -> NoReturn:
        raise AssertionError("profile trial does not look for GPUs")

    runtime = Recording()
    engine = await prepare(
        container_pool(Engine.LLAMACPP, devices=()), make_host, runtime, Profile.TRIAL, gpus=no_driver
    )
    assert not [line for line in runtime.asked if line.startswith("see")]
    assert engine.env["CUDA_VISIBLE_DEVICES"] == ""
    assert engine.container is not None
    assert engine.container.mounts == ()
    pool = a_pool(provisioning=Provisioning(mode=Mode.CONTAINER))
    error = await refusal_in_trial(pool, make_host)
    assert error.message == "pool gpu0 names no image, and the usual ones of llamacpp are made for CUDA"
    operator_sees("container/trial-without-image", error.render())


async def refusal_in_trial(pool: Pool, make_host: MakeHost) -> ProvisionError:
    with pytest.raises(ProvisionError) as caught:
        await prepare(pool, make_host, Recording(), Profile.TRIAL)
    return caught.value


def test_the_registry_gives_every_container_this_provider(make_host: MakeHost) -> None:
    assert isinstance(provider_for(container_pool(), Profile.HOME, make_host()), ContainerProvider)


# --- GPUs -------------------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3803", "ORCH-3804")
@pytest.mark.parametrize("runtime_name", ["podman", "docker"])
async def test_a_container_that_does_not_see_its_gpu_is_refused(
    runtime_name: str, make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    error = await refusal(container_pool(), make_host, Recording(name=runtime_name, sees=()))
    assert error.cause is Cause.NO_GPU
    assert error.message == (
        f"a container of {IMAGE}@{DIGEST} is given {GPUS[0].uuid} and does not see it; it sees none"
    )
    assert {"podman": "nvidia-ctk cdi generate", "docker": "restart docker"}[runtime_name] in error.hint
    operator_sees(f"container/gpu-not-seen-in-{runtime_name}", error.render())


@pytest.mark.req("ORCH-3804")
async def test_a_container_that_sees_another_pools_gpu_is_refused(
    make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    error = await refusal(container_pool(), make_host, Recording(sees=tuple(gpu.uuid for gpu in GPUS)))
    assert error.cause is Cause.CONTAINER_RUNTIME
    assert error.message == f"a container of {IMAGE}@{DIGEST} sees {GPUS[1].uuid}, which it is not given"
    assert error.hint.startswith("see that no hook and no default runtime of podman adds GPUs")
    operator_sees("container/gpu-of-another-pool-seen", error.render())


async def test_the_slices_of_a_gpu_are_no_other_gpu(make_host: MakeHost) -> None:
    await prepare(container_pool(), make_host, Recording(sees=(GPUS[0].uuid, "MIG-1f2c", "MIG-2f2c")))


async def test_a_mask_is_given_in_its_order_and_by_whole_uuids(make_host: MakeHost) -> None:
    runtime = Recording()
    engine = await prepare(container_pool(Engine.LLAMACPP, devices=("GPU-1f2c", "GPU-0f2c")), make_host, runtime)
    assert runtime.asked[-1].startswith(f"see {GPUS[1].uuid} {GPUS[0].uuid} in")
    assert engine.env["CUDA_VISIBLE_DEVICES"] == f"{GPUS[1].uuid},{GPUS[0].uuid}"


@pytest.mark.req("ORCH-3803")
async def test_without_a_driver_no_runtime_is_asked(make_host: MakeHost) -> None:
    def no_driver() -> NoReturn:
        raise GpuUnavailable("no NVIDIA driver is installed", "install it")

    runtime = Recording()
    error = await refusal(container_pool(), make_host, runtime, gpus=no_driver)
    assert (error.cause, error.message) == (Cause.NO_GPU, "no NVIDIA driver is installed")
    assert runtime.asked == []
    (finding,) = await provider_of(make_host, Recording(here={REFERENCE}), gpus=no_driver).preflight(container_pool())
    assert (finding.check, finding.message) == ("gpu", "no NVIDIA driver is installed")


# --- what is in the way -----------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3804")
async def test_a_preflight_finds_everything_at_once(
    make_host: MakeHost, tmp_path: Path, operator_sees: OperatorSees
) -> None:
    (tmp_path / "cache").write_text("in the way")
    pool = container_pool(
        digest=None, devices=(0, 7), flags=("--api-key", "sesame"), env={"HF_TOKEN": "sesame", "A-B": "1"}
    )
    parts: dict[str, Any] = {
        "policy": Policy(outbound=Outbound(deny=("registry.example",))),
        "free_bytes": lambda _: 3 * GIB,
    }
    found = await provider_of(make_host, **parts).preflight(pool)
    assert [(finding.check, finding.message) for finding in found] == [
        ("gpu", "pool gpu0 wants GPU 7, which is not there"),
        ("flags", "pools[gpu0].flags: --api-key would put a secret into a file and into the process list"),
        ("env", "pools[gpu0].env sets HF_TOKEN, which by its name is a secret"),
        ("container", "pools[gpu0].env: 'A-B' is no name of an environment variable"),
        ("cache", f"{tmp_path / 'cache'} is no directory"),
        ("container", "no container runtime works here: podman is not installed; docker is not installed"),
        ("policy", "registry.example may not be reached: policy.outbound.deny: registry.example"),
        ("cache", f"3.0 GiB are free on the disk of {tmp_path / 'cache'}, and the image takes about 30 GiB"),
    ]
    assert all(finding.why and finding.hint for finding in found)
    assert "sesame" not in repr(found)
    operator_sees("container/several-at-once", "\n".join(render(finding) for finding in found))
    error = await refusal(pool, make_host, None, **parts)
    assert error.findings == found[:5]


@pytest.mark.req("ORCH-3804")
async def test_a_preflight_asks_the_runtime_for_the_devices_and_looks_inside_an_image_that_is_here(
    make_host: MakeHost, tmp_path: Path
) -> None:
    missing = Finding(check="container-device", message="no CDI file", why="w", hint="h")
    runtime = Recording(here={f"{IMAGE}@{DIGEST}"}, findings=(missing,))
    provider = provider_of(make_host, runtime)
    assert await provider.preflight(container_pool()) == (missing,)
    (spec,) = runtime.specs
    assert [device.cdi for device in spec.devices] == [f"nvidia.com/gpu={GPUS[0].uuid}"]
    assert not [line for line in runtime.asked if line.startswith("see")]
    runtime.findings, runtime.sees = (), ()
    (finding,) = await provider.preflight(container_pool())
    assert "does not see it" in finding.message
    runtime.sees = None
    assert await provider.preflight(container_pool()) == ()
    assert not (tmp_path / "catalog").exists()
    assert not (tmp_path / "cache").exists()


async def test_an_image_with_its_tag_in_its_name_is_told_where_the_tag_goes(
    make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    image = ContainerImage(image="ghcr.io/a/b:v1")
    pool = container_pool(provisioning=Provisioning(mode=Mode.CONTAINER, container=image))
    (finding,) = await provider_of(make_host, Recording()).preflight(pool)
    assert finding.message == (
        "pools[gpu0].provisioning.container.image: 'ghcr.io/a/b:v1' is no image name without tag and digest"
    )
    assert finding.hint == 'image, tag and digest have a key each: {image: "ghcr.io/a/b", tag: "v1"}'
    operator_sees("container/tag-in-the-name", render(finding))


async def test_a_cache_that_no_container_can_mount_is_found(make_host: MakeHost, tmp_path: Path) -> None:
    (finding,) = await provider_of(make_host, Recording(), cache=tmp_path / "a:b").preflight(container_pool())
    assert finding.message.startswith("paths.cache: ")


@pytest.mark.req("HP-23")
@pytest.mark.parametrize(
    ("image", "outbound", "denied"),
    [
        ("vllm/vllm-openai", Outbound(deny=("docker.io",)), "docker.io"),
        ("ubuntu", Outbound(default=Verdict.DENY), "docker.io"),
        ("ghcr.io/a/b", Outbound(default=Verdict.DENY, allow=("*.docker.io",)), "ghcr.io"),
        ("ghcr.io/a/b", Outbound(default=Verdict.DENY, allow=("ghcr.io",)), None),
        ("127.0.0.1:5000/a", Outbound(default=Verdict.DENY), None),
        ("localhost/a", Outbound(default=Verdict.DENY), None),
    ],
)
async def test_policy_decides_which_registry_may_be_reached(
    image: str, outbound: Outbound, denied: str | None, make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    container = ContainerImage(image=image, digest=DIGEST)
    pool = container_pool(provisioning=Provisioning(mode=Mode.CONTAINER, container=container))
    runtime = Recording()
    found = await provider_of(make_host, runtime, policy=Policy(outbound=outbound)).preflight(pool)
    assert [finding.check for finding in found] == (["policy"] if denied else [])
    if denied:
        error = await refusal(pool, make_host, runtime, policy=Policy(outbound=outbound))
        assert error.cause is Cause.POLICY_DENIED
        assert error.message.startswith(f"{denied} may not be reached")
    if image == "vllm/vllm-openai":
        operator_sees("container/registry-denied", render(found[0]))
    assert not [line for line in runtime.asked if line.startswith("pull")]


async def test_a_disk_that_is_too_full_is_found_before_the_pull(
    make_host: MakeHost, tmp_path: Path, operator_sees: OperatorSees
) -> None:
    runtime = Recording()
    error = await refusal(container_pool(Engine.TGI), make_host, runtime, free_bytes=lambda _: 5 * GIB)
    assert error.cause is Cause.ENGINE_FETCH
    assert error.message == f"5.0 GiB are free on the disk of {tmp_path / 'cache'}, and the image takes about 20 GiB"
    assert runtime.asked == [f"present {IMAGE}@{DIGEST}"]
    operator_sees("container/disk-too-full", error.render())


async def test_the_usual_image_of_tgi_is_not_started_by_a_docker_that_runs_it_as_the_user(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, operator_sees: OperatorSees
) -> None:
    pool = a_pool(engine=Engine.TGI)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (finding,) = await provider_of(make_host, Recording(name="docker")).preflight(pool)
    assert "keeps its Python where only root may read" in finding.message
    operator_sees("container/tgi-in-docker", render(finding))
    assert (await refusal(pool, make_host, Recording(name="docker"))).cause is Cause.CONTAINER_RUNTIME
    assert await provider_of(make_host, Recording(name="podman")).preflight(pool) == ()
    assert await provider_of(make_host, Recording(name="docker")).preflight(container_pool(Engine.TGI)) == ()


# --- how a runtime fails ----------------------------------------------------------------------------------------------


@pytest.mark.req("CR-02")
@pytest.mark.parametrize(
    ("error", "message", "name"),
    [
        (ImageMissingError(REFERENCE), f"the registry has no image {REFERENCE}", "image-missing"),
        (
            DigestMismatchError(REFERENCE, "another manifest"),
            f"{REFERENCE} was asked for, and another manifest came",
            "digest-mismatch",
        ),
        (
            TamperedContentError(REFERENCE),
            f"the content of {REFERENCE} does not match its manifest",
            "tampered-content",
        ),
        (
            RegistryUnreachableError("registry.example"),
            "the registry registry.example cannot be reached",
            "registry-unreachable",
        ),
    ],
)
async def test_the_ways_a_pull_fails_stay_apart(
    error: ContainerError, message: str, name: str, make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    refused = await refusal(container_pool(), make_host, Recording(pull_error=error))
    assert refused.cause is Cause.ENGINE_FETCH
    assert (refused.message, refused.hint) == (message, error.hint)
    operator_sees(f"container/{name}", refused.render())


@pytest.mark.parametrize("cause", RuntimeCause)
def test_every_failure_of_a_runtime_has_a_cause(cause: RuntimeCause) -> None:
    fetch = {
        RuntimeCause.BAD_REFERENCE, RuntimeCause.IMAGE_MISSING, RuntimeCause.DIGEST_MISMATCH,
        RuntimeCause.TAMPERED_CONTENT, RuntimeCause.REGISTRY_UNREACHABLE, RuntimeCause.UNAUTHORIZED,
        RuntimeCause.RATE_LIMITED, RuntimeCause.NO_SPACE,
    }  # fmt: skip
    expected = Cause.ENGINE_FETCH if cause in fetch else Cause.CONTAINER_RUNTIME
    expected = Cause.NO_GPU if cause is RuntimeCause.NO_DEVICE else expected
    assert cause in CAUSES
    refused = provision_error(ContainerError(cause, "it failed", "mend it"), Cause.CONTAINER_RUNTIME)
    assert (refused.cause, refused.message, refused.hint) == (expected, "it failed", "mend it")
    passes = {RuntimeCause.REGISTRY_UNREACHABLE, RuntimeCause.RATE_LIMITED, RuntimeCause.NO_ANSWER}
    assert refused.retriable is (cause in passes)


@pytest.mark.req("ORCH-3801", "ORCH-3804")
async def test_without_a_runtime_both_reasons_are_said(make_host: MakeHost) -> None:
    error = await refusal(container_pool(), make_host, None)
    assert error.cause is Cause.CONTAINER_RUNTIME
    assert error.message == "no container runtime works here: podman is not installed; docker is not installed"
    assert error.hint == "install rootless podman"


async def test_a_runtime_that_gives_no_device_is_no_gpu(make_host: MakeHost) -> None:
    failed = ContainerError(RuntimeCause.NO_DEVICE, "unresolvable CDI devices", "nvidia-ctk cdi generate")
    runtime = Recording(smi_error=failed, here={REFERENCE})
    assert (await refusal(container_pool(), make_host, runtime)).cause is Cause.NO_GPU
    (finding,) = await provider_of(make_host, runtime).preflight(container_pool())
    assert (finding.message, finding.hint) == ("unresolvable CDI devices", "nvidia-ctk cdi generate")


@pytest.mark.req("EP-13")
async def test_no_secret_of_the_environment_reaches_what_is_prepared(make_host: MakeHost, tmp_path: Path) -> None:
    environ = {"PATH": "", "VLLM_API_KEY": "sesame", "HF_TOKEN": "sesame"}
    engine = await prepare(container_pool(), make_host, Recording(), environ=environ)
    assert b"sesame" not in msgspec.json.encode(engine)
    assert "sesame" not in (tmp_path / "catalog" / "engines.json").read_text()


# --- Triton's repository on the disk ----------------------------------------------------------------------------------


def test_a_repository_is_written_once_whole_and_mended_where_somebody_edited_it(tmp_path: Path) -> None:
    files = {"m/config.pbtxt": "a", "m/1/model.json": "{}"}
    first = triton_repository.write(tmp_path, "p", files)
    assert {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()} == set(files)
    before = (first / "m" / "config.pbtxt").stat()
    assert triton_repository.write(tmp_path, "p", files) == first
    assert (first / "m" / "config.pbtxt").stat() == before
    other = triton_repository.write(tmp_path, "p", files | {"m/config.pbtxt": "b"})
    assert other != first
    (first / "m" / "config.pbtxt").write_bytes(b"\xff")
    assert triton_repository.write(tmp_path, "p", files) == first
    assert (first / "m" / "config.pbtxt").read_text() == "a"
    assert sorted(tmp_path.iterdir()) == sorted([first, other])


async def test_a_repository_that_cannot_be_written_is_told(make_host: MakeHost, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "triton").write_text("in the way")
    error = await refusal(container_pool(Engine.TRITON), make_host, Recording())
    assert error.cause is Cause.ENGINE_FETCH
    assert error.message.endswith("/triton/repositories cannot be written: Not a directory")
    (tmp_path / "cache" / "vllm").write_text("in the way")
    assert "/vllm/compiled/" in (await refusal(container_pool(), make_host, Recording())).message

from __future__ import annotations

import itertools
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import MODES, Binary, ContainerImage, Engine, External, Mode, Package, Pool, Profile, Provisioning
from contracts.engines import Plan, PlanStep
from contracts.pools import Cause
from engine_provisioner.base import Checklist
from engine_provisioner.errors import ProvisionError
from engine_provisioner.plan import StepKind, Way, plan_for, way_of, without_secrets
from engine_provisioner.providers.container import ContainerProvider
from engine_provisioner.providers.external import ExternalProvider
from engine_provisioner.providers.native import NativeProvider
from engine_provisioner.registry import provider_for
from tests.unit.engine_provisioner.conftest import MakeHost, a_pool, binary_pool, wheel_pool


def external_pool(engine: Engine = Engine.LLAMACPP, url: str = "http://127.0.0.1:9", key: str | None = None) -> Pool:
    provisioning = Provisioning(mode=Mode.EXTERNAL, external=External(url=url, api_key_env=key))
    return a_pool(engine=engine, provisioning=provisioning)


@pytest.mark.req("EP-02")
def test_a_provider_for_each_way(make_host: MakeHost) -> None:
    host = make_host()
    assert isinstance(provider_for(wheel_pool(), Profile.TRIAL, host), NativeProvider)
    assert isinstance(provider_for(binary_pool(), Profile.HOME, host), NativeProvider)
    system = a_pool(provisioning=Provisioning(mode=Mode.PACKAGE, package=Package(name="llama.cpp")))
    assert isinstance(provider_for(system, Profile.HOME, host), NativeProvider)
    fetched = a_pool(provisioning=Provisioning(mode=Mode.BINARY, binary=Binary(url="https://x/y", sha256="0" * 64)))
    assert isinstance(provider_for(fetched, Profile.HOME, host), NativeProvider)
    assert isinstance(provider_for(a_pool(), Profile.HOME, host), NativeProvider)
    for engine in (Engine.LLAMACPP, Engine.VLLM, Engine.TGI, Engine.TRITON):
        contained = a_pool(engine=engine, provisioning=Provisioning(mode=Mode.CONTAINER))
        assert isinstance(provider_for(contained, Profile.HOME, host), ContainerProvider)
    for engine in Engine:
        assert isinstance(provider_for(external_pool(engine), Profile.HOME, host), ExternalProvider)


@pytest.mark.req("EP-02")
def test_an_unknown_engine_is_refused_with_the_valid_ones(make_host: MakeHost) -> None:
    pool = a_pool(engine=cast("Engine", "ollama"))
    with pytest.raises(ProvisionError, match="'ollama' is no engine") as caught:
        provider_for(pool, Profile.HOME, make_host())
    assert caught.value.cause is Cause.ENGINE_MISSING
    assert caught.value.hint == "valid engines: llamacpp, vllm, tgi, triton, openai"


@pytest.mark.req("EP-02")
@pytest.mark.parametrize(("engine", "mode"), list(itertools.product(Engine, Mode)))
def test_a_mode_without_sense_for_its_engine_is_refused_with_the_valid_ones(
    engine: Engine, mode: Mode, make_host: MakeHost
) -> None:
    pool = a_pool(engine=engine, provisioning=Provisioning(mode=mode))
    if mode in MODES[engine]:
        return
    with pytest.raises(ProvisionError, match=f"{engine} cannot be provisioned in mode {mode}$") as caught:
        provider_for(pool, Profile.HOME, make_host())
    assert caught.value.hint == f"valid for {engine}: {', '.join(MODES[engine])}"


@pytest.mark.req("ORCH-3803")
def test_the_wheel_that_computes_on_the_cpu_is_refused_in_home(make_host: MakeHost) -> None:
    with pytest.raises(ProvisionError, match="computes on the CPU, and profile home is GPU only") as caught:
        provider_for(wheel_pool(devices=(0,)), Profile.HOME, make_host())
    assert caught.value.cause is Cause.NO_GPU


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("engine", [Engine.LLAMACPP, Engine.VLLM])
def test_trial_takes_what_it_can_start_on_the_cpu_by_its_own_decision(engine: Engine, mode: Mode) -> None:
    own = engine is Engine.LLAMACPP and mode in {Mode.SOURCE, Mode.CONTAINER}
    pool = a_pool(engine=engine, provisioning=Provisioning(mode=mode, package=Package(name="llama.cpp")))
    if own or mode is Mode.EXTERNAL:
        assert way_of(pool, Profile.TRIAL).value == mode.value
        return
    with pytest.raises(ProvisionError) as caught:
        way_of(pool, Profile.TRIAL)
    if mode in MODES[engine]:
        assert caught.value.message == f"profile trial cannot use {engine} in mode {mode}"
        assert caught.value.hint.startswith("valid in trial: llamacpp in mode package (name xllamacpp), source or")


@pytest.mark.req("EP-18")
@pytest.mark.parametrize(
    ("provisioning", "way"),
    [
        (Provisioning(), Way.SOURCE),
        (Provisioning(mode=Mode.CONTAINER), Way.CONTAINER),
        (Provisioning(mode=Mode.PACKAGE, package=Package(name="llama.cpp")), Way.SYSTEM_PACKAGE),
        (Provisioning(mode=Mode.BINARY), Way.BINARY),
        (Provisioning(mode=Mode.BINARY, binary=Binary(path="/x")), Way.BINARY),
        (Provisioning(mode=Mode.BINARY, binary=Binary(url="https://x/y")), Way.DOWNLOAD),
        (Provisioning(mode=Mode.EXTERNAL), Way.EXTERNAL),
    ],
)
def test_each_mode_has_its_way(provisioning: Provisioning, way: Way) -> None:
    assert way_of(a_pool(provisioning=provisioning), Profile.HOME) is way


@pytest.mark.req("EP-13")
def test_a_plan_shows_no_secret_of_a_download() -> None:
    binary = Binary(url="https://me:sesame@example.org/llama.tar.gz?token=sesame", sha256="0" * 64)
    plan = plan_for(a_pool(provisioning=Provisioning(mode=Mode.BINARY, binary=binary)), Profile.HOME)
    assert "sesame" not in repr(plan)
    assert [step.detail for step in plan.steps] == [
        "check the GPUs (0) and the flags of pool gpu0",
        f"download https://example.org/llama.tar.gz, unless its sha256 {'0' * 64} is here",
        "unpack it, unless that is done, and find llama-server in it",
        "ask llama-server for its version and its flags",
        "compute the sha256 of llama-server",
        "record the engine in the engine catalog",
    ]


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize("behind", ["", f"@sha256:{'a' * 64}"])
def test_a_plan_shows_no_secret_in_the_name_of_an_image(behind: str) -> None:
    image = ContainerImage(image=f"me:ses@me@ghcr.io/a/b{behind}", tag="v1")
    pool = a_pool(provisioning=Provisioning(mode=Mode.CONTAINER, container=image))
    details = [step.detail for step in plan_for(pool, Profile.HOME).steps]
    assert f"pull ghcr.io/a/b{behind}:v1, unless it is here" in details


@pytest.mark.req("EP-09")
def test_a_plan_says_what_may_be_installed() -> None:
    pool = a_pool(provisioning=Provisioning(mode=Mode.PACKAGE, package=Package(name="llama.cpp")))
    assert [step.detail for step in plan_for(pool, Profile.HOME).steps][1:3] == [
        "find llama-server on PATH, as the system package llama.cpp installs it",
        "where it is missing, have the package manager install llama.cpp",
    ]


@pytest.mark.req("EP-01")
def test_a_plan_names_its_steps_in_order() -> None:
    plan = plan_for(binary_pool("/opt/llama-server"), Profile.HOME)
    assert plan.pool_id == "gpu0"
    assert [step.detail for step in plan.steps] == [
        "check the GPUs (0) and the flags of pool gpu0",
        "find /opt/llama-server",
        "ask /opt/llama-server for its version and its flags",
        "compute the sha256 of /opt/llama-server",
        "record the engine in the engine catalog",
    ]


def test_a_plan_shows_no_secret_of_an_endpoint() -> None:
    plan = plan_for(external_pool(url="https://me:sesame@example.org/x?key=sesame", key="THEIR_KEY"), Profile.HOME)
    assert "sesame" not in repr(plan)
    assert [step.detail for step in plan.steps][:2] == [
        "check that THEIR_KEY is set",
        "use the endpoint https://example.org/x; nothing is started",
    ]


@given(st.text())
def test_no_text_makes_a_url_unshowable(url: str) -> None:
    assert "@" not in without_secrets(url).partition("//")[2].partition("/")[0]


pools = st.builds(
    a_pool,
    engine=st.sampled_from(Engine),
    devices=st.sampled_from([(), (0,), (0, "GPU-12345678")]),
    provisioning=st.builds(
        Provisioning,
        mode=st.sampled_from([*Mode, None]),
        package=st.sampled_from([None, Package(name="xllamacpp"), Package(name="llama.cpp")]),
        binary=st.sampled_from([None, Binary(), Binary(path="/x"), Binary(url="https://x/y")]),
        external=st.sampled_from([None, External(url="http://x")]),
    ),
)


@pytest.mark.req("EP-01", "EP-02")
@given(pools, st.sampled_from(Profile))
def test_every_pool_has_one_plan_or_a_typed_refusal(pool: Pool, profile: Profile) -> None:
    try:
        plan = plan_for(pool, profile)
    except ProvisionError as error:
        refusal = error.render()
        assert "mend: " in refusal
        return
    assert plan == plan_for(pool, profile)
    assert plan.steps[-1].kind == StepKind.RECORD
    assert all(StepKind(step.kind) and step.detail for step in plan.steps)


@pytest.mark.req("EP-01")
def test_a_checklist_holds_a_preparation_to_its_plan() -> None:
    kinds = (StepKind.FIND, StepKind.RECORD)
    plan = Plan(pool_id="p", steps=tuple(PlanStep(kind=kind, detail=f"do {kind}") for kind in kinds))
    said: list[str] = []
    steps = Checklist(plan, said.append)
    with pytest.raises(AssertionError, match="the next step of the plan"):
        steps.begin(StepKind.RECORD)
    steps = Checklist(plan, said.append)
    steps.begin(StepKind.FIND)
    with pytest.raises(AssertionError, match="left out: record"):
        steps.end()
    steps.begin(StepKind.RECORD)
    steps.end()
    with pytest.raises(AssertionError):
        steps.begin(StepKind.RECORD)
    assert said == ["do find", "do record"]

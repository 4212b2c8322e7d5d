from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from catalog_core.engines import FsEngineCatalog
from contracts.config import Engine, Mode, Package, Pool, Profile, Provisioning
from contracts.engines import HttpProbe, PreparedEngine
from contracts.pools import Cause
from daemon_core.python_packages import install_hint
from engine_provisioner.errors import ProvisionError
from engine_provisioner.gpus import GpuUnavailable
from engine_provisioner.probes import generation_of
from engine_provisioner.providers import native
from engine_provisioner.providers.binary import BinarySource
from engine_provisioner.providers.native import NativeProvider, Version, parse_version
from engine_provisioner.providers.wheel import Wheel, WheelSource, installed_wheel
from engine_provisioner.registry import provider_for
from tests.plugins.failures import OperatorSees
from tests.unit.engine_provisioner.conftest import (
    NEW_VERSION,
    OLD_VERSION,
    MakeHost,
    MakeServer,
    binary_pool,
    wheel_pool,
)


async def prepare(
    pool: Pool,
    make_host: MakeHost,
    profile: Profile = Profile.HOME,
    **parts: Any,  # noqa: ANN401 - any part of a host
) -> PreparedEngine:
    return await provider_for(pool, profile, make_host(**parts)).ensure(pool, lambda _: None)


async def refusal(pool: Pool, make_host: MakeHost, **parts: Any) -> ProvisionError:  # noqa: ANN401 - any part of a host
    with pytest.raises(ProvisionError) as caught:
        await prepare(pool, make_host, **parts)
    return caught.value


# --- a binary ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3805")
async def test_a_binary_is_prepared_and_recorded(make_server: MakeServer, make_host: MakeHost, tmp_path: Path) -> None:
    path = make_server("opt/llama-server")
    pool = binary_pool(path, env={"GGML_CUDA_FORCE_MMQ": "1"}, ctx=4096, slots=2)
    engine = await prepare(pool, make_host, workdir=tmp_path)
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert engine == PreparedEngine(
        engine=pool.engine,
        engine_version="0.5.0-dev",
        provisioning_mode=Mode.BINARY,
        build_ref="b11549-9a9394a89",
        engine_digest=digest,
        bin_or_entry=str(path),
        args=(
            *("--model", "{model}", "--host", "{host}", "--port", "{port}", "--ctx-size", "8192", "--parallel", "2"),
            *("--metrics", "--slots", "--no-ui", "--cors-origins", "http://llama-orch.invalid", "--fit", "off"),
            *("--n-gpu-layers", "999"),
        ),
        env={"GGML_CUDA_FORCE_MMQ": "1", "CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        key_env="LLAMA_API_KEY",
        workdir=str(tmp_path),
        engine_catalog_id=f"llamacpp-binary-{digest[7:23]}",
        health=HttpProbe(path="/health"),
        generation=generation_of(Engine.LLAMACPP, pool.model),
    )
    (entry,) = FsEngineCatalog(tmp_path / "catalog").list()
    assert (entry.id, entry.version, entry.build_ref, entry.digest) == (
        engine.engine_catalog_id, "0.5.0-dev", "b11549-9a9394a89", digest,
    )  # fmt: skip
    assert entry.artifacts == (str(path),)
    assert entry.created_ms == 1_700_000_000_000


@pytest.mark.req("EP-01")
async def test_ensure_does_the_steps_of_the_plan_and_a_plan_does_nothing(
    make_server: MakeServer, make_host: MakeHost, tmp_path: Path
) -> None:
    pool = binary_pool(make_server())
    provider = provider_for(pool, Profile.HOME, make_host())
    plan = provider.plan(pool)
    assert plan == provider.plan(pool)
    assert not (tmp_path / "catalog").exists()
    said: list[str] = []
    first = await provider.ensure(pool, said.append)
    assert said == [step.detail for step in plan.steps]
    assert await provider.ensure(pool, said.append) == first


async def test_a_flag_that_is_left_out_is_said(make_server: MakeServer, make_host: MakeHost) -> None:
    make_server()
    said: list[str] = []
    pool = binary_pool(flags=("--host", "0.0.0.0"))  # noqa: S104 - it is refused
    await provider_for(pool, Profile.HOME, make_host()).ensure(pool, said.append)
    assert "--host in pools[].flags is left out: llama-orch chooses the address: loopback, and a free port" in said


@pytest.mark.req("EP-07")
async def test_llama_server_on_path_is_found(make_server: MakeServer, make_host: MakeHost) -> None:
    path = make_server()
    assert (await prepare(binary_pool(), make_host)).bin_or_entry == str(path)


@pytest.mark.req("EP-07")
async def test_a_binary_must_exist_be_executable_and_answer(
    make_server: MakeServer, make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    async def message(name: str, path: Path | str | None) -> str:
        error = await refusal(binary_pool(path), make_host)
        assert error.cause is Cause.ENGINE_MISSING
        assert error.hint.startswith("set provisioning.binary.path")
        operator_sees(f"binary/{name}", error.render())
        return error.message

    assert await message("not-on-path", None) == "there is no llama-server on PATH"
    assert await message("not-there", "/nowhere/llama-server") == "/nowhere/llama-server does not exist"
    plain = make_server("plain")
    assert await message("no-file", plain.parent) == f"{plain.parent} is no file"
    plain.chmod(0o644)
    assert await message("not-executable", plain) == f"{plain} is not executable (chmod +x)"
    failing = make_server(
        "failing", script="#!/bin/sh\necho starting\necho 'libcuda.so.1: cannot open' >&2\nexit 127\n"
    )
    assert await message("fails", failing) == f"{failing} --version ended with status 127: libcuda.so.1: cannot open"
    other = make_server("other", version="cowsay 3.0")
    assert await message("another-program", other) == f"{other} --version does not answer as llama-server does"
    wrong = make_server("wrong", script="\x7fELF nonsense")
    assert await message("wrong-format", wrong) == f"{wrong} cannot be started: Exec format error"


@pytest.mark.req("EP-07")
async def test_a_binary_that_hangs_is_given_up_and_ended(
    make_server: MakeServer, make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, operator_sees: OperatorSees
) -> None:
    monkeypatch.setattr(native, "ANSWER_S", 0.2)
    hanging = make_server("hanging", script="#!/bin/sh\nexec /bin/sleep 600\n")
    error = await refusal(binary_pool(hanging), make_host)
    assert error.message == f"{hanging} did not answer within 0.2 s"
    operator_sees("binary/hangs", error.render())


async def test_what_the_engine_does_not_know_it_is_not_given(make_server: MakeServer, make_host: MakeHost) -> None:
    old = make_server(version=OLD_VERSION, help_text="-m, --model FNAME   model\n--port PORT  port\n--no-webui  no UI")
    engine = await prepare(binary_pool(old), make_host)
    assert engine.engine_version == engine.build_ref == "b4621-6eecde3"
    assert "--no-webui" in engine.args
    assert not {"--cors-origins", "--fit", "--no-ui"} & set(engine.args)


@pytest.mark.req("EP-13")
async def test_no_key_of_the_environment_reaches_the_prepared_engine_or_the_catalog(
    make_server: MakeServer, make_host: MakeHost, tmp_path: Path
) -> None:
    make_server()
    environ = {"PATH": str(tmp_path / "bin"), "LLAMA_API_KEY": "sesame", "HF_TOKEN": "sesame"}
    engine = await prepare(binary_pool(), make_host, environ=environ)
    assert b"sesame" not in msgspec.json.encode(engine)
    assert "sesame" not in (tmp_path / "catalog" / "engines.json").read_text()


@pytest.mark.parametrize("name", ["LLAMA_API_KEY", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"])
async def test_the_environment_that_is_ours_cannot_be_configured(
    name: str, make_server: MakeServer, make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    make_server()
    error = await refusal(binary_pool(env={name: "sesame"}), make_host)
    assert error.cause is Cause.POLICY_DENIED
    assert f"env sets {name}" in error.message
    assert "sesame" not in error.render()
    operator_sees(f"config/env-{name.lower().replace('_', '-')}", error.render())


@pytest.mark.req("EP-11", "ORCH-3803")
@pytest.mark.parametrize("name", ["LLAMA_ARG_N_GPU_LAYERS", "LLAMA_ARG_CPU_MOE", "LLAMA_ARG_", "MTMD_BACKEND_DEVICE"])
async def test_no_flag_comes_in_by_the_environment(name: str, make_server: MakeServer, make_host: MakeHost) -> None:
    make_server()
    error = await refusal(binary_pool(env={name: "0"}), make_host)
    assert error.cause is Cause.POLICY_DENIED
    assert f"env sets {name}" in error.message
    assert error.hint == "remove it, and set the flag in pools[].flags"


# --- GPUs -------------------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3803")
async def test_without_a_driver_home_stops_before_it_looks_at_any_program(make_host: MakeHost) -> None:
    def no_driver() -> NoReturn:
        raise GpuUnavailable("no NVIDIA driver is installed", "install it")

    error = await refusal(binary_pool(), make_host, gpus=no_driver)
    assert (error.cause, error.message, error.hint) == (Cause.NO_GPU, "no NVIDIA driver is installed", "install it")
    assert "nothing ever falls back to the CPU" in error.render()


@pytest.mark.req("ORCH-3803")
async def test_a_server_built_without_cuda_is_refused(
    make_server: MakeServer, make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    path = make_server(devices="Available devices:\n  (none)")
    error = await refusal(binary_pool(path), make_host)
    operator_sees("gpu/engine-without-cuda", error.render())
    assert error.cause is Cause.NO_GPU
    assert error.message == f"{path} sees no CUDA device, so it would compute on the CPU"
    assert "GGML_CUDA=ON" in error.hint


async def test_a_server_is_asked_with_the_gpus_of_its_pool_only(make_server: MakeServer, make_host: MakeHost) -> None:
    script = make_server().read_text().replace("CUDA0:", "${CUDA_VISIBLE_DEVICES}:").replace("'EOF'", "EOF")
    path = make_server("masked", script=script)
    pool = binary_pool(path, devices=("GPU-1f2c0000", "GPU-0f2c0000"))
    error = await refusal(pool, make_host)
    assert error.cause is Cause.NO_GPU
    path.write_text(script.replace("${CUDA_VISIBLE_DEVICES}:", "CUDA${#CUDA_VISIBLE_DEVICES}:"))
    engine = await prepare(pool, make_host)
    assert engine.env["CUDA_VISIBLE_DEVICES"] == "GPU-1f2c0000,GPU-0f2c0000"


async def test_a_preflight_finds_everything_at_once(make_host: MakeHost, operator_sees: OperatorSees) -> None:
    pool = binary_pool(devices=(0, 7), flags=("--api-key", "x", "-ngl", "0"), env={"LLAMA_API_KEY": "x"})
    found = await provider_for(pool, Profile.HOME, make_host()).preflight(pool)
    assert [finding.check for finding in found] == ["gpu", "flags", "flags", "env", "engine"]
    assert all(finding.message and finding.why and finding.hint for finding in found)
    error = await refusal(pool, make_host)
    assert error.findings == found[:-1]
    assert error.message.endswith("(and 3 more)")
    operator_sees("config/several-at-once", error.render())


async def test_a_preflight_that_finds_nothing_changes_nothing(
    make_server: MakeServer, make_host: MakeHost, tmp_path: Path
) -> None:
    make_server()
    assert await provider_for(binary_pool(), Profile.HOME, make_host()).preflight(binary_pool()) == ()
    assert not (tmp_path / "catalog").exists()


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (NEW_VERSION, Version(release="0.5.0-dev", build_ref="b11549-9a9394a89")),
        (
            f"ggml_cuda_init: found 1 CUDA devices\n{OLD_VERSION}",
            Version(release="b4621-6eecde3", build_ref="b4621-6eecde3"),
        ),
        ("version: 2026.10.11549 (build 0, commit unknown)", Version(release="2026.10.11549")),
        ("version: 1.2.3", Version(release="1.2.3")),
        ("llama-server, version 3", None),
        ("", None),
    ],
)
def test_versions_old_and_new_are_read(text: str, version: Version | None) -> None:
    assert parse_version(text) == version


# --- the wheel --------------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3805")
async def test_the_wheel_is_prepared_and_recorded(make_host: MakeHost, tmp_path: Path) -> None:
    wheel = installed_wheel()
    assert wheel is not None
    engine = await prepare(wheel_pool(), make_host, Profile.TRIAL)
    assert engine.engine_version == f"xllamacpp-{wheel.version}"
    assert engine.provisioning_mode is Mode.PACKAGE
    assert engine.engine_digest == f"sha256:{hashlib.sha256(wheel.native_module.read_bytes()).hexdigest()}"
    assert engine.args[:2] == ("-P", str(Path(native.__file__).parents[1] / "wheel_server.py"))
    assert engine.env == {"CUDA_VISIBLE_DEVICES": ""}
    (entry,) = FsEngineCatalog(tmp_path / "catalog").list()
    assert (entry.id, entry.digest) == (engine.engine_catalog_id, engine.engine_digest)


async def test_a_missing_wheel_is_mended_by_the_extra(make_host: MakeHost, operator_sees: OperatorSees) -> None:
    host = make_host()
    provider = NativeProvider(host, Profile.TRIAL, WheelSource(host, find=lambda: None))
    with pytest.raises(ProvisionError) as caught:
        await provider.ensure(wheel_pool(), lambda _: None)
    error = caught.value
    assert (error.cause, error.message) == (Cause.ENGINE_MISSING, "the wheel xllamacpp is not installed")
    assert error.hint == install_hint("xllamacpp")
    operator_sees("package/no-wheel", error.render())


def test_another_version_of_the_wheel_than_the_configured_one_is_refused(make_host: MakeHost) -> None:
    package = Package(name="xllamacpp", version="2.0")
    pool = wheel_pool(provisioning=Provisioning(mode=Mode.PACKAGE, package=package))
    source = WheelSource(make_host(), find=lambda: Wheel(version="1.0", native_module=Path("x.so")))
    with pytest.raises(ProvisionError, match=r"xllamacpp 1\.0 is installed, and the pool asks for 2\.0"):
        source.locate(pool)


# --- the catalog ------------------------------------------------------------------------------------------------------


async def test_a_catalog_that_cannot_be_written_is_a_clear_failure(
    make_server: MakeServer, make_host: MakeHost, tmp_path: Path, operator_sees: OperatorSees
) -> None:
    make_server()
    (tmp_path / "file").write_text("")
    error = await refusal(binary_pool(), make_host, catalog=FsEngineCatalog(tmp_path / "file" / "catalog"))
    assert error.cause is Cause.INTERNAL
    assert error.message.startswith("the engine cannot be recorded: ")
    operator_sees("binary/catalog-not-writable", error.render())


async def test_a_binary_that_vanishes_or_cannot_be_read_is_a_clear_failure(
    make_server: MakeServer, make_host: MakeHost
) -> None:
    path = make_server()

    class Vanishing(BinarySource):
        def locate(self, pool: Pool) -> native.Program:
            return msgspec.structs.replace(super().locate(pool), digest_of=Path("/nowhere"))

    host = make_host()
    provider = NativeProvider(host, Profile.HOME, Vanishing(host))
    with pytest.raises(ProvisionError, match="cannot read /nowhere: No such file or directory"):
        await provider.ensure(binary_pool(path), lambda _: None)

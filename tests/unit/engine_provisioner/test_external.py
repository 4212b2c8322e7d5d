from __future__ import annotations

from pathlib import Path

import pytest

from catalog_core.engines import FsEngineCatalog
from contracts.config import Engine, External, Mode, Pool, Profile, Provisioning
from contracts.engines import HttpProbe, PreparedEngine
from engine_provisioner.errors import ProvisionError
from engine_provisioner.probes import generation_of
from engine_provisioner.registry import provider_for
from tests.plugins.failures import OperatorSees
from tests.unit.engine_provisioner.conftest import MakeHost, a_pool


def external_pool(
    url: str = "http://127.0.0.1:9000/", key: str | None = None, engine: Engine = Engine.LLAMACPP
) -> Pool:
    provisioning = Provisioning(mode=Mode.EXTERNAL, external=External(url=url, api_key_env=key))
    return a_pool(devices=(), engine=engine, provisioning=provisioning)


@pytest.mark.req("ORCH-3805")
async def test_an_endpoint_is_prepared_and_recorded_without_being_called(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(environ={"THEIR_KEY": "sesame"}, gpus=None)
    pool = external_pool(key="THEIR_KEY")
    provider = provider_for(pool, Profile.HOME, host)
    said: list[str] = []
    engine = await provider.ensure(pool, said.append)
    assert said == [step.detail for step in provider.plan(pool).steps]
    assert engine == PreparedEngine(
        engine=Engine.LLAMACPP,
        engine_version="unknown",
        provisioning_mode=Mode.EXTERNAL,
        url="http://127.0.0.1:9000",
        key_env="THEIR_KEY",
        engine_catalog_id="llamacpp-external-gpu0",
        health=HttpProbe(path="/health"),
        generation=generation_of(Engine.LLAMACPP, pool.model),
    )
    (entry,) = FsEngineCatalog(tmp_path / "catalog").list()
    assert (entry.id, entry.version, entry.digest) == ("llamacpp-external-gpu0", "unknown", None)


async def test_a_key_that_is_not_set_is_found(make_host: MakeHost, operator_sees: OperatorSees) -> None:
    pool = external_pool(key="THEIR_KEY")
    for environ in ({}, {"THEIR_KEY": ""}):
        provider = provider_for(pool, Profile.HOME, make_host(environ=environ))
        (finding,) = await provider.preflight(pool)
        assert finding.message == "the environment variable THEIR_KEY is not set"
        assert "set THEIR_KEY in the environment of pool-managerd" in finding.hint
        with pytest.raises(ProvisionError, match="THEIR_KEY is not set") as caught:
            await provider.ensure(pool, lambda _: None)
        operator_sees("external/no-key", caught.value.render())


@pytest.mark.req("EP-13")
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.org", "is no address of an engine"),
        ("127.0.0.1:8000", "is no address of an engine"),
        ("http://", "is no address of an engine"),
        ("http://[::1", "is no address of an engine"),
        ("http://host:99999", "is no address of an engine"),
        ("https://example.org/?key=sesame", "is no address of an engine"),
        ("https://me:sesame@example.org", "holds a user name or a password"),
        ("https://sesame@example.org", "holds a user name or a password"),
    ],
)
async def test_a_url_that_cannot_be_used_is_found_and_not_repeated(url: str, message: str, make_host: MakeHost) -> None:
    (finding,) = await provider_for(external_pool(url), Profile.HOME, make_host()).preflight(external_pool(url))
    assert message in finding.message
    assert "sesame" not in repr(finding)


async def test_a_url_is_refused_before_it_is_used(make_host: MakeHost, operator_sees: OperatorSees) -> None:
    for name, url in (("no-url", "127.0.0.1:8000"), ("password-in-url", "https://me:sesame@example.org")):
        pool = external_pool(url)
        with pytest.raises(ProvisionError) as caught:
            await provider_for(pool, Profile.HOME, make_host()).ensure(pool, lambda _: None)
        operator_sees(f"external/{name}", caught.value.render())


async def test_a_pool_without_its_block_is_found(make_host: MakeHost) -> None:
    pool = a_pool(provisioning=Provisioning(mode=Mode.EXTERNAL))
    (finding,) = await provider_for(pool, Profile.HOME, make_host()).preflight(pool)
    assert finding.message == "pool gpu0 has no provisioning.external"


@pytest.mark.parametrize(
    ("engine", "health", "generation"),
    [
        (Engine.LLAMACPP, "/health", "/completion"),
        (Engine.VLLM, "/health", "/v1/completions"),
        (Engine.TGI, "/health", "/generate"),
        (Engine.TRITON, "/v2/health/ready", None),
        (Engine.OPENAI, "/v1/models", None),
    ],
)
async def test_each_engine_is_probed_in_its_own_words(
    engine: Engine, health: str, generation: str | None, make_host: MakeHost
) -> None:
    pool = external_pool(engine=engine)
    prepared = await provider_for(pool, Profile.HOME, make_host()).ensure(pool, lambda _: None)
    assert prepared.health.path == health
    assert (prepared.generation.path if prepared.generation else None) == generation

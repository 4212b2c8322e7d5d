from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.config import Config, Engine, External, Mode, Outbound, Policy, Pool, Profile, Provisioning, Verdict
from contracts.engines import Finding
from engine_provisioner.gpu_sharing import shared_gpus
from engine_provisioner.surroundings import Surroundings, catalog_findings, model_findings
from model_provisioner.outbound_gate import OutboundGate
from tests.unit.engine_provisioner.conftest import GPUS, MakeHost, a_pool
from tests.unit.engine_provisioner.test_cli import Run, run, write  # noqa: F401 - a fixture
from tests.unit.model_provisioner.heads import write_model

ELSEWHERE = Provisioning(mode=Mode.EXTERNAL, external=External(url="http://127.0.0.1:9"))


def findings(pool: Pool, base_dir: Path, policy: Policy | None = None) -> tuple[Finding, ...]:
    gate = OutboundGate(policy=policy or Policy(), environ={})
    return model_findings(pool, base_dir, base_dir / "cache", gate)


def two_pools(first: Pool, second: Pool) -> Config:
    return Config(pools=(replace(first, id="a"), replace(second, id="b")))


@pytest.mark.req("ORCH-3804", "EP-20")
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("gone.gguf", "there is no model file {base}/gone.gguf"),
        ("file:gone.gguf", "there is no model file {base}/gone.gguf"),
        ("ftp://host/m.gguf", "'ftp:' in the model reference"),
        ("hf:org/repo/m.gguf", "huggingface.co may not be reached: policy.outbound.default: deny"),
        ("https://models.example/m.gguf", "models.example may not be reached: policy.outbound.default: deny"),
        ("oci://ghcr.io/org/m:v1", "ghcr.io may not be reached: policy.outbound.default: deny"),
        ("text.gguf", "{base}/text.gguf cannot be used"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_found(tmp_path: Path, model: str, said: str) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    (finding,) = findings(a_pool(model=model), tmp_path, Policy(outbound=Outbound(default=Verdict.DENY)))
    assert finding.check == "model"
    assert finding.message.startswith(f"pool gpu0: {said.format(base=tmp_path)}")
    assert finding.why
    assert finding.hint


def test_a_model_that_is_here_starts_at_the_configuration_and_an_endpoint_has_its_own(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf")
    assert findings(a_pool(model="m.gguf"), tmp_path) == ()
    assert findings(a_pool(model="gone.gguf", provisioning=ELSEWHERE), tmp_path) == ()
    assert findings(a_pool(model="hf:org/repo/m.gguf"), tmp_path) == ()
    (finding,) = findings(a_pool(model="m.gguf", engine=Engine.VLLM), tmp_path)
    assert "vllm loads a directory" in finding.message


@pytest.mark.req("ORCH-3804")
async def test_one_gpu_under_two_names_is_found_for_both_pools(tmp_path: Path, make_host: MakeHost) -> None:
    config = two_pools(a_pool(devices=(1,)), a_pool(devices=(GPUS[1].uuid,)))
    surroundings = Surroundings(config, tmp_path, tmp_path / "catalog", make_host())
    for pool in config.pools:
        (finding,) = await surroundings.refusals(pool)
        assert finding.check == "gpu"
        assert finding.message == f"pools a and b both want GPU 1 (NVIDIA GeForce RTX 3090, {GPUS[1].uuid})"
        assert finding.hint == "give each pool its own GPU, or set share: true on both pools"
    trial = Surroundings(replace(config, profile=Profile.TRIAL), tmp_path, tmp_path / "catalog", make_host())
    assert await trial.refusals(config.pools[0]) == ()


def test_pools_that_share_or_are_elsewhere_or_apart_are_fine() -> None:
    one, same = a_pool(devices=(1,)), a_pool(devices=(GPUS[1].uuid,))
    for first, second in (
        (replace(one, share=True), replace(same, share=True)),
        (one, a_pool(devices=(0,))),
        (one, replace(same, provisioning=ELSEWHERE)),
    ):
        assert shared_gpus(two_pools(first, second).pools, GPUS) == ()
    assert len(shared_gpus(two_pools(replace(one, share=True), same).pools, GPUS)) == 1


@pytest.mark.req("EP-20")
def test_a_catalog_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert catalog_findings(tmp_path / "data" / "catalog") == ()
    (finding,) = catalog_findings(tmp_path / "file" / "catalog")
    assert finding.message.endswith(f"{tmp_path}/file is no directory")
    assert finding.hint == f"ls -ld {tmp_path}/file; or set paths.data"


@pytest.mark.req("EP-20")
def test_ensure_refuses_such_a_catalog_and_tells_of_the_model_before_any_step(tmp_path: Path, run: Run) -> None:  # noqa: F811
    config = write(tmp_path)
    (tmp_path / "m.gguf").unlink()
    done = run("ensure", "--config", config, "--pool", "near")
    assert done.status == 0, done.stdout
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith(f"near: pool near: there is no model file {tmp_path}/m.gguf")
    assert second == "near: check the flags of pool near"
    (found,) = json.loads(run("preflight", "--config", config, "--pool", "near", "--json").stdout)
    assert [finding["check"] for finding in found["findings"]] == ["model"]
    (tmp_path / "file").touch()
    config.write_text(config.read_text().replace(f"{tmp_path}/data", f"{tmp_path}/file"))
    done = run("ensure", "--config", config, "--pool", "near")
    assert (done.status, done.stderr) == (1, "")
    assert "catalog: the engine catalog" in done.stdout

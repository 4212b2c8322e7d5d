from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from engine_provisioner.cli import app

CONFIG = """\
profile: trial
paths: {{data: "{data}"}}
pools:
  - {{id: near, engine: llamacpp, model: m.gguf, provisioning: {{mode: package, package: {{name: xllamacpp}}}}}}
  - {{id: far, engine: openai, model: m, provisioning: {{mode: external, external: {{url: "http://127.0.0.1:9"{key}}}}}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(tmp_path: Path, key: str = "") -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(data=tmp_path / "data", key=key))
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.req("EP-20", "EP-01")
def test_plan_prints_the_steps_and_changes_nothing(config: Path, tmp_path: Path) -> None:
    result = run("plan", "--config", config)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "near:",
        "  1. check the flags of pool near",
        "  2. find the installed wheel xllamacpp",
        "  3. ask the server of xllamacpp for its version and its flags",
        "  4. compute the sha256 of the server of xllamacpp",
        "  5. record the engine in the engine catalog",
        "far:",
        "  1. no API key is configured",
        "  2. use the endpoint http://127.0.0.1:9; nothing is started",
        "  3. record the engine in the engine catalog",
    ]
    assert run("plan", "--config", config).stdout == result.stdout
    assert not (tmp_path / "data").exists()


@pytest.mark.req("EP-20")
def test_ensure_prepares_one_pool_and_says_each_step(config: Path, tmp_path: Path) -> None:
    result = run("ensure", "--config", config, "--pool", "near", "--json")
    assert result.exit_code == 0
    (found,) = json.loads(result.stdout)
    assert found["pool_id"] == "near"
    assert found["engine"]["engine_version"].startswith("xllamacpp-")
    steps = json.loads(run("plan", "--config", config, "--pool", "near", "--json").stdout)[0]["plan"]["steps"]
    assert result.stderr.splitlines() == [f"near: {step['detail']}" for step in steps]
    entries = json.loads((tmp_path / "data" / "catalog" / "engines.json").read_text())["entries"]
    assert list(entries) == [found["engine"]["engine_catalog_id"]]
    assert "llamacpp xllamacpp-" in run("ensure", "--config", config, "--pool", "near").stdout


@pytest.mark.req("EP-20")
def test_preflight_says_what_is_in_the_way_with_status_1(tmp_path: Path) -> None:
    config = write(tmp_path, key=", api_key_env: LLORCH_TEST_NO_SUCH_KEY")
    result = run("preflight", "--config", config)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "near: nothing is in the way",
        "far: 1 found",
        "key: the environment variable LLORCH_TEST_NO_SUCH_KEY is not set",
    ]
    assert lines[3].startswith("  why: ")
    assert lines[4].startswith("  mend: ")
    failed = run("ensure", "--config", config, "--pool", "far")
    assert failed.exit_code == 1
    assert failed.stdout.startswith("far: failed\nkey: the environment variable LLORCH_TEST_NO_SUCH_KEY is not set")
    assert json.loads(run("ensure", "--config", config, "--pool", "far", "--json").stdout)[0]["error"]["cause"] == (
        "engine_missing"
    )


@pytest.mark.req("EP-20")
def test_one_pool_that_fails_does_not_keep_the_others_from_being_prepared(tmp_path: Path) -> None:
    config = write(tmp_path, key=", api_key_env: LLORCH_TEST_NO_SUCH_KEY")
    result = run("ensure", "--config", config, "--json")
    assert result.exit_code == 1
    near, far = json.loads(result.stdout)
    assert "engine" in near
    assert "error" in far


@pytest.mark.req("EP-20")
def test_usage_and_configuration_have_their_own_status(config: Path, tmp_path: Path) -> None:
    result = run("plan", "--config", config, "--pool", "gpu7")
    assert result.exit_code == 2
    assert "there is no pool 'gpu7'\n  the configuration has: near, far" in result.stderr
    assert run("plan", "--frobnicate").exit_code == 2
    missing = run("plan", "--config", tmp_path / "none.yaml")
    assert missing.exit_code == 78
    assert "there is no such file" in missing.stderr
    (tmp_path / "bad.yaml").write_text("pools: []\n")
    assert run("preflight", "--config", tmp_path / "bad.yaml").exit_code == 78


def test_it_is_a_program(config: Path) -> None:
    argv = [sys.executable, "-m", "engine_provisioner.cli", "plan", "--config", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("near:\n")

"""The home example on the reference machine, from the command line: planned, checked, and never run on the CPU.

The two GPUs are the NVML stand-in's. What else this machine has is its own matter, so a PATH with nothing on it makes
it a machine that lacks everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from contracts.config import Profile
from daemon_core.config_file import load
from tests.integration.llama_orch.conftest import Outcome, run, started
from tests.integration.pool_managerd.support import alive
from tests.plugins.failures import OperatorSees
from tests.support.llamacpp_source import TinyRepository, cuda_toolkit, kept
from tests.support.nvml import FakeGpus
from tests.support.waiting import until
from tests.unit.model_provisioner.heads import write_model

pytest_plugins = ["tests.support.nvml.fixtures"]
pytestmark = pytest.mark.needs("gcc")

EXAMPLE = Path(__file__).parents[3] / "examples/home-profile/config.yaml"
Command = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def command(gpus: FakeGpus, tmp_path: Path) -> Command:
    """A command of llama-orch on the reference machine, with the home example as its configuration."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)

    async def call(*arguments: str, **more: str) -> Outcome:
        return await run(home, arguments, **{**gpus.env, **more})

    return call


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.req("EP-01", "EP-20", "OP-05", "ORCH-3800")
async def test_the_plan_builds_one_engine_with_cuda_and_pulls_the_other(command: Command, tmp_path: Path) -> None:
    done = await command("plan", "--config", str(EXAMPLE))
    assert (done.status, done.stderr) == (0, "")
    large, small = done.stdout.split("small:\n")
    assert large.startswith("large:\n  1. check the GPUs (0)")
    assert "with CUDA" in large
    assert "1. check the GPUs (1)" in small
    assert "rootless podman, else docker" in small
    assert "docker.io/vllm/vllm-openai:v0.32.0" in small
    assert await command("plan", "--config", str(EXAMPLE)) == done
    assert files_below(tmp_path / "home") == []


@pytest.mark.req("EP-08", "EP-20", "ORCH-3804", "OP-05")
async def test_the_preflight_finds_all_that_an_empty_machine_lacks_at_once(command: Command, tmp_path: Path) -> None:
    done = await command("preflight", "--config", str(EXAMPLE), "--json", PATH=str(tmp_path))
    assert done.status == 1
    large, small = json.loads(done.stdout)
    said = " ".join(finding["message"] for finding in large["findings"])
    assert all(tool in said for tool in ("git", "cmake", "ninja", "g++"))
    for pool in (large, small):
        assert [finding for finding in pool["findings"] if finding["check"] == "model"] == []  # they will be fetched
    assert "no container runtime" in " ".join(finding["message"] for finding in small["findings"])
    assert all(finding["why"] and finding["hint"] for pool in (large, small) for finding in pool["findings"])
    assert files_below(tmp_path / "home") == []


@pytest.mark.req("EP-20", "ORCH-3803", "OP-05")
async def test_ensure_fails_with_the_cause_and_leaves_nothing_that_could_run_on_the_cpu(
    command: Command, tmp_path: Path
) -> None:
    done = await command("ensure", "--config", str(EXAMPLE), PATH=str(tmp_path))
    assert done.status == 1
    assert "large: failed\n" in done.stdout
    assert "small: failed\n" in done.stdout
    assert done.stdout.count("  mend: ") >= 2
    assert "large: check the GPUs (0)" in done.stderr
    assert not any("engines.json" in name or "llama-server" in name for name in files_below(tmp_path / "home"))


@pytest.mark.req("ORCH-3803", "OP-05")
async def test_a_card_that_is_not_there_is_found_before_anything_else(
    command: Command, gpus: FakeGpus, operator_sees: OperatorSees
) -> None:
    gpus.remove(1)
    done = await command("ensure", "--config", str(EXAMPLE), "--pool", "small")
    assert done.status == 1
    operator_sees("gpu/card-missing", done.stdout)
    (check,) = done.stderr.splitlines()
    assert check == "small: check the GPUs (1) and the flags of pool small"


@pytest.mark.req("OP-02", "OP-06")
async def test_init_writes_a_pool_for_each_card_that_is_there(command: Command, gpus: FakeGpus, tmp_path: Path) -> None:
    done = await command("init")
    assert done.status == 0, done.stderr
    path = tmp_path / "home/.config/llama-orch/config.yaml"
    config = load(path)
    assert config.profile is Profile.HOME
    assert [pool.devices for pool in config.pools] == [(uuid,) for uuid in gpus.uuids]
    models = [pool.model for pool in config.pools]
    assert ["14B" in models[0], "8B" in models[1]] == [True, True]
    assert "llama-orch preflight" in done.stdout
    planned = await command("plan", "--json")
    assert [pool["pool_id"] for pool in json.loads(planned.stdout)] == ["gpu0", "gpu1"]
    assert path.stat().st_mode & 0o777 == 0o600


# --- a build ----------------------------------------------------------------------------------------------------------

build = pytest.mark.needs("git", "cmake", "ninja", "gcc", "g++")
SOURCE = """\
profile: trial
pools:
  - id: here
    engine: llamacpp
    model: m.gguf
    provisioning: {{mode: source, source: {{repo: "{repo}"}}}}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> TinyRepository:
    """A repository with a llama-server of a few lines, which the command's configuration builds."""
    repository = TinyRepository(tmp_path / "upstream")
    (tmp_path / "home").mkdir(exist_ok=True)
    write_model(tmp_path / "home/m.gguf")
    (tmp_path / "home/source.yaml").write_text(SOURCE.format(repo=repository.url))
    return repository


@build
@pytest.mark.timeout(120)
@pytest.mark.req("EP-20", "EP-19", "ORCH-3805", "OP-06")
async def test_ensure_builds_an_engine_and_says_what_came_of_it(tiny: TinyRepository, tmp_path: Path) -> None:
    home = tmp_path / "home"
    planned = json.loads((await run(home, ["plan", "--config", "source.yaml", "--json"])).stdout)[0]["plan"]["steps"]
    first = await run(home, ["ensure", "--config", "source.yaml"])
    assert first.status == 0, first.stdout + first.stderr
    said = [line.removeprefix("here: ") for line in first.stderr.splitlines()]
    assert [line for line in said if line in {step["detail"] for step in planned}] == [s["detail"] for s in planned]
    heading, command, *facts = first.stdout.splitlines()
    assert heading == f"here: llamacpp {tiny.first[:9]}-cpu {tiny.first}, mode source"
    server = command.removeprefix("  command:  ").split()[0]
    assert server.startswith(str(home / ".cache/llama-orch/llamacpp/builds/"))
    assert any(fact.startswith("  digest:   sha256:") for fact in facts)
    again = await run(home, ["ensure", "--config", "source.yaml"])
    assert (again.status, again.stdout) == (0, first.stdout)
    assert "is built already" in again.stderr
    assert await run(home, ["preflight", "--config", "source.yaml"]) == (0, "here: nothing is in the way\n", "")


@build
@pytest.mark.timeout(120)
@pytest.mark.req("EP-20")
async def test_ctrl_c_ends_a_build_with_all_that_it_started_and_the_next_one_goes_on(
    tiny: TinyRepository, tmp_path: Path
) -> None:
    home, gate = tmp_path / "home", tmp_path / "gate"
    for name in ("here", "on"):
        os.mkfifo(f"{gate}.{name}")
    async with started(home, ["ensure", "--config", "source.yaml"], TINY_GATE=str(gate)) as process:
        compiling = int(await asyncio.to_thread(Path(f"{gate}.here").read_text))
        process.send_signal(signal.SIGINT)
        stdout, stderr = await process.communicate()
    assert (process.returncode, stdout) == (130, b"")
    assert b"Traceback" not in stderr
    await until(lambda: not alive(compiling), "the end of the compilers")
    done = await run(home, ["ensure", "--config", "source.yaml"])
    assert done.status == 0, done.stdout + done.stderr
    assert "goes on with an interrupted build" in done.stderr


@build
@pytest.mark.timeout(120)
@pytest.mark.req("EP-20", "EP-06")
async def test_a_build_that_fails_has_status_1_and_the_lines_that_matter(tiny: TinyRepository, tmp_path: Path) -> None:
    tiny.commit({"part1.c": "int part1(void) { return nothing; }\n"})
    done = await run(tmp_path / "home", ["ensure", "--config", "source.yaml"])
    assert done.status == 1
    assert done.stdout.startswith("here: failed\nengine_build: ")
    assert "part1.c" in done.stdout
    assert "nothing" in done.stdout
    assert "build.log" in done.stdout


@build
@pytest.mark.timeout(600)
@pytest.mark.req("EP-20", "ORCH-3800", "OP-05")
async def test_in_profile_home_the_build_has_cuda_for_the_card_of_the_pool(
    tiny: TinyRepository, command: Command, tmp_path: Path
) -> None:
    text = SOURCE.format(repo=tiny.url).replace("profile: trial", "profile: home")
    (tmp_path / "home/source.yaml").write_text(f"{text}    devices: [0]\n")
    with kept():
        toolkit = cuda_toolkit()
    done = await command("ensure", "--config", "source.yaml", "--json", CUDACXX=str(toolkit / "bin/nvcc"))
    assert done.status == 0, done.stdout + done.stderr
    engine = json.loads(done.stdout)[0]["engine"]
    assert engine["env"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    catalog = json.loads((tmp_path / "home/.local/share/llama-orch/catalog/engines.json").read_text())
    flags = catalog["entries"][engine["engine_catalog_id"]]["build_flags"]
    assert "-DGGML_CUDA=ON" in flags
    assert any("86" in flag for flag in flags if "ARCHITECTURES" in flag)

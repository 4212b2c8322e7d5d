"""What doctor says of the GPUs of a machine, on the stand-in for NVML."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pynvml
import pytest

from llama_orch.doctor.base import Result, Status
from llama_orch.doctor.checks import CHECKS
from llama_orch.doctor.examine import examine
from llama_orch.doctor.machine import Machine
from tests.integration.llama_orch.conftest import run
from tests.plugins.failures import OperatorSees
from tests.support.nvml import FakeGpus

pytest_plugins = ["tests.support.nvml.fixtures"]
pytestmark = [pytest.mark.needs("gcc"), pytest.mark.req("ORCH-3803")]


Doctor = Callable[..., Awaitable[list[Result]]]


@pytest.fixture
def doctor(tmp_path: Path, loaded_gpus: FakeGpus) -> Doctor:
    """Checks the GPUs for these pools, each from the inside of its braces."""

    async def examined(*pools: str, checks: tuple[str, ...] = ("gpus",), **environ: str) -> list[Result]:
        path = tmp_path / "config.yaml"
        listed = ", ".join(f"{{id: {'abc'[number]}, model: x, {pool}}}" for number, pool in enumerate(pools))
        path.write_text(f"pools: [{listed}]\n")
        known = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/tmp"}
        machine = Machine(config_path=path, url=None, environ=known | environ)
        assert machine.config is not None, machine.config_error
        return list(await examine(machine, [check for check in CHECKS if check.name in checks]))

    return examined


def on(devices: str, engine: str = "llamacpp") -> str:
    return f"engine: {engine}, devices: {devices}"


async def test_gpus_that_work_are_named(doctor: Doctor) -> None:
    driver, gpus, capability = await doctor(on("[0, 1]"), checks=("driver", "gpus", "compute_capability"))
    assert driver.what.startswith("driver 550.163.01, CUDA up to 12.4")
    assert gpus.what == "0: NVIDIA GeForce RTX 3090, 24 GiB; 1: NVIDIA GeForce RTX 3060, 12 GiB"
    assert capability.what == "8.6"


async def test_one_gpu_under_two_names_is_a_failure(doctor: Doctor, loaded_gpus: FakeGpus) -> None:
    (failure,) = await doctor(on("[0]"), on(f'["{loaded_gpus.uuids[0]}"]'))
    assert failure.id == "gpus.taken-twice"
    assert failure.what.startswith("pools a and b both want GPU 0")


async def test_a_gpu_that_two_pools_share_is_a_note(doctor: Doctor) -> None:
    fine, shared = await doctor(f"{on('[0]')}, share: true", f"{on('[0]')}, share: true")
    assert (fine.id, shared.id, shared.status) == ("gpus.ok", "gpus.shared", Status.NOTE)


async def test_a_lost_gpu_is_said_once_and_the_others_are_looked_at(
    loaded_gpus: FakeGpus, doctor: Doctor, operator_sees: OperatorSees
) -> None:
    loaded_gpus.lose(0)
    lost, missing = await doctor(on("[0, 7]"))
    assert (lost.id, missing.id) == ("gpus.lost", "gpus.missing")
    assert missing.what == "pool a wants GPU 7, which is not there"
    operator_sees("gpu/lost-as-doctor-says-it", f"{lost.what}\n  why: {lost.why}\n  mend: {lost.mend}")


async def test_a_machine_whose_gpus_are_all_lost_or_whose_driver_fails(loaded_gpus: FakeGpus, doctor: Doctor) -> None:
    loaded_gpus.lose(0)
    loaded_gpus.lose(1)
    assert [result.what for result in await doctor(on("[0]"))] == [
        "GPU 0 has fallen off the bus",
        "GPU 1 has fallen off the bus",
    ]
    loaded_gpus.break_driver(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    driver, gpus = await doctor(on("[0]"), checks=("driver", "gpus"))
    assert (driver.id, driver.mend) == ("driver.mismatch", "reboot")
    assert gpus.status is Status.SKIPPED


async def test_a_gpu_that_is_too_old_for_an_engine(loaded_gpus: FakeGpus, doctor: Doctor) -> None:
    loaded_gpus.change(0, capability="6.1")
    old, new = await doctor(on("[0]", "vllm"), on("[1]", "tgi"), checks=("compute_capability", "lan"))
    assert old.id == "compute_capability.too-low"
    assert old.what.endswith("has compute capability 6.1, and vllm begins at 7.0")
    assert new.id == "lan.ok"


async def test_a_machine_whose_engines_are_all_elsewhere_needs_no_gpu(doctor: Doctor, loaded_gpus: FakeGpus) -> None:
    loaded_gpus.lose(0)
    external = 'engine: openai, provisioning: {mode: external, external: {url: "http://127.0.0.1:9"}}'
    (needless,) = await doctor(external)
    assert needless.status is Status.SKIPPED


async def test_a_toolkit_that_is_newer_than_the_driver_or_older_than_the_compiler(
    doctor: Doctor, tmp_path: Path
) -> None:
    """A toolkit of files: what nvcc prints, and the line of its header that names the newest compiler."""
    root = tmp_path / "cuda"
    (root / "bin").mkdir(parents=True)
    (root / "include/crt").mkdir(parents=True)
    (root / "include/crt/host_config.h").write_text("#if defined(__GNUC__)\n#if __GNUC__ > 5\n#error no\n")
    nvcc = root / "bin/nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.48'\n")
    nvcc.chmod(0o755)
    path = {"CUDACXX": str(nvcc), "PATH": "/usr/bin:/bin"}
    too_old, too_new = await doctor(on("[0]"), checks=("cuda",), **path)
    assert too_old.id == "cuda.driver-too-old"
    assert too_old.what == "CUDA toolkit 13.0, and driver 550.163.01 knows CUDA up to 12.4"
    assert too_new.id == "cuda.compiler-too-new"
    assert "takes up to 5" in too_new.what
    (only,) = await doctor(on("[0]"), checks=("cuda",), **path, NVCC_CCBIN="g++-5")
    assert only.id == "cuda.driver-too-old"


async def test_a_driver_that_hangs_is_told_and_the_program_ends_all_the_same(
    gpus: FakeGpus, tmp_path: Path, operator_sees: OperatorSees
) -> None:
    """The thread that asks it never comes back; the preflight of the engine does not ask again."""
    (tmp_path / "c.yaml").write_text("pools: [{id: a, engine: llamacpp, model: x, devices: [0]}]\n")
    arguments = ["doctor", "--json", "--config", str(tmp_path / "c.yaml")]
    checks = [word for name in ("driver", "gpus", "engine") for word in ("--check", name)]
    gpus.hang()
    async with asyncio.timeout(50):
        done = await run(tmp_path, [*arguments, *checks], **gpus.env)
    assert (done.status, done.stderr) == (1, "")
    driver, other, *_ = json.loads(done.stdout)["checks"]
    assert (driver["id"], other["id"]) == ("driver.hangs", "gpus.skipped")
    operator_sees("gpu/hangs-as-doctor-says-it", f"{driver['what']}\n  why: {driver['why']}\n  mend: {driver['mend']}")

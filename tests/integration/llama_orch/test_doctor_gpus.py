"""What doctor says of the GPUs of a machine, on the stand-in for NVML."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pynvml
import pytest

from llama_orch.doctor.base import Machine, Result, Status
from llama_orch.doctor.checks.gpus import check
from tests.plugins.failures import OperatorSees
from tests.support.nvml import FakeGpus

pytest_plugins = ["tests.support.nvml.fixtures"]
pytestmark = [pytest.mark.needs("gcc"), pytest.mark.req("ORCH-3803")]


Doctor = Callable[[str], Awaitable[list[Result]]]


@pytest.fixture
def doctor(tmp_path: Path, loaded_gpus: FakeGpus) -> Doctor:
    """Checks the GPUs for a pool with these devices."""

    async def examine(devices: str) -> list[Result]:
        path = tmp_path / "config.yaml"
        path.write_text(f"pools: [{{id: a, engine: llamacpp, model: x, devices: {devices}}}]\n")
        machine = Machine(config_path=path, url=None, environ={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/tmp"})
        assert machine.config is not None, machine.config_error
        return list(await check(machine))

    return examine


async def test_gpus_that_work_are_named(doctor: Doctor) -> None:
    (fine,) = await doctor("[0, 1]")
    assert fine.status is Status.OK
    assert fine.what == "driver 550.163.01; 0: NVIDIA GeForce RTX 3090, 24 GiB; 1: NVIDIA GeForce RTX 3060, 12 GiB"


async def test_one_gpu_under_two_names_is_a_failure(tmp_path: Path, loaded_gpus: FakeGpus) -> None:
    path = tmp_path / "config.yaml"
    pools = (
        f"{{id: {name}, engine: llamacpp, model: x, devices: [{device}]}}"
        for name, device in (("a", 0), ("b", loaded_gpus.uuids[0]))
    )
    path.write_text(f"pools: [{', '.join(pools)}]\n")
    machine = Machine(config_path=path, url=None, environ={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/tmp"})
    (failure,) = await check(machine)
    assert failure.status is Status.FAILED
    assert failure.what.startswith("pools a and b both want GPU 0")


async def test_a_lost_gpu_is_said_once_and_the_others_are_looked_at(
    loaded_gpus: FakeGpus, doctor: Doctor, operator_sees: OperatorSees
) -> None:
    loaded_gpus.lose(0)
    lost, missing = await doctor("[0, 7]")
    assert (lost.status, missing.status) == (Status.FAILED, Status.FAILED)
    assert missing.what == "pool a wants GPU 7, which is not there"
    operator_sees("gpu/lost-as-doctor-says-it", f"{lost.what}\n  why: {lost.why}\n  mend: {lost.mend}")


async def test_a_machine_whose_gpus_are_all_lost_or_whose_driver_fails(loaded_gpus: FakeGpus, doctor: Doctor) -> None:
    loaded_gpus.lose(0)
    loaded_gpus.lose(1)
    assert [result.what for result in await doctor("[0]")] == [
        "GPU 0 has fallen off the bus",
        "GPU 1 has fallen off the bus",
    ]
    loaded_gpus.break_driver(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    (failure,) = await doctor("[0]")
    assert (failure.status, failure.mend) == (Status.FAILED, "reboot")


async def test_a_machine_whose_engines_are_all_elsewhere_needs_no_gpu(tmp_path: Path, loaded_gpus: FakeGpus) -> None:
    loaded_gpus.lose(0)
    path = tmp_path / "config.yaml"
    path.write_text(
        "pools: [{id: a, engine: openai, model: x, "
        'provisioning: {mode: external, external: {url: "http://127.0.0.1:9"}}}]\n'
    )
    machine = Machine(config_path=path, url=None, environ={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "/tmp"})
    (needless,) = await check(machine)
    assert needless.status is Status.SKIPPED

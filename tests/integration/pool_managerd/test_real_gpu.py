"""NVML on a real NVIDIA GPU: `pytest -m gpu`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts.pools import Gpu
from engine_provisioner.gpus import gpu_findings, survey_gpus, visible_gpus
from pool_managerd.devices import DeviceProcess, find, on_its_devices
from pool_managerd.gpu import NvmlGpus
from tests.unit.engine_provisioner.conftest import a_pool

pytestmark = pytest.mark.gpu


@pytest.fixture
def nvml() -> Iterator[NvmlGpus]:
    gpus = NvmlGpus()
    yield gpus
    gpus.close()


def check(gpu: Gpu) -> None:
    assert gpu.uuid.startswith("GPU-")
    assert gpu.name
    assert gpu.driver
    assert 0 <= gpu.vram_used_bytes <= gpu.vram_total_bytes
    assert gpu.vram_total_bytes > 1 << 30
    assert gpu.utilization is None or 0 <= gpu.utilization <= 1
    assert float(gpu.compute_capability or "1") >= 1


@pytest.mark.req("PM-06")
def test_a_real_gpu_is_listed_with_its_facts(nvml: NvmlGpus) -> None:
    inventory = nvml.inventory()
    assert (inventory.problem, inventory.lost) == (None, ())
    for gpu in inventory.gpus:
        check(gpu)
        assert find((gpu.uuid,), inventory) == (gpu,)
        assert find((gpu.index,), inventory) == (gpu,)
    assert inventory.gpus


@pytest.mark.req("ORCH-3820")
def test_the_processes_on_a_real_gpu_can_be_told(nvml: NvmlGpus) -> None:
    (first, *_) = nvml.inventory().gpus
    told = nvml.processes()
    assert all(isinstance(process, DeviceProcess) for process in told)
    assert on_its_devices([first.uuid], frozenset({0}), told) is not None


@pytest.mark.req("PM-06")
def test_a_real_gpu_that_is_well_reports_nothing(nvml: NvmlGpus) -> None:
    assert [nvml.events() for _ in range(3)] == [(), (), ()]


@pytest.mark.req("ORCH-3803")
def test_commands_see_a_real_gpu_too() -> None:
    (first, *_) = visible_gpus()
    check(first)
    assert survey_gpus().lost == ()
    assert gpu_findings(a_pool(devices=(first.uuid,)), visible_gpus) == ()

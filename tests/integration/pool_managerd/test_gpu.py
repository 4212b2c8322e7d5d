"""NVML through the real binding, on whatever machine this is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool_managerd.devices import Inventory, Trouble, find
from pool_managerd.gpu import NvmlGpus

HAS_GPU = Path("/dev/nvidiactl").exists()


@pytest.mark.req("ORCH-3803")
@pytest.mark.skipif(HAS_GPU, reason="this machine has a driver")
def test_a_machine_without_a_driver_is_a_value_that_says_so() -> None:
    gpus = NvmlGpus()
    inventory = gpus.inventory()
    assert inventory.gpus == ()
    assert inventory.problem == "the NVIDIA driver's library libnvidia-ml.so.1 is not there"
    assert gpus.processes() == ()
    found = find((0,), inventory)
    assert isinstance(found, Trouble)
    assert found.hint == "install the NVIDIA driver, or set profile: trial to look around without a GPU"
    gpus.close()


@pytest.mark.gpu
def test_a_real_gpu_is_listed_with_its_memory() -> None:
    gpus = NvmlGpus()
    inventory: Inventory = gpus.inventory()
    assert inventory.problem is None
    first = inventory.gpus[0]
    assert first.uuid.startswith("GPU-")
    assert 0 <= first.vram_used_bytes <= first.vram_total_bytes
    assert find((first.uuid,), inventory) == (first,)
    assert isinstance(gpus.processes(), tuple)
    gpus.close()

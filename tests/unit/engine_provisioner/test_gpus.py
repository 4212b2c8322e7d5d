from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.pools import Cause, Gpu
from engine_provisioner.errors import error_of
from engine_provisioner.gpus import GpuUnavailable, gpu_findings, mask_of, unavailable, visible_gpus
from tests.plugins.failures import OperatorSees
from tests.unit.engine_provisioner.conftest import GPUS, a_pool


def findings(*devices: int | str, gpus: tuple[Gpu, ...] = GPUS) -> list[str]:
    return [finding.message for finding in gpu_findings(a_pool(devices=devices), lambda: gpus)]


def test_the_devices_of_a_pool_must_be_there(operator_sees: OperatorSees) -> None:
    assert findings(0, 1) == []
    assert findings(GPUS[1].uuid, "GPU-0f2c0000") == []
    assert findings(2, "GPU-ffffffff") == [
        "pool gpu0 wants GPU 2, which is not there",
        "pool gpu0 wants GPU GPU-ffffffff, which is not there",
        "pool gpu0 names some of its GPUs by index and some by UUID",
    ]
    (finding,) = gpu_findings(a_pool(devices=(5,)), lambda: GPUS)
    assert finding.hint == f"set pools[].devices to some of: 0 ({GPUS[0].uuid}), 1 ({GPUS[1].uuid})"
    operator_sees("gpu/not-there", error_of(Cause.NO_GPU, (finding,)).render())


@pytest.mark.req("ORCH-3803")
def test_a_machine_without_a_gpu_is_said_so(operator_sees: OperatorSees) -> None:
    found = gpu_findings(a_pool(), lambda: ())
    operator_sees("gpu/none", error_of(Cause.NO_GPU, found).render())

    def no_driver() -> NoReturn:
        raise GpuUnavailable("no driver", "install it")

    (finding,) = gpu_findings(a_pool(), no_driver)
    assert (finding.message, finding.hint) == ("no driver", "install it")


@pytest.mark.req("ORCH-3803")
@pytest.mark.parametrize(
    ("code", "name"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no-driver"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "driver-updated"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver-not-loaded"),
    ],
)
def test_each_way_of_having_no_driver_has_its_mend(code: int, name: str, operator_sees: OperatorSees) -> None:
    def no_driver() -> NoReturn:
        raise unavailable(pynvml.NVMLError(code))

    operator_sees(f"gpu/{name}", error_of(Cause.NO_GPU, gpu_findings(a_pool(), no_driver)).render())


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_this_machine_has_no_gpu_and_says_why() -> None:
    with pytest.raises(GpuUnavailable, match="driver") as caught:
        visible_gpus()
    assert caught.value.hint


def test_a_pool_without_devices_sees_every_gpu() -> None:
    assert mask_of(a_pool(devices=())) == {}


@given(st.lists(st.integers(0, 3), unique=True, min_size=1))
def test_a_mask_shows_the_devices_of_the_pool_and_no_other(devices: list[int]) -> None:
    mask = mask_of(a_pool(devices=tuple(devices)))
    assert mask["CUDA_VISIBLE_DEVICES"] == ",".join(map(str, devices))
    assert mask["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"

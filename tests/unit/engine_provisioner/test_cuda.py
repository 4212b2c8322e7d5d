from __future__ import annotations

import msgspec
import pytest

from engine_provisioner.cuda import (
    Toolkit,
    architectures,
    candidates,
    cuda_text,
    devices_of,
    known_architectures,
    numbers_in,
    release_in,
    root_of,
    unsupported,
)
from tests.unit.engine_provisioner.conftest import GPUS, a_pool

LISTING = "compute_75\ncompute_80\ncompute_86\ncompute_89\ncompute_90\ncompute_120\n"
VERSION = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.8, V12.8.61\n"


@pytest.mark.req("EP-05")
def test_a_named_compiler_comes_first_then_the_one_on_path_then_the_usual_places() -> None:
    environ = {"CUDACXX": "/mine/nvcc", "CUDA_HOME": "/home/cuda/", "CUDA_PATH": "/path/cuda"}
    versioned = ("/usr/local/cuda-9.2", "/usr/local/cuda-12.8", "/usr/local/cuda-12.10")
    assert list(candidates(environ, "/usr/bin/nvcc", versioned)) == [
        "/mine/nvcc",
        "/usr/bin/nvcc",
        "/home/cuda/bin/nvcc",
        "/path/cuda/bin/nvcc",
        "/usr/local/cuda/bin/nvcc",
        "/opt/cuda/bin/nvcc",
        "/usr/lib/cuda/bin/nvcc",
        "/usr/lib/nvidia-cuda-toolkit/bin/nvcc",
        "/usr/local/cuda-12.10/bin/nvcc",
        "/usr/local/cuda-12.8/bin/nvcc",
        "/usr/local/cuda-9.2/bin/nvcc",
    ]
    assert next(candidates({"CUDACXX": " "}, None, ())) == "/usr/local/cuda/bin/nvcc"


@pytest.mark.req("EP-05")
def test_a_toolkit_is_hinted_by_its_root() -> None:
    assert root_of("/opt/cuda/bin/nvcc") == "/opt/cuda"
    assert root_of("nvcc") == "/"
    assert Toolkit(nvcc="/opt/cuda/bin/nvcc", root="/opt/cuda").definitions == (
        ("CMAKE_CUDA_COMPILER", "/opt/cuda/bin/nvcc"),
        ("CUDAToolkit_ROOT", "/opt/cuda"),
    )
    assert Toolkit(nvcc="/usr/bin/nvcc").definitions == (("CMAKE_CUDA_COMPILER", "/usr/bin/nvcc"),)


def test_a_build_is_for_the_gpus_of_its_pool() -> None:
    def gpus(*capabilities: str | None) -> str:
        return architectures([msgspec.structs.replace(GPUS[0], compute_capability=each) for each in capabilities])

    assert gpus("8.6") == "86"
    assert gpus("8.9", "8.6", "8.6", "12.0") == "86;89;120"
    assert gpus("8.6", None) == "native"
    assert gpus("odd") == "native"
    assert gpus() == "native"
    assert devices_of(a_pool(devices=(1,)), GPUS) == GPUS[1:]
    assert devices_of(a_pool(devices=(GPUS[0].uuid[:12],)), GPUS) == GPUS[:1]
    assert devices_of(a_pool(devices=()), GPUS) == GPUS


def test_a_toolkit_that_cannot_build_for_a_gpu_is_told() -> None:
    known = known_architectures(LISTING)
    assert known == (75, 80, 86, 89, 90, 120)
    assert known_architectures("nvcc fatal: Unknown option") == ()
    assert release_in(VERSION) == "12.8"
    assert release_in("") is None
    assert numbers_in("86-real;120a;native;") == (86, 120)
    assert unsupported((86,), known, "12.8") is None
    assert unsupported((86,), (), "11.0") is None  # it does not tell
    assert unsupported((86, 121), known, "12.8") == (
        "CUDA 12.8 does not know compute capability 12.1",
        "install a newer CUDA toolkit: this one ends at 12.0",
    )
    assert unsupported((61,), known, "13.0") == (
        "CUDA 13.0 does not know compute capability 6.1",
        "install an older CUDA toolkit: this one begins at 7.5",
    )


def test_a_version_of_cuda_reads_as_people_write_it() -> None:
    assert cuda_text(12_040) == "12.4"
    assert cuda_text(13_000) == "13.0"

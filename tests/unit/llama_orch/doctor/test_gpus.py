import pytest

from contracts.config import Profile
from contracts.engines import Finding
from engine_provisioner.cuda import Driver
from engine_provisioner.gpu_faults import Nvml, lost_gpu
from llama_orch.doctor.judge import compute_capability, cuda, gpus
from tests.unit.llama_orch.doctor.support import DEBIAN, gpu, ids, pools

DRIVER = Driver(version="550.163.01", cuda=12_040)
LLAMA = "engine: llamacpp, model: x"
VLLM = "engine: vllm, model: x"


def test_gpus_that_are_there_lost_missing_and_wanted_twice() -> None:
    one, two = pools(f"{LLAMA}, devices: [0]", f"{LLAMA}, devices: [1]")
    both = (gpu(0), gpu(1))
    assert ids(gpus.judge((one, two), both, (), ())) == ["gpus.ok"]
    assert ids(gpus.judge((one, two), (), (), ())) == ["gpus.none"]
    lost = lost_gpu(1, Nvml.GPU_IS_LOST, "")
    missing = Finding(check="gpu", message="pool p0 wants GPU 7", why="", hint="set devices")
    assert ids(gpus.judge((one, two), both[:1], (lost,), (missing,))) == ["gpus.lost", "gpus.missing"]
    (twin,) = pools(f'{LLAMA}, devices: ["{gpu(0).uuid}"]')
    assert ids(gpus.judge((one, twin), both, (), ())) == ["gpus.taken-twice"]


def test_a_gpu_that_is_shared_on_purpose_is_a_note_beside_what_is_there() -> None:
    shared = pools(f"{LLAMA}, devices: [0], share: true", f"{LLAMA}, devices: [0], share: true")
    found = gpus.judge(shared, (gpu(0),), (), ())
    assert ids(found) == ["gpus.ok", "gpus.shared"]
    assert found[1].what == f"pools p0 and p1 share GPU 0 (RTX 3090, {gpu(0).uuid})"


def flags(value: str) -> str:
    return f"{LLAMA}, devices: [0], provisioning: {{mode: source, source: {{cmake_flags: ['{value}']}}}}"


ARCHITECTURES = "-DCMAKE_CUDA_ARCHITECTURES="


@pytest.mark.parametrize(
    ("pool", "capability", "expected"),
    [
        (LLAMA, "8.6", "ok"),
        (LLAMA, None, "skipped"),
        (LLAMA, "3.5", "too-low"),
        (VLLM, "6.1", "too-low"),
        (VLLM, "7.5", "no-bfloat16"),
        (f'{VLLM}, flags: ["--dtype", "half"]', "7.5", "ok"),
        (f'{VLLM}, flags: ["--dtype=half"]', "7.5", "ok"),
        (VLLM, "8.0", "ok"),
        (flags(f"{ARCHITECTURES}86-real"), "8.6", "ok"),
        (flags(f"{ARCHITECTURES}80-real"), "8.6", "ok"),  # compiled code runs within a generation
        (flags(f"{ARCHITECTURES}89-real"), "8.6", "not-built-for"),
        (flags(f"{ARCHITECTURES}86-real"), "7.5", "not-built-for"),
        (flags(f"{ARCHITECTURES}86-real"), "12.0", "not-built-for"),
        (flags(f"{ARCHITECTURES}86"), "12.0", "compiled-at-start"),
        (flags(f"{ARCHITECTURES}90a"), "12.0", "not-built-for"),  # what is made for one generation alone stays there
        (flags(f"{ARCHITECTURES}75;86"), "8.9", "ok"),
        (flags(f"{ARCHITECTURES}native"), "8.9", "ok"),
        (flags(f"{ARCHITECTURES}all-major"), "8.9", "ok"),
        (flags("-DGGML_CUDA_F16=ON"), "8.9", "ok"),
    ],
)
def test_a_gpu_that_is_too_old_or_that_no_build_is_for(pool: str, capability: str | None, expected: str) -> None:
    found = compute_capability.judge(pools(pool), Profile.HOME, (gpu(0, capability),))
    assert ids(found) == [f"compute_capability.{expected}"]


def test_an_external_pool_needs_no_capability() -> None:
    elsewhere = 'engine: vllm, model: x, provisioning: {mode: external, external: {url: "http://127.0.0.1:9"}}'
    assert ids(compute_capability.judge(pools(elsewhere), Profile.HOME, (gpu(0, "6.1"),))) == ["compute_capability.ok"]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (cuda.Facts(), ["cuda.skipped"]),
        (cuda.Facts(nvcc="/n", release="12.4", driver=DRIVER), ["cuda.ok"]),
        (cuda.Facts(nvcc="/n", release="12.4"), ["cuda.ok"]),
        (cuda.Facts(nvcc="/n", release="12.8", driver=DRIVER), ["cuda.driver-behind"]),
        (cuda.Facts(nvcc="/n", release="13.0", driver=DRIVER), ["cuda.driver-too-old"]),
        (cuda.Facts(nvcc="/n", release="11.8", driver=DRIVER), ["cuda.ok"]),
        (cuda.Facts(nvcc="/n", release="12.4", gcc=14, newest_gcc=13), ["cuda.compiler-too-new"]),
        (cuda.Facts(nvcc="/n", release="12.4", gcc=13, newest_gcc=13), ["cuda.ok"]),
        (
            cuda.Facts(nvcc="/n", release="13.0", driver=DRIVER, gcc=16, newest_gcc=15),
            ["cuda.driver-too-old", "cuda.compiler-too-new"],
        ),
    ],
)
def test_the_toolkit_fits_the_driver_and_the_compiler(facts: cuda.Facts, expected: list[str]) -> None:
    assert ids(cuda.judge(facts, ("p0",), DEBIAN)) == expected
    assert ids(cuda.judge(facts, (), DEBIAN)) == ["cuda.skipped"]


def test_the_newest_compiler_is_read_from_the_toolkits_header() -> None:
    assert cuda.newest_gcc("#if defined(__GNUC__)\n\n#if __GNUC__ > 15\n#error -- unsupported\n") == 15
    assert cuda.newest_gcc("") is None

import pytest
from msgspec.structs import replace

from container_runtime.base import Detection
from container_runtime.cdi import CdiFile
from contracts.engines import Finding
from llama_orch.doctor.judge import subuid, toolkit_cdi
from llama_orch.doctor.judge.containers import Runtime, judge_docker, judge_podman
from tests.unit.llama_orch.doctor.support import ARCH, DEBIAN, ids

POOLS = ("p0",)


def runtime(*, usable: bool, installed: bool = True, **info: object) -> Runtime:
    hint = "" if usable else "mend it"
    seen = Detection(runtime="r", usable=usable, reason="because", hint=hint)
    return Runtime(installed=installed, detection=seen, info=info)


GOOD, BAD, NONE = runtime(usable=True), runtime(usable=False), runtime(usable=False, installed=False)


@pytest.mark.parametrize(
    ("podman", "docker", "expected"),
    [
        (GOOD, NONE, ["podman.ok", "docker.skipped"]),
        (BAD, GOOD, ["podman.unusable", "docker.ok", "docker.root"]),
        (BAD, BAD, ["podman.no-runtime", "docker.unusable"]),
        (NONE, NONE, ["podman.no-runtime", "docker.skipped"]),
        (BAD, runtime(usable=True, SecurityOptions=["name=rootless"]), ["podman.unusable", "docker.ok"]),
        (runtime(usable=True, store={"graphDriverName": "vfs"}), NONE, ["podman.ok", "podman.vfs", "docker.skipped"]),
        (
            runtime(usable=True, host={"cgroupManager": "cgroupfs", "cgroupVersion": "v2"}),
            NONE,
            ["podman.ok", "podman.cgroupfs", "docker.skipped"],
        ),
        (
            runtime(usable=True, host={"cgroupManager": "cgroupfs", "cgroupVersion": "v1"}),
            NONE,
            ["podman.ok", "podman.cgroup-v1", "docker.skipped"],
        ),
    ],
)
def test_one_runtime_must_serve_and_the_other_is_not_missed(
    podman: Runtime, docker: Runtime, expected: list[str]
) -> None:
    assert ids([*judge_podman(podman, docker, POOLS), *judge_docker(podman, docker, POOLS)]) == expected
    assert ids([*judge_podman(podman, docker, ()), *judge_docker(podman, docker, ())]) == [
        "podman.skipped",
        "docker.skipped",
    ]


FACTS = subuid.Facts(
    user="ada",
    uid=1000,
    subuid="ada:100000:65536\n",
    subgid="ada:100000:65536\n",
    helpers={"newuidmap": True, "newgidmap": True},
)


def facts(**more: object) -> subuid.Facts:
    return replace(FACTS, **more)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (facts(), ["ok"]),
        (facts(subuid="1000:100000:65536"), ["ok"]),
        (facts(subuid="ada:100000:65536\nada:200000:65536\n"), ["ok"]),
        (facts(subuid=""), ["missing"]),
        (facts(subuid="", subgid=""), ["missing", "missing"]),
        (facts(subuid="bob:100000:65536\n"), ["missing"]),
        (facts(subuid="ada:100000:1000\n"), ["missing"]),
        (facts(subuid="# ada:1:2\nada:x:65536\n"), ["missing"]),
        (facts(subuid="", subgid="", other_source=True), ["ok"]),
        (facts(subuid="ada:100000:65536\nbob:165535:10\n"), ["overlap"]),
        (facts(subuid="ada:100000:65536\nbob:165536:10\n"), ["ok"]),
        (facts(subuid="ada:100000:65536\nbob:99990:10\n"), ["ok"]),
        (facts(helpers={"newuidmap": False, "newgidmap": True}), ["no-helper"]),
        (facts(uid=0), ["skipped"]),
    ],
)
def test_the_ranges_of_rootless_containers(seen: subuid.Facts, expected: list[str]) -> None:
    assert ids(subuid.judge(seen, POOLS, DEBIAN, podman=True)) == [f"subuid.{each}" for each in expected]


def test_ranges_matter_only_where_podman_has_to_start_containers() -> None:
    assert ids(subuid.judge(facts(subuid=""), (), DEBIAN, podman=True)) == ["subuid.skipped"]
    assert ids(subuid.judge(facts(subuid=""), POOLS, DEBIAN, podman=False)) == ["subuid.skipped"]


@pytest.mark.parametrize(("distribution", "package"), [(DEBIAN, "apt install uidmap"), (ARCH, "pacman -S shadow")])
def test_the_package_of_the_helpers_has_the_name_of_the_distribution(
    distribution: dict[str, str], package: str
) -> None:
    (found,) = subuid.judge(facts(helpers={"newuidmap": False}), POOLS, distribution, podman=True)
    assert package in (found.mend or "")


def file(path: str, driver: str | None = None, *devices: str, problem: str | None = None) -> toolkit_cdi.File:
    return toolkit_cdi.File(offers=CdiFile(path=path, devices=devices, problem=problem), driver=driver)


MISSING = Finding(check="container-device", message="no CDI file", why="", hint="generate")
GPU0 = "nvidia.com/gpu=0"


@pytest.mark.parametrize(
    ("files", "found", "driver", "expected"),
    [
        ([file("/etc/cdi/nvidia.yaml", "550.1", GPU0)], (), "550.1", ["ok"]),
        ([file("/etc/cdi/nvidia.yaml", "535.1", GPU0)], (), "550.1", ["stale"]),
        ([file("/etc/cdi/nvidia.yaml", "535.1", GPU0)], (), None, ["ok"]),
        ([file("/etc/cdi/nvidia.yaml", "535.1", problem="it cannot be read")], (MISSING,), "550.1", ["missing"]),
        ([file("/etc/cdi/nvidia.yaml", None, GPU0)], (), "550.1", ["ok"]),
        ([], (MISSING,), "550.1", ["missing"]),
        ([file("/etc/cdi/a.yaml", None, GPU0), file("/etc/cdi/b.json", None, GPU0)], (), "1", ["contradicted"]),
        ([file("/etc/cdi/a.yaml", None, GPU0), file("/var/run/cdi/a.yaml", None, GPU0)], (), "1", ["ok"]),
    ],
)
def test_a_cdi_file_is_there_fresh_and_alone(
    files: list[toolkit_cdi.File], found: tuple[Finding, ...], driver: str | None, expected: list[str]
) -> None:
    results = toolkit_cdi.judge(files, found, driver, POOLS, None)
    assert ids(results) == [f"toolkit_cdi.{each}" for each in expected]


def test_cdi_matters_only_for_containers_on_gpus_and_with_a_runtime() -> None:
    assert ids(toolkit_cdi.judge([], (MISSING,), "1", (), None)) == ["toolkit_cdi.skipped"]
    assert ids(toolkit_cdi.judge([], (MISSING,), "1", POOLS, "trial")) == ["toolkit_cdi.skipped"]
    assert ids(toolkit_cdi.judge([], (), "1", POOLS, None, runtime=False)) == ["toolkit_cdi.skipped"]


def test_the_driver_of_a_cdi_file_is_read_from_its_libraries() -> None:
    mounts = "- hostPath: /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.163.01\n"
    assert toolkit_cdi.driver_in(mounts) == "550.163.01"
    assert toolkit_cdi.driver_in("- hostPath: /usr/lib/libcuda.so.1\n") is None

"""What a build needs of the machine, on machines made to order: their tools are scripts that answer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from contracts.config import Mode, Outbound, Policy, Pool, Profile, Provisioning, SourceBuild, Verdict
from contracts.engines import Finding
from contracts.pools import Cause
from engine_provisioner import toolchain
from engine_provisioner.build_cache import BuildCache, Stamp, read_tail
from engine_provisioner.build_tools import Need, install_command, install_cublas_command
from engine_provisioner.cmake import Options, options_for
from engine_provisioner.cuda import Driver, Toolkit
from engine_provisioner.errors import ProvisionError, error_of
from engine_provisioner.gpus import GpuUnavailable
from engine_provisioner.host import Host
from engine_provisioner.registry import provider_for
from tests.plugins.failures import OperatorSees
from tests.unit.engine_provisioner.conftest import GPUS, MakeHost, a_pool

DEBIAN = {"ID": "debian"}
OPTIONS = options_for(Profile.HOME, (), "86")
CMAKE = "cmake version 3.25.1"
NVCC = "Cuda compilation tools, release 12.8, V12.8.61"
ARCHITECTURES = "compute_75\ncompute_86\ncompute_120"


class Machine:
    """The tools of a machine."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.root = root

    def has(self, *names: str) -> None:
        for name in names:
            self.tool(self.bin / name, {})

    def tool(self, path: Path, answers: dict[str, str]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        arms = "".join(f"{flag}) echo '{text}';;\n" for flag, text in answers.items())
        path.write_text(f"#!/bin/sh\ncase $1 in\n{arms}*) exit 1;;\nesac\n")
        path.chmod(0o755)
        return path

    def whole(self) -> None:
        """Everything that a build needs."""
        self.has("git", "ninja", "gcc", "g++")
        self.tool(self.bin / "cmake", {"--version": CMAKE})
        self.nvcc(self.bin / "nvcc")

    def nvcc(self, path: Path) -> Path:
        return self.tool(path, {"--version": NVCC, "--list-gpu-arch": ARCHITECTURES})


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def source_pool(**parts: object) -> Pool:
    source = SourceBuild(**parts)  # type: ignore[arg-type]
    return a_pool(provisioning=Provisioning(mode=Mode.SOURCE, source=source))


async def lacking(host: Host, profile: Profile = Profile.HOME, options: Options = OPTIONS) -> tuple[Finding, ...]:
    return (await toolchain.look_around(host, profile, options))[1]


@pytest.mark.req("EP-08")
async def test_one_preflight_finds_all_that_is_missing(
    machine: Machine, make_host: MakeHost, tmp_path: Path, operator_sees: OperatorSees
) -> None:
    machine.bin.mkdir()
    (tmp_path / "os-release").write_text("ID=debian\n")
    environ = {"PATH": str(machine.bin), "CUDACXX": "/nowhere/nvcc", "CUDA_HOME": "/nowhere"}
    host = make_host(os_release=tmp_path / "os-release", environ=environ, free_bytes=lambda _: 1 << 30)
    found = [finding for finding in await lacking(host) if "nvcc" not in finding.message]  # /usr/local may have one
    found += toolchain.room_findings(host, Profile.HOME)
    assert [finding.hint for finding in found[:-1]] == [
        "sudo apt install git",
        "sudo apt install cmake",
        "sudo apt install ninja-build",
        "sudo apt install build-essential",
    ]
    operator_sees("source/nothing-is-there", error_of(Cause.ENGINE_BUILD, tuple(found)).render())

    pool = source_pool(cmake_flags=("-DGGML_CUDA=OFF",), repo="https://me:sesame@example.org/x", ref="-x")
    checks = [finding.check for finding in await provider_for(pool, Profile.HOME, host).preflight(pool)]
    assert checks[:3] == ["source", "source", "cmake"]
    assert checks.count("tools") >= 4
    assert checks[-1] == "cache"
    with pytest.raises(ProvisionError) as caught:
        await provider_for(pool, Profile.HOME, host).ensure(pool, lambda _: None)
    assert caught.value.cause is Cause.ENGINE_BUILD
    assert "sesame" not in caught.value.render()


@pytest.mark.req("EP-08")
async def test_without_git_all_the_rest_is_said_too(machine: Machine, make_host: MakeHost) -> None:
    machine.has("gcc", "g++")
    pool = source_pool()
    with pytest.raises(ProvisionError) as caught:
        await provider_for(pool, Profile.HOME, make_host()).ensure(pool, lambda _: None)
    messages = [finding.message for finding in caught.value.findings]
    assert messages[:3] == [
        "there is no git on PATH",
        "there is no cmake on PATH",
        "there is neither ninja nor make on PATH",
    ]


@pytest.mark.req("EP-08")
async def test_a_machine_with_everything_lacks_nothing(machine: Machine, make_host: MakeHost) -> None:
    machine.whole()
    machine.has("ccache")
    tools, found = await toolchain.look_around(make_host(), Profile.HOME, OPTIONS)
    assert found == ()
    assert tools is not None
    assert (tools.generator, tools.release) == ("Ninja", "12.8")
    ccache, nvcc = str(machine.bin / "ccache"), str(machine.bin / "nvcc")
    assert dict(tools.definitions) == {
        "GGML_CCACHE": "OFF",
        "CMAKE_C_COMPILER_LAUNCHER": ccache,
        "CMAKE_CXX_COMPILER_LAUNCHER": ccache,
        "CMAKE_CUDA_COMPILER_LAUNCHER": ccache,
        "CMAKE_CUDA_COMPILER": nvcc,
    }
    assert await provider_for(source_pool(), Profile.HOME, make_host()).preflight(source_pool()) == ()
    tools, _ = await toolchain.look_around(make_host(), Profile.TRIAL, options_for(Profile.TRIAL, ()))
    assert tools is not None
    assert tools.toolkit is None
    (machine.bin / "ninja").rename(machine.bin / "make")
    tools, _ = await toolchain.look_around(make_host(), Profile.HOME, OPTIONS)
    assert tools is not None
    assert tools.generator == "Unix Makefiles"


@pytest.mark.req("EP-08")
async def test_a_driver_that_is_a_generation_behind_the_toolkit_is_told_before_anything_is_built(
    machine: Machine, make_host: MakeHost
) -> None:
    machine.whole()

    async def told(newest: int | None) -> tuple[Finding, ...]:
        host = make_host(driver=lambda: Driver(version="450.1", cuda=newest))
        return await provider_for(source_pool(), Profile.HOME, host).preflight(source_pool())

    (finding,) = await told(11_040)
    assert finding.check == "cuda"
    assert finding.message == "CUDA toolkit 12.8, and driver 450.1 knows CUDA up to 11.4"
    assert finding.hint is not None
    assert finding.hint.endswith("or install a CUDA toolkit 11.x and set CUDACXX to its nvcc")
    assert await told(12_040) == await told(13_000) == await told(None) == ()
    (machine.bin / "cmake").unlink()
    assert [found.check for found in await told(11_040)] == ["tools", "cuda"]


async def test_a_cmake_that_is_too_old_is_told(
    machine: Machine, make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    machine.whole()
    host = make_host()
    machine.tool(machine.bin / "cmake", {"--version": "cmake version 3.16.3"})
    found = await lacking(host)
    operator_sees("source/cmake-too-old", error_of(Cause.ENGINE_BUILD, found).render())
    assert await lacking(host, Profile.TRIAL, options_for(Profile.TRIAL, ())) == ()
    machine.tool(machine.bin / "cmake", {"--version": "cmake version 3.22.1"})
    assert await lacking(host) == ()
    (finding,) = await lacking(host, options=options_for(Profile.HOME, ()))
    assert finding.message.endswith("3.24 is the first that will do")  # to ask the GPUs themselves
    machine.tool(machine.bin / "cmake", {})
    (finding,) = await lacking(host)
    assert "does not answer as CMake does" in finding.message


async def test_compilers_are_those_that_cmake_will_take(machine: Machine, make_host: MakeHost) -> None:
    machine.whole()
    assert await lacking(make_host(environ={"PATH": str(machine.bin), "CC": "gcc -m64", "CXX": "g++"})) == ()
    (finding,) = await lacking(make_host(environ={"PATH": str(machine.bin), "CXX": "icpx"}))
    assert finding.message == "there is no CXX=icpx on PATH"
    (machine.bin / "g++").rename(machine.bin / "clang++")
    assert await lacking(make_host()) == ()
    (machine.bin / "clang++").unlink()
    (machine.bin / "gcc").unlink()
    (finding,) = await lacking(make_host())
    assert finding.message == "there is no gcc and no g++ on PATH"


@pytest.mark.req("EP-05")
def test_a_cuda_toolkit_is_found_off_the_path_and_hinted(machine: Machine, make_host: MakeHost) -> None:
    def found(**environ: str) -> Toolkit | None:
        return toolchain.find_toolkit(make_host(environ={"PATH": str(machine.bin)} | environ), versioned=())

    root = machine.root / "cuda-12.8"
    nvcc = machine.nvcc(root / "bin/nvcc")
    hinted = Toolkit(nvcc=str(nvcc), root=str(root))
    assert found(CUDA_HOME=str(root)) == found(CUDA_PATH=str(root)) == found(CUDACXX=str(nvcc)) == hinted
    # A wrapper on PATH belongs to no toolkit, and is asked itself where its own is.
    wrapper = machine.nvcc(machine.bin / "nvcc")
    assert found(CUDA_HOME=str(root)) == Toolkit(nvcc=str(wrapper))
    (machine.root / "include").mkdir()
    (machine.root / "include/cuda_runtime.h").touch()
    assert found() == Toolkit(nvcc=str(wrapper), root=str(machine.root))


async def test_a_toolkit_that_does_not_know_the_gpu_is_told(
    machine: Machine, make_host: MakeHost, operator_sees: OperatorSees
) -> None:
    machine.whole()
    (finding,) = await lacking(make_host(), options=options_for(Profile.HOME, (), "121"))
    operator_sees("source/cuda-too-old-for-the-gpu", error_of(Cause.ENGINE_BUILD, (finding,)).render())
    (finding,) = await lacking(make_host(), options=options_for(Profile.HOME, (), "61"))
    assert finding.hint == "install an older CUDA toolkit: this one begins at 7.5"
    machine.tool(machine.bin / "nvcc", {})
    (finding,) = await lacking(make_host())
    assert "does not answer as nvcc does" in finding.message


@pytest.mark.req("ORCH-3803")
async def test_a_preflight_without_a_driver_still_finds_what_else_is_missing(
    machine: Machine, make_host: MakeHost
) -> None:
    def no_driver() -> NoReturn:
        raise GpuUnavailable("no driver", "install it")

    machine.whole()
    (machine.bin / "git").unlink()
    host = make_host(gpus=no_driver)
    checks = [
        finding.check for finding in await provider_for(source_pool(), Profile.HOME, host).preflight(source_pool())
    ]
    assert checks == ["gpu", "tools"]


async def test_policy_is_asked_before_the_network(machine: Machine, make_host: MakeHost) -> None:
    machine.whole()
    host = make_host(policy=Policy(outbound=Outbound(default=Verdict.DENY)))
    (finding,) = await provider_for(source_pool(), Profile.HOME, host).preflight(source_pool())
    assert finding.check == "policy"
    with pytest.raises(ProvisionError) as caught:
        await provider_for(source_pool(), Profile.HOME, host).ensure(source_pool(), lambda _: None)
    assert caught.value.cause is Cause.POLICY_DENIED


def test_room_is_looked_for_where_the_cache_will_be(make_host: MakeHost, operator_sees: OperatorSees) -> None:
    host = make_host(free_bytes=lambda _: 3 << 29)
    operator_sees("source/no-room", error_of(Cause.ENGINE_BUILD, toolchain.room_findings(host, Profile.HOME)).render())
    assert toolchain.room_findings(host, Profile.TRIAL) == ()

    def broken(_: Path) -> NoReturn:
        raise OSError(5, "Input/output error")

    (finding,) = toolchain.room_findings(make_host(free_bytes=broken), Profile.HOME)
    assert finding.message.endswith(": Input/output error")


def test_each_family_has_its_own_names() -> None:
    def hint(need: Need, identifier: str) -> str:
        return install_command(need, {"ID": identifier})

    assert hint(Need.GENERATOR, "arch") == "sudo pacman -S ninja"
    assert hint(Need.GENERATOR, "fedora") == "sudo dnf install ninja-build"
    assert hint(Need.NVCC, "arch") == "sudo pacman -S cuda"
    assert hint(Need.NVCC, "opensuse-leap") == "sudo zypper install cuda-toolkit"
    assert hint(Need.GIT, "") == "install git with the package manager of this system"


def test_cublas_comes_from_where_the_toolkit_came_from() -> None:
    assert install_cublas_command(DEBIAN, "13.0", "/usr/local/cuda-13.0") == "sudo apt install libcublas-dev-13-0"
    assert install_cublas_command({"ID": "rhel"}, "12.8", "/usr/local/cuda") == "sudo dnf install libcublas-devel-12-8"
    assert install_cublas_command(DEBIAN, "12.4", "/usr") == "sudo apt install nvidia-cuda-toolkit"
    assert install_cublas_command(DEBIAN, None, "/usr/local/cuda") == "sudo apt install nvidia-cuda-toolkit"
    assert install_cublas_command({"ID": "arch"}, "13.0", "/opt/cuda") == "sudo pacman -S cuda"


def test_the_gpus_of_the_pool_decide_what_is_built(make_host: MakeHost) -> None:
    gpus = tuple(
        msgspec.structs.replace(gpu, compute_capability=capability)
        for gpu, capability in zip(GPUS, ("8.6", "8.9"), strict=True)
    )
    host = make_host(gpus=lambda: gpus)
    assert toolchain.devices_and_architectures(a_pool(devices=(1,)), host) == ((GPUS[1].name,), "89")


# --- what is kept -----------------------------------------------------------------------------------------------------

STAMP = Stamp(repo="r", ref="m", commit="c" * 40, definitions=(), program="llama-server", digest="d", size_bytes=3)


def test_a_build_is_finished_when_its_stamp_and_its_program_say_so(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    program = cache.build("b") / "llama-server"
    assert cache.finished("b") is None
    program.parent.mkdir(parents=True)
    program.write_text("abc")
    program.chmod(0o755)
    cache.finish("b", STAMP)
    assert cache.finished("b") == (STAMP, program)
    program.chmod(0o644)
    assert cache.finished("b") is None
    program.chmod(0o755)
    program.write_text("ab")
    assert cache.finished("b") is None
    program.write_text("abc")
    (cache.build("b") / "stamp.json").write_bytes(b'{"repo": "\xff"')
    assert cache.finished("b") is None
    cache.discard("b")
    cache.discard("b")


def made(cache: BuildCache, number: int, **parts: object) -> str:
    """A finished build, the younger the higher its number."""
    stamp = msgspec.structs.replace(STAMP, commit=f"{number:040x}", built_ms=number, **parts)
    identifier = f"{number:09x}-build"
    program = cache.build(identifier) / "llama-server"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/sleep", program)
    cache.finish(identifier, msgspec.structs.replace(stamp, size_bytes=program.stat().st_size))
    return identifier


@pytest.mark.req("EP-19")
def test_builds_that_nobody_misses_are_thrown_away(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    runs, remembered = made(cache, 1), made(cache, 2)
    other = {made(cache, 3, ref="b77"), made(cache, 4, repo="s"), made(cache, 5, definitions=(("A", "B"),))}
    old = {made(cache, 6), made(cache, 7)}
    last = {made(cache, number) for number in (8, 9, 10)}
    cache.remember("r", "0" * 39 + "2", f"{2:040x}")
    with subprocess.Popen([cache.build(runs) / "llama-server", "600"]) as engine:
        cache.prune("r", f"{10:040x}")
        left = {path.name for path in cache.builds.iterdir()}
        engine.kill()
    assert left == {runs, remembered} | other | last
    assert not left & old
    cache.prune("r", f"{10:040x}")
    assert {path.name for path in cache.builds.iterdir()} == {remembered} | other | last


def test_what_a_ref_was_is_remembered(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    assert cache.remembered("r", "master") is None
    cache.remember("r", "master", "c" * 40)
    cache.remember("r", "master", "c" * 40)
    assert (cache.remembered("r", "master"), cache.remembered("r", "other")) == ("c" * 40, None)
    next(tmp_path.glob("refs/*")).write_text("[")
    assert cache.remembered("r", "master") is None


def test_the_end_of_a_long_log_is_read_from_the_beginning_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("first\nsecond\nthird\n")
    assert read_tail(tmp_path / "log", limit=9) == "third\n"
    assert read_tail(tmp_path / "log") == "first\nsecond\nthird\n"
    assert read_tail(tmp_path / "nowhere") == ""

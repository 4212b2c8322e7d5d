"""llama-server from a git repository, with the real git, CMake, ninja and compilers."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ctypes.util import find_library
from pathlib import Path

import aiohttp
import msgspec
import pytest

from catalog_core.engines import FsEngineCatalog
from contracts.config import Mode, Outbound, Policy, Pool, Profile, Verdict
from contracts.engines import PreparedEngine
from contracts.pools import Cause, Gpu
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.registry import provider_for
from tests.integration.engine_provisioner.conftest import KEY, spawn
from tests.plugins.failures import OperatorSees
from tests.support.llamacpp_build import CCACHE, PLACE, Built, Child, source_pool
from tests.support.llamacpp_build import child as started_child
from tests.support.llamacpp_source import TinyRepository, cuda_toolkit, kept, llamacpp_repository

pytestmark = [pytest.mark.needs("git", "cmake", "ninja", "gcc", "g++"), pytest.mark.timeout(120)]

GPU = Gpu(
    index=0,
    uuid="GPU-0",
    name="NVIDIA GeForce RTX 3090",
    vram_total_bytes=24 << 30,
    vram_used_bytes=0,
    driver="580.1",
    compute_capability="8.6",
)
has_cublas = pytest.mark.skipif(find_library("cublas") is not None, reason="this machine has cuBLAS")


class Place:
    """A cache, a catalog and the programs of this machine."""

    def __init__(self, root: Path, profile: Profile = Profile.TRIAL) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.cache = root / "cache"
        self.builds = self.cache / "llamacpp" / "builds"
        self.profile = profile
        self.environ = {**os.environ, **CCACHE}
        self.policy = Policy()
        self.said: list[str] = []

    def host(self) -> Host:
        return Host(
            environ=self.environ,
            catalog=FsEngineCatalog(self.root / "catalog"),
            cache=self.cache,
            policy=self.policy,
            gpus=lambda: (GPU,),
        )

    async def ensure(self, pool: Pool, said: Callable[[str], None] | None = None) -> PreparedEngine:
        """Prepare a pool; ``self.said`` is what was said about it."""
        self.said = []

        def say(line: str) -> None:
            self.said.append(line)
            if said is not None:
                said(line)

        return await provider_for(pool, self.profile, self.host()).ensure(pool, say)

    async def failure(self, pool: Pool) -> ProvisionError:
        with pytest.raises(ProvisionError) as caught:
            await self.ensure(pool)
        return caught.value

    def has_built(self) -> bool:
        """Whether the last ensure compiled anything."""
        return any(line.startswith("builds with") for line in self.said)

    def heard(self, text: str) -> bool:
        return any(text in line for line in self.said)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def kept_here() -> Iterator[None]:
    """What is kept between runs, for one run of the suite at a time."""
    with kept():
        yield


@pytest.fixture(scope="module")
def toolkit(kept_here: None) -> Path:
    """A CUDA toolkit without cuBLAS."""
    return cuda_toolkit()


@pytest.fixture
def home(tmp_path: Path, toolkit: Path) -> Place:
    """A place with a GPU, and a CUDA toolkit that is not on PATH."""
    place = Place(tmp_path, Profile.HOME)
    without(place, "nvcc")
    place.environ["CUDA_HOME"] = str(toolkit)
    return place


@pytest.fixture
def tiny(tmp_path: Path) -> TinyRepository:
    return TinyRepository(tmp_path / "upstream")


def answer(engine: PreparedEngine, flag: str) -> str:
    assert engine.bin_or_entry is not None
    done = subprocess.run([engine.bin_or_entry, flag], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


class Gate:
    """Where a tiny build waits until it is let on."""

    def __init__(self, folder: Path, place: Place) -> None:
        self._here, self._on = Path(f"{folder}/gate.here"), Path(f"{folder}/gate.on")
        os.mkfifo(self._here)
        os.mkfifo(self._on)
        place.environ["TINY_GATE"] = f"{folder}/gate"

    async def reached(self) -> int:
        """The pid of the build's job that waits."""
        return int(await asyncio.to_thread(self._here.read_text))

    async def open(self) -> None:
        """Let the job on that waits."""
        await asyncio.to_thread(self._on.write_text, "on\n")


@pytest.fixture
def gate(tmp_path: Path, place: Place) -> Gate:
    return Gate(tmp_path, place)


def child(place: Place, pool: Pool) -> AbstractAsyncContextManager[Child]:
    """The command line at this place, in a process of its own."""
    return started_child(place.root, pool, place.environ)


async def has_ended(pid: int) -> None:
    """Wait for the end of a process that need not be our child."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(30):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


# --- a build, and builds that are shared ------------------------------------------------------------------------------


@pytest.mark.req("EP-01", "EP-03", "EP-07", "EP-19", "ORCH-3805")
async def test_a_build_is_made_once_and_shared(place: Place, tiny: TinyRepository) -> None:
    engine = await place.ensure(source_pool(tiny.url))
    assert place.has_built()
    assert (engine.build_ref, engine.engine_version) == (tiny.first, f"{tiny.first[:9]}-cpu")
    assert engine.provisioning_mode is Mode.SOURCE
    assert engine.env == {"CUDA_VISIBLE_DEVICES": ""}
    assert answer(engine, "--version").startswith("version: ")
    (entry,) = place.host().catalog.list()
    assert (entry.id, entry.digest, entry.build_ref) == (engine.engine_catalog_id, engine.engine_digest, tiny.first)
    assert "-DLLAMA_BUILD_SERVER=ON" in entry.build_flags
    assert entry.artifacts == (engine.bin_or_entry,)
    (build,) = place.builds.iterdir()
    # The program stands alone: its objects are gone, its log is there.
    assert sorted(path.name for path in build.iterdir()) == ["build.log", "llama-server", "source", "stamp.json"]
    assert "-DLLAMA_BUILD_SERVER=ON" in (build / "build.log").read_text()

    assert await place.ensure(source_pool(tiny.url)) == engine
    assert not place.has_built()
    await place.ensure(source_pool(tiny.url, name="gpu1"))
    assert not place.has_built()
    assert place.heard("is built already")
    assert await provider_for(source_pool(tiny.url), place.profile, place.host()).preflight(source_pool(tiny.url)) == ()

    other = await place.ensure(source_pool(tiny.url, "master", "-DLLAMA_CUDA_F16=ON"))
    assert place.has_built()
    assert place.heard("LLAMA_CUDA_F16 is deprecated: GGML_CUDA_F16=ON is used instead")
    assert other.engine_version == f"{tiny.first[:9]}-cpu+GGML_CUDA_F16=ON"
    assert len(list(place.builds.iterdir())) == 2


@pytest.mark.req("EP-03")
async def test_a_ref_is_a_branch_a_tag_or_a_commit(place: Place, tiny: TinyRepository) -> None:
    tiny.tag("b77", annotated=True)
    second = tiny.commit({"part1.c": "int part1(void) { return 7; }\n"})
    for ref, commit in (("b77", tiny.first), ("master", second), (tiny.first, tiny.first), (second[:8], second)):
        assert (await place.ensure(source_pool(tiny.url, ref))).build_ref == commit
    assert "-DLLAMA_BUILD_NUMBER=77" in next(place.builds.glob(f"{tiny.first[:9]}*/build.log")).read_text()
    assert len(list(place.builds.iterdir())) == 2
    third = tiny.commit({"part1.c": "int part1(void) { return 8; }\n"})
    assert (await place.ensure(source_pool(tiny.url))).build_ref == third
    # Finished builds stay, and of the sources the one that was built last.
    assert len(list(place.builds.iterdir())) == 3
    assert [path.name for path in place.cache.glob("llamacpp/sources/*/*")] == [third]


async def test_a_ref_that_is_not_there_is_said(place: Place, tiny: TinyRepository, operator_sees: OperatorSees) -> None:
    error = await place.failure(source_pool(tiny.url, "b9999"))
    assert error.cause is Cause.ENGINE_FETCH
    operator_sees("source/no-such-ref", error.render())
    for ref in ("1234567", "12345678" * 5):
        assert (await place.failure(source_pool(tiny.url, ref))).cause is Cause.ENGINE_FETCH
    error = await place.failure(source_pool("file:///nowhere/llama.cpp"))
    assert "there is no such repository" in error.message


async def test_a_build_that_is_here_is_used_when_nobody_can_be_asked(place: Place, tiny: TinyRepository) -> None:
    engine = await place.ensure(source_pool(tiny.url))
    gone = tiny.path.rename(tiny.path.with_name("gone.git"))
    assert await place.ensure(source_pool(tiny.url)) == engine
    assert place.heard(f"master was last {tiny.first[:9]}, and that is used")
    assert (await place.failure(source_pool(tiny.url, "other"))).cause is Cause.ENGINE_FETCH
    gone.rename(tiny.path)

    place.policy = Policy(outbound=Outbound(default=Verdict.ALLOW, deny=("file:",)))
    assert await place.ensure(source_pool(tiny.url)) == engine
    error = await place.failure(source_pool(tiny.url, "other"))
    assert error.cause is Cause.POLICY_DENIED
    found = await provider_for(source_pool(tiny.url), place.profile, place.host()).preflight(
        source_pool(tiny.url, "other")
    )
    assert [finding.check for finding in found] == ["policy"]


async def test_a_program_that_is_damaged_or_does_not_start_is_built_anew(place: Place, tiny: TinyRepository) -> None:
    engine = await place.ensure(source_pool(tiny.url))
    assert engine.bin_or_entry is not None
    program = Path(engine.bin_or_entry)
    good = program.read_bytes()
    program.write_bytes(good[:-1] + b"!")
    assert (await place.ensure(source_pool(tiny.url))).engine_digest is not None
    assert place.heard("is not what was built: it is built anew")
    program.unlink()
    await place.ensure(source_pool(tiny.url))
    assert place.has_built()

    shared = source_pool(tiny.url, "master", "-DBUILD_SHARED_LIBS=ON")
    engine = await place.ensure(shared)
    assert engine.bin_or_entry is not None
    library = Path(engine.bin_or_entry).with_name("libparts.so")
    library.unlink()  # as an upgrade does with a library of CUDA
    await place.ensure(shared)
    assert place.heard("does not start any more")
    assert library.exists()


@pytest.mark.req("EP-03", "EP-08")
async def test_make_does_where_there_is_no_ninja(place: Place, tiny: TinyRepository) -> None:
    without(place, "ninja", "ccache")
    engine = await place.ensure(source_pool(tiny.url))
    assert "-G Unix Makefiles" in next(place.builds.glob("*/build.log")).read_text()
    assert place.heard("100 % built")
    assert answer(engine, "--version")


def without(place: Place, *tools: str) -> None:
    """Give the place the programs of this machine but for these."""
    folder = place.root / "programs"
    folder.mkdir()
    for directory in reversed(os.environ["PATH"].split(":")):
        for program in Path(directory).glob("*"):
            link = folder / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    for tool in tools:
        (folder / tool).unlink(missing_ok=True)
    place.environ["PATH"] = str(folder)


# --- interrupted ------------------------------------------------------------------------------------------------------

STEPS = (
    "fetches master",
    "configure it for the CPU",
    "build llama-server",
    "% built",
    "ask llama-server",
    "compute the sha256",
    "record the engine",
)


@pytest.mark.parametrize("step", STEPS)
async def test_a_run_that_was_killed_is_made_good_by_the_next_one(
    step: str, place: Place, tiny: TinyRepository
) -> None:
    pool = source_pool(tiny.url)
    async with child(place, pool) as first:
        await first.until(step)
        await first.kill()
    async with child(place, pool) as second:
        await second.until("record the engine")
        assert await second.process.wait() == 0
    engine = await place.ensure(pool)
    assert not place.has_built()
    assert answer(engine, "--version")
    assert len(place.host().catalog.list()) == 1


@pytest.mark.req("EP-19")
async def test_two_that_want_the_same_build_make_it_once(place: Place, tiny: TinyRepository, gate: Gate) -> None:
    pool = source_pool(tiny.url)
    waits = asyncio.Event()

    def second_says(line: str) -> None:
        if line.startswith("waits for another build (process "):
            waits.set()

    async with child(place, pool) as first, asyncio.TaskGroup() as group:
        await gate.reached()
        second = group.create_task(place.ensure(source_pool(tiny.url, name="gpu1"), second_says))
        await waits.wait()
        await gate.open()
        await first.until("record the engine")
        assert await first.process.wait() == 0
    assert second.result().build_ref == tiny.first
    assert not place.has_built()


async def test_compilers_end_with_a_killed_run_and_the_next_one_goes_on(
    place: Place, tiny: TinyRepository, gate: Gate
) -> None:
    pool = source_pool(tiny.url)
    async with child(place, pool) as first:
        job = await gate.reached()
        await first.kill()
    await has_ended(job)
    del place.environ["TINY_GATE"]
    assert (await place.ensure(pool)).build_ref == tiny.first
    assert place.heard("goes on with an interrupted build")


async def test_a_cancelled_build_ends_with_all_its_jobs_and_goes_on_later(
    place: Place, tiny: TinyRepository, gate: Gate
) -> None:
    pool = source_pool(tiny.url)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(place.ensure(pool))
        job = await gate.reached()
        task.cancel()
    await has_ended(job)
    del place.environ["TINY_GATE"]
    assert (await place.ensure(pool)).build_ref == tiny.first
    assert place.heard("goes on with an interrupted build")


@pytest.mark.req("EP-04")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("LLAMA_CUBLAS:BOOL=ON\n", "it holds the deprecated entry LLAMA_CUBLAS"),
        ("CMAKE_GENERATOR:INTERNAL=Xcode\n", "it was configured with CMAKE_GENERATOR=Xcode and not Ninja"),
        ("CMAKE_C_COMPILER:FILEPATH=/gone/cc\n", "it was configured with /gone/cc, which is gone"),
        ("", "its CMake cache is gone"),
        ("unreadable", "the interrupted build cannot be configured any more"),
        ("no ninja", "make would take a half-written object for a whole one"),
    ],
)
async def test_a_stale_build_directory_is_begun_again(
    damage: str, reason: str, place: Place, tiny: TinyRepository, gate: Gate
) -> None:
    pool = source_pool(tiny.url)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(place.ensure(pool))
        await gate.reached()
        task.cancel()
    del place.environ["TINY_GATE"]
    (cache,) = place.builds.glob("*/build/CMakeCache.txt")
    if damage == "unreadable":
        shutil.rmtree(cache.with_name("CMakeFiles"))
        cache.with_name("CMakeFiles").write_text("in the way")
    elif damage == "no ninja":
        without(place, "ninja")
    elif damage:
        cache.write_text(cache.read_text() + damage)
    else:
        cache.unlink()
    assert (await place.ensure(pool)).build_ref == tiny.first
    assert place.heard(f"begins again: {reason}")


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("EP-06")
async def test_a_build_that_fails_says_why_and_mends_itself_with_the_source(place: Place, tiny: TinyRepository) -> None:
    broken = tiny.commit({"part3.c": "int part3(void) { return nothing; }\n"})
    error = await place.failure(source_pool(tiny.url))
    assert error.cause is Cause.ENGINE_BUILD
    (log,) = place.builds.glob("*/build.log")
    first, *lines = error.message.splitlines()
    assert first == f"llama.cpp {broken[:9]} cannot be built: a command failed"
    assert "part3.c:1:26: error: 'nothing' undeclared" in lines[0]
    assert lines[-1] == f"  log: {log}"
    assert "ninja: build stopped" in log.read_text()

    await place.failure(source_pool(tiny.url))
    assert log.with_name("build.log.1").exists()
    mended = tiny.commit({"part3.c": "int part3(void) { return 3; }\n"})
    assert (await place.ensure(source_pool(tiny.url))).build_ref == mended
    # What belonged to the broken commit is thrown away.
    assert [path.name[:9] for path in place.builds.iterdir()] == [mended[:9]]


@pytest.mark.req("EP-06")
async def test_a_configure_that_fails_shows_the_lines_of_cmake(place: Place, tiny: TinyRepository) -> None:
    tiny.commit({"cuda.cmake": 'message(FATAL_ERROR "there is something\n  that it does not like")\n'})
    error = await place.failure(source_pool(tiny.url))
    assert error.cause is Cause.ENGINE_BUILD
    lines = error.message.splitlines()
    assert lines[0].endswith("cannot be configured: CMake failed")
    assert lines[1] == "  CMake Error at cuda.cmake:1 (message):"
    assert "there is something" in error.message


async def test_a_revision_without_a_server_is_said(
    place: Place, tiny: TinyRepository, operator_sees: OperatorSees
) -> None:
    tiny.commit({"CMakeLists.txt": "cmake_minimum_required(VERSION 3.14)\nproject(tiny C)\n"})
    error = await place.failure(source_pool(tiny.url))
    operator_sees("source/no-server", error.render(), commit=error.message.split()[1])


async def test_a_cache_that_cannot_be_written_is_said(place: Place, tiny: TinyRepository) -> None:
    place.cache.write_text("a file")
    error = await place.failure(source_pool(tiny.url))
    assert error.cause is Cause.ENGINE_BUILD
    assert error.message == f"cannot use {place.cache}/llamacpp/refs: Not a directory"
    (finding,) = await provider_for(source_pool(tiny.url), place.profile, place.host()).preflight(source_pool(tiny.url))
    assert (finding.check, finding.message) == ("cache", f"{place.cache} is no directory")


# --- with CUDA --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
@pytest.mark.req("ORCH-3800", "ORCH-3803", "EP-05")
async def test_profile_home_builds_for_the_gpus_of_its_pool(home: Place, tiny: TinyRepository, toolkit: Path) -> None:
    engine = await home.ensure(source_pool(tiny.url))
    assert engine.engine_version == f"{tiny.first[:9]}-cuda86"
    (log,) = home.builds.glob("*/build.log")
    command = log.read_text().splitlines()[0]
    assert "-DGGML_CUDA=ON" in command
    assert "-DCMAKE_CUDA_ARCHITECTURES=86" in command
    assert f"-DCMAKE_CUDA_COMPILER={toolkit}/bin/nvcc -DCUDAToolkit_ROOT={toolkit}" in command


@pytest.mark.timeout(600)
@pytest.mark.req("EP-06", "ORCH-3803")
@pytest.mark.parametrize(
    ("cmake", "problem"),
    [
        ("", "CMake found no CUDA compiler"),
        ('set(GGML_CUDA OFF CACHE BOOL "" FORCE)\n', "CMake set GGML_CUDA=OFF"),
    ],
)
async def test_a_configured_build_without_cuda_is_a_failure(
    cmake: str, problem: str, home: Place, tiny: TinyRepository
) -> None:
    tiny.commit({"cuda.cmake": cmake})
    error = await home.failure(source_pool(tiny.url))
    assert error.cause is Cause.ENGINE_BUILD
    assert f"{problem}, and it would compute on the CPU" in error.message
    assert not any(home.builds.glob("*/llama-server"))


@pytest.mark.timeout(600)
@pytest.mark.req("EP-06", "ORCH-3803")
async def test_a_compiler_that_is_no_cuda_compiler_stops_the_configure(
    home: Place, tiny: TinyRepository, tmp_path: Path
) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text('#!/bin/sh\ncase $1 in --version) echo "release 12.8, V12.8.61";; *) exit 1;; esac\n')
    nvcc.chmod(0o755)
    home.environ["CUDACXX"] = str(nvcc)
    error = await home.failure(source_pool(tiny.url))
    assert error.cause is Cause.ENGINE_BUILD
    assert "cannot be configured" in error.message
    assert "CMake Error" in error.message


# --- the whole of llama.cpp -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llamacpp(kept_here: None) -> str:
    """The repository of llama.cpp."""
    return llamacpp_repository()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.req("EP-01", "EP-03", "EP-07", "EP-14", "EP-19")
async def test_the_real_llamacpp_is_built_through_a_kill_and_serves(llamacpp_build: str, tiny_model: Path) -> None:
    built = msgspec.json.decode(llamacpp_build, type=Built)
    assert built.killed[-1].endswith("10 % built")
    for words in ("goes on with an interrupted build", "builds with"):
        assert any(words in line for line in built.finished)
    place, pool = Place(PLACE), source_pool(built.repository)
    engine = await place.ensure(pool)
    assert not place.has_built()
    assert "commit " + str(engine.build_ref)[:7] in answer(engine, "--version")
    assert {"--no-ui", "--cors-origins", "--fit", "--no-cont-batching"} <= set(engine.args)
    assert all(flag in answer(engine, "--help") for flag in engine.args if flag.startswith("--"))
    linked = subprocess.run(["ldd", str(engine.bin_or_entry)], check=True, capture_output=True, text=True, timeout=60)
    assert not {"ssl", "curl", "llama", "ggml"} & {
        name.split(".")[0].strip()[3:] for name in linked.stdout.splitlines()
    }

    assert await place.ensure(pool) == engine
    await place.ensure(source_pool(built.repository, name="gpu1"))
    assert not place.has_built()

    async with serving(engine, str(tiny_model)) as client:
        body = {"prompt": "a", "n_predict": 2}
        headers = {"Authorization": f"Bearer {KEY}"}
        async with client.post("/completion", json=body, headers=headers) as response:
            assert response.status == 200
            assert (await response.json())["tokens_predicted"] == 2


@asynccontextmanager
async def serving(engine: PreparedEngine, model: str) -> AsyncIterator[aiohttp.ClientSession]:
    process = await spawn(engine, model)
    assert process.stderr is not None
    try:
        said = b""
        while (line := await process.stderr.readline()) and b"listening on http://" not in line:
            said += line
        assert line, said.decode()
        url = line.decode().partition("listening on ")[2].split()[0]
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(base_url=url, connector=connector) as client, asyncio.timeout(60):
            yield client
    finally:
        process.kill()
        await process.communicate()


@has_cublas
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.req("EP-06", "ORCH-3803")
async def test_the_real_llamacpp_without_cublas_is_explained(llamacpp: str, home: Place) -> None:
    error = await home.failure(source_pool(llamacpp))
    assert error.cause is Cause.ENGINE_BUILD
    lines = error.message.splitlines()
    commit = lines[0].split()[1]
    what = "CUDA::cublas not found: the CUDA toolkit 13.0 is here, its cuBLAS library is not"
    assert lines[:4] == [
        f"llama.cpp {commit} cannot be configured: {what}",
        "  CMake Error at ggml/src/ggml-cuda/CMakeLists.txt:178 (target_link_libraries):",
        '    Target "ggml-cuda" links to:',
        "      CUDA::cublas",
    ]
    assert not any(home.builds.glob("*/llama-server"))
    assert "cublas" in error.hint or "cuda" in error.hint

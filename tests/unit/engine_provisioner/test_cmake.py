from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Profile
from engine_provisioner.cmake import (
    ARCHITECTURES,
    CUDA,
    CacheEntry,
    Options,
    Progress,
    arguments,
    build_id,
    cuda_problem,
    is_on,
    jobs_for,
    options_for,
    parse_cache,
    percent_in,
    stale,
    tool_paths,
)

GIB = 1 << 30


def own(*flags: str, profile: Profile = Profile.HOME) -> dict[str, str]:
    return dict(options_for(profile, flags, "86").own)


def refusals(*flags: str, profile: Profile = Profile.HOME) -> list[str]:
    return [note.message for note in options_for(profile, flags, "86").notes if note.refused]


# --- definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.req("EP-03", "ORCH-3803")
def test_a_build_has_the_server_and_cuda_and_nothing_that_is_not_needed() -> None:
    options = options_for(Profile.HOME, (), "86")
    assert arguments(options.definitions) == (
        "-DBUILD_SHARED_LIBS=OFF",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_CUDA_ARCHITECTURES=86",
        "-DGGML_CUDA=ON",
        "-DLLAMA_BUILD_APP=OFF",
        "-DLLAMA_BUILD_COMMON=ON",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_SERVER=ON",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_TOOLS=ON",
        "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_CURL=OFF",
        "-DLLAMA_OPENSSL=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
    )
    assert (options.own, options.notes, options.shared) == ((), (), False)
    trial = options_for(Profile.TRIAL, (), "86")
    assert (trial.value(CUDA), trial.value(ARCHITECTURES)) == ("OFF", None)


@pytest.mark.req("EP-04")
@pytest.mark.parametrize(
    ("flag", "becomes"),
    [
        ("-DLLAMA_CUBLAS=ON", {}),  # and GGML_CUDA=ON is ours
        ("-DLLAMA_CUBLAS_FAST=OFF", {}),
        ("-DLLAMA_CUDA=1", {}),
        ("-DLLAMA_CUDA_F16=ON", {"GGML_CUDA_F16": "ON"}),
        ("-DLLAMA_CUDA_FORCE_MMQ:BOOL=ON", {"GGML_CUDA_FORCE_MMQ": "ON"}),
        ("-DLLAMA_NATIVE=OFF", {"GGML_NATIVE": "OFF"}),
        ("-DLLAMA_BUILD_WEBUI=ON", {"LLAMA_BUILD_UI": "ON"}),
    ],
)
def test_a_deprecated_option_becomes_its_successor(flag: str, becomes: dict[str, str]) -> None:
    options = options_for(Profile.HOME, (flag,), "86")
    assert dict(options.own) == becomes
    assert options.value(CUDA) == "ON"
    (note,) = options.notes
    assert note.message.endswith(" is deprecated")
    assert not note.refused
    assert not any(name.startswith(("LLAMA_CUBLAS", "LLAMA_CUDA")) for name, _ in options.definitions)


@pytest.mark.req("EP-06", "ORCH-3803")
@pytest.mark.parametrize("flag", ["-DGGML_CUDA=OFF", "-DLLAMA_CUBLAS=0", "-DLLAMA_CUDA=no", "-DGGML_CUDA:BOOL=FALSE"])
def test_cuda_cannot_be_switched_off_in_home(flag: str) -> None:
    (refusal,) = refusals(flag)
    assert "would compute on the CPU, and profile home is GPU only" in refusal
    assert options_for(Profile.HOME, (flag,)).value(CUDA) == "ON"


def test_what_is_ours_cannot_be_said_otherwise() -> None:
    assert refusals("-DLLAMA_BUILD_SERVER=OFF") == ["LLAMA_BUILD_SERVER=OFF would leave out llama-server"]
    assert refusals("-DLLAMA_BUILD_SERVER=ON", "-DGGML_CUDA=ON") == []
    assert refusals("-DGGML_CUDA=ON", profile=Profile.TRIAL) == [
        "GGML_CUDA=ON wants a GPU, and profile trial computes on the CPU"
    ]
    assert len(refusals("-DCMAKE_GENERATOR=Xcode", "-DCMAKE_RUNTIME_OUTPUT_DIRECTORY=/x")) == 2
    assert refusals("-G", "Ninja", "--fresh", "-DA\n=1", "-D") == [
        f"{flag!r} is no definition" for flag in ("-G", "Ninja", "--fresh", "-DA\n=1", "-D")
    ]


def test_the_operator_may_change_every_default() -> None:
    flags = (
        "-DBUILD_SHARED_LIBS=ON",
        "CMAKE_BUILD_TYPE=Debug",
        "-D",
        "LLAMA_CURL=ON",
        "-D CMAKE_CUDA_ARCHITECTURES=89",
    )
    options = options_for(Profile.HOME, flags, "86")
    assert dict(options.own) == {
        "BUILD_SHARED_LIBS": "ON",
        "CMAKE_BUILD_TYPE": "Debug",
        "LLAMA_CURL": "ON",
        "CMAKE_CUDA_ARCHITECTURES": "89",
    }
    assert options.shared
    assert own("-DLLAMA_CURL=OFF") == {}  # as it is anyway


def test_a_build_has_a_short_name() -> None:
    def label(*flags: str, profile: Profile = Profile.HOME, architectures: str | None = "86;89") -> str:
        return options_for(profile, flags, architectures).label

    assert label() == "cuda86.89"
    assert label(architectures=None) == "cuda-native"
    assert label("-DGGML_CUDA_FA_ALL_QUANTS=ON") == "cuda86.89+GGML_CUDA_FA_ALL_QUANTS=ON"
    assert label(profile=Profile.TRIAL) == "cpu"


names = st.sampled_from(
    ["LLAMA_CUBLAS", "LLAMA_CUDA_F16", "GGML_CUDA_F16", "GGML_NATIVE", "LLAMA_NATIVE", "GGML_CUDA", "X", "LLAMA_CURL"]
)
values = st.sampled_from(["ON", "OFF", "1", "0", "native", "", "86;89"])
definitions = st.builds("-D{}={}".format, names, values)


@pytest.mark.req("EP-04")
@given(st.lists(definitions | st.text(), max_size=8), st.sampled_from(Profile))
def test_whatever_is_configured_gives_one_setting_per_name_and_no_deprecated_one(
    flags: list[str], profile: Profile
) -> None:
    options = options_for(profile, flags, "86")
    found = [name for name, _ in options.definitions]
    assert found == sorted(set(found))
    assert options == options_for(profile, flags, "86")
    assert options.value(CUDA) == ("ON" if profile is Profile.HOME else "OFF")
    assert options.value("LLAMA_BUILD_SERVER") == "ON"
    assert not {"LLAMA_CUBLAS", "LLAMA_CUDA_F16", "LLAMA_NATIVE"} & set(found)
    # What was normalized is not normalized any further.
    again = options_for(profile, arguments(options.definitions), "86")
    assert again.definitions == options.definitions
    assert again.notes == ()


@given(st.lists(definitions, max_size=6))
def test_the_last_of_duplicates_wins_and_nothing_else_of_the_order_matters(flags: list[str]) -> None:
    last = {flag.partition("=")[0].removeprefix("-D").replace("LLAMA_", "GGML_"): flag for flag in flags}
    expected = options_for(Profile.TRIAL, flags)
    for order in itertools.islice(itertools.permutations(last.values()), 6):
        assert options_for(Profile.TRIAL, order).definitions == expected.definitions


@pytest.mark.req("EP-19")
@given(st.lists(definitions, max_size=4), st.lists(definitions, max_size=4))
def test_builds_share_a_name_exactly_when_they_are_the_same(first: list[str], second: list[str]) -> None:
    one, other = (options_for(Profile.TRIAL, flags) for flags in (first, second))
    same = one.definitions == other.definitions
    assert (build_id("r", "c" * 40, one) == build_id("r", "c" * 40, other)) == same


@pytest.mark.req("EP-19")
def test_repository_commit_and_machine_tell_builds_apart() -> None:
    options = Options(definitions=())
    known = [
        build_id("r", "c" * 40, options),
        build_id("s", "c" * 40, options),
        build_id("r", "d" * 40, options),
        build_id("r", "c" * 40, options, ("RTX 3090",)),
    ]
    assert len(set(known)) == 4
    assert known[0].startswith("c" * 9 + "-")


@pytest.mark.parametrize(
    ("value", "on"),
    [
        *[("ON", True), ("1", True), ("yes", True), ("/usr/bin/nvcc", True), ("OFF", False), ("", False)],
        *[("0", False), ("false", False), ("NOTFOUND", False), ("CUDA_x_LIBRARY-NOTFOUND", False)],
    ],
)
def test_truth_is_what_cmake_takes_for_it(value: str, on: bool) -> None:
    assert is_on(value) is on


def test_memory_and_cores_bound_the_jobs() -> None:
    assert jobs_for(16, 64 * GIB, 3 * GIB) == 16
    assert jobs_for(16, 13 * GIB, 3 * GIB) == 4
    assert jobs_for(16, 1 * GIB, 3 * GIB) == 1
    assert jobs_for(16, None, 3 * GIB) == 16
    assert jobs_for(16, 1 * GIB, 3 * GIB, wanted="8") == 8
    assert jobs_for(2, None, 3 * GIB, wanted="many") == 2


# --- the cache --------------------------------------------------------------------------------------------------------

CACHE = """\
# This is the CMakeCache file.
//Path to a program.
CMAKE_C_COMPILER:FILEPATH=/usr/bin/cc
CMAKE_CUDA_COMPILER:FILEPATH=/usr/local/cuda/bin/nvcc
CMAKE_GENERATOR:INTERNAL=Ninja
CMAKE_HOME_DIRECTORY:INTERNAL=/b/source
CMAKE_MAKE_PROGRAM:FILEPATH=/usr/bin/ninja
GGML_CUDA:BOOL=ON
CMAKE_CUDA_ARCHITECTURES:UNINITIALIZED=86
"ODD NAME":STRING=x=y:z
EMPTY:STRING=
"""


def why_stale(text: str, *, generator: str = "Ninja", gone: tuple[str, ...] = (), **tools: str) -> str | None:
    return stale(parse_cache(text), generator=generator, source="/b/source", tools=tools, gone=gone)


def test_a_cache_is_read() -> None:
    cache = parse_cache(CACHE)
    assert cache["GGML_CUDA"] == CacheEntry("BOOL", "ON")
    assert cache["ODD NAME"].value == "x=y:z"
    assert cache["EMPTY"].value == ""
    assert len(cache) == 9
    assert dict(tool_paths(cache)) == {
        "CMAKE_C_COMPILER": "/usr/bin/cc",
        "CMAKE_CUDA_COMPILER": "/usr/local/cuda/bin/nvcc",
        "CMAKE_MAKE_PROGRAM": "/usr/bin/ninja",
    }


@given(st.text())
def test_no_text_breaks_the_reading_of_a_cache(text: str) -> None:
    parse_cache(text)


@pytest.mark.req("EP-04")
def test_a_cache_is_stale_when_what_it_was_made_with_has_changed() -> None:
    nvcc = "/opt/cuda/bin/nvcc"
    assert why_stale(CACHE) is None
    assert why_stale(CACHE, CMAKE_CUDA_COMPILER="/usr/local/cuda/bin/nvcc") is None
    assert why_stale("") == "it was configured with CMAKE_GENERATOR=(none) and not Ninja"
    assert why_stale(CACHE, generator="Unix Makefiles") == (
        "it was configured with CMAKE_GENERATOR=Ninja and not Unix Makefiles"
    )
    assert why_stale(CACHE.replace("/b/source", "/elsewhere")) == (
        "it was configured with CMAKE_HOME_DIRECTORY=/elsewhere and not /b/source"
    )
    assert why_stale(CACHE, CMAKE_CUDA_COMPILER=nvcc) == (
        f"it was configured with CMAKE_CUDA_COMPILER=/usr/local/cuda/bin/nvcc and not {nvcc}"
    )
    assert why_stale(CACHE, gone=("/usr/bin/cc",)) == "it was configured with /usr/bin/cc, which is gone"
    for name in ("LLAMA_CUBLAS", "LLAMA_CUDA_F16"):
        assert why_stale(f"{CACHE}{name}:BOOL=ON\n") == f"it holds the deprecated entry {name}"


@pytest.mark.req("EP-06", "ORCH-3803")
def test_a_configured_build_without_cuda_is_told_from_one_with_it() -> None:
    def problem(old: str, new: str) -> str | None:
        return cuda_problem(parse_cache(CACHE.replace(old, new)))

    assert problem("", "") is None
    assert problem("GGML_CUDA:BOOL=ON", "GGML_CUDA:BOOL=OFF") == "CMake set GGML_CUDA=OFF"
    assert problem("GGML_CUDA:BOOL", "GGML_CUDA:UNINITIALIZED") == "this revision does not know GGML_CUDA"
    assert problem("GGML_CUDA", "X") == "this revision does not know GGML_CUDA"
    no_compiler = "CMake found no CUDA compiler"
    assert problem("CMAKE_CUDA_COMPILER", "X") == no_compiler
    assert problem("CUDA_COMPILER:FILEPATH", "CUDA_COMPILER:UNINITIALIZED") == no_compiler
    assert problem("/usr/local/cuda/bin/nvcc", "CMAKE_CUDA_COMPILER-NOTFOUND") == no_compiler


# --- progress ---------------------------------------------------------------------------------------------------------


def test_the_lines_of_ninja_and_make_say_how_far_a_build_is() -> None:
    assert percent_in("[12/345] Building CXX object src/x.cpp.o") == 3
    assert percent_in("[  7%] Building C object ggml/x.c.o") == 7
    assert percent_in("[100%] Built target llama-server") == 100
    assert percent_in("[0/0] nothing") is None
    assert percent_in("-- Configuring done") is None


@given(st.lists(st.integers(0, 300), max_size=400))
def test_progress_is_thinned_out_and_only_grows(edges: list[int]) -> None:
    seen = Progress()
    said = [percent for edge in edges if (percent := seen.of(f"[{edge}/300] x")) is not None]
    assert said == sorted(set(said))
    assert len({percent // 5 for percent in said}) == len(said) <= 21

"""Outputs of real tools, and what an operator reads of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.pools import Cause
from engine_provisioner.build_errors import (
    SHOWN_LINES,
    Context,
    Trouble,
    build_trouble,
    configure_trouble,
    git_trouble,
    is_absence,
)
from engine_provisioner.errors import ProvisionError
from tests.plugins.failures import OperatorSees

CONTEXT = Context(install=lambda need: f"install {need}", cuda="13.0")

CUBLAS = """\
-- Unable to find cublas_v2.h in either "/usr/local/cuda-13.0/include" or "/usr/math_libs/include"
-- Configuring done
CMake Error at ggml/src/ggml-cuda/CMakeLists.txt:178 (target_link_libraries):
  Target "ggml-cuda" links to:

    CUDA::cublas

  but the target was not found.  Possible reasons include:

    * There is a typo in the target name.



-- Generating done
CMake Generate step failed.  Build files cannot be regenerated correctly.
"""
NO_TOOLKIT = """\
-- Could not find nvcc, please set CUDAToolkit_ROOT.
CMake Error at ggml/src/ggml-cuda/CMakeLists.txt:270 (message):
  CUDA Toolkit not found


-- Configuring incomplete, errors occurred!
"""
GNU = """\
-- The CUDA compiler identification is unknown
CMake Error at CMakeDetermineCompilerId.cmake:743 (message):
  Compiling the CUDA compiler identification source file
  "CMakeCUDACompilerId.cu" failed.

  #error -- unsupported GNU version! gcc versions later than 13 are not supported!
"""
OLD_CMAKE = """\
CMake Error at CMakeLists.txt:1 (cmake_minimum_required):
  CMake 3.28 or higher is required.  You are running version 3.25.1


-- Configuring incomplete, errors occurred!
"""
NO_COMPILER = """\
CMake Error at /usr/share/cmake-3.25/Modules/CMakeDetermineCCompiler.cmake:49 (message):
  Could not find compiler set in environment variable CC:

  /nowhere/cc.
Call Stack (most recent call first):
  CMakeLists.txt:1 (project)
"""
COMPILE = """\
[3/9] Building CXX object src/CMakeFiles/llama.dir/llama.cpp.o
[4/9] Building CXX object src/CMakeFiles/llama.dir/x.cpp.o
FAILED: src/CMakeFiles/llama.dir/x.cpp.o
/usr/bin/c++ -O3 -o src/x.cpp.o -c /b/source/src/x.cpp
../source/src/x.cpp: In function 'int f()':
../source/src/x.cpp:7:12: error: 'nothing' was not declared in this scope
    7 |     return nothing;
      |            ^~~~~~~
../source/src/x.cpp:9:1: error: expected '}'
[5/9] Building CXX object src/CMakeFiles/llama.dir/y.cpp.o
ninja: build stopped: subcommand failed.
"""


DISK_FULL = """\
/tmp/cc.s: Assembler messages:
/tmp/cc.s: Fatal error: can't write 8 bytes to section .text of x.o: 'No space left on device'
"""
NO_REPOSITORY = """\
fatal: '/nowhere/x' does not appear to be a git repository
fatal: Could not read from remote repository.

Please make sure you have the correct access rights
and the repository exists.
"""
AUTHENTICATION, NOWHERE = "the repository wants authentication", "the repository cannot be reached"


@pytest.mark.req("EP-06")
def test_a_configure_without_cublas_is_explained(operator_sees: OperatorSees) -> None:
    trouble = configure_trouble(CUBLAS, CONTEXT)
    assert trouble == Trouble(
        summary="CUDA::cublas not found: the CUDA toolkit 13.0 is here, its cuBLAS library is not",
        lines=(
            "CMake Error at ggml/src/ggml-cuda/CMakeLists.txt:178 (target_link_libraries):",
            '  Target "ggml-cuda" links to:',
            "    CUDA::cublas",
        ),
        hint="install cublas",
    )
    shown("source/no-cublas", Cause.ENGINE_BUILD, trouble, operator_sees)


@pytest.mark.req("EP-06")
@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("no-toolkit", NO_TOOLKIT),
        ("compiler-too-new-for-cuda", GNU),
        ("cmake-too-old-for-revision", OLD_CMAKE),
        ("compiler-does-not-work", NO_COMPILER),
        (
            "architecture-unknown-to-cuda",
            "CMake Error at x.cmake:102 (message):\n  nvcc fatal   : Unsupported gpu architecture 'compute_999'\n",
        ),
        ("no-cmake-project", 'CMake Error: The source directory "/x" does not appear to contain CMakeLists.txt.'),
        ("configure-unknown", "CMake Error at x.cmake:1 (message):\n  nobody has seen this\n"),
    ],
)
def test_a_failed_configure_has_its_lines_and_its_mend(name: str, output: str, operator_sees: OperatorSees) -> None:
    shown(f"source/{name}", Cause.ENGINE_BUILD, configure_trouble(output, CONTEXT), operator_sees)


@pytest.mark.req("EP-06")
@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("compile-error", COMPILE),
        ("nvcc-refuses", "[1/2] x\nFAILED: x.o\nnvcc fatal   : Unsupported gpu architecture 'compute_999'\n"),
        ("disk-full", DISK_FULL),
        ("out-of-memory", "c++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.\n"),
        ("out-of-memory-nvcc", "nvcc error   : 'cicc' died due to signal 9 (Kill signal)\n"),
        ("no-server-in-revision", "ninja: error: unknown target 'llama-server'\n"),
        ("library-missing", "/usr/bin/ld: cannot find -lcuda: No such file or directory\n"),
        ("header-missing", "x.cpp:1:10: fatal error: curl/curl.h: No such file or directory\n"),
    ],
)
def test_a_failed_build_has_its_lines_and_its_mend(name: str, output: str, operator_sees: OperatorSees) -> None:
    shown(f"source/{name}", Cause.ENGINE_BUILD, build_trouble(output, CONTEXT), operator_sees)


def test_the_first_complaint_of_a_compiler_is_the_one_that_is_shown() -> None:
    trouble = build_trouble(COMPILE, CONTEXT)
    assert trouble.lines[0] == "../source/src/x.cpp:7:12: error: 'nothing' was not declared in this scope"
    assert trouble.lines[1] == "    7 |     return nothing;"
    assert trouble.lines[-1] == "../source/src/x.cpp:9:1: error: expected '}'"
    assert trouble.summary == "a command failed"


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("host-unknown", "fatal: unable to access 'https://x.invalid/': Could not resolve host: x.invalid"),
        ("authentication", "fatal: Authentication failed for 'http://127.0.0.1/x/'"),
        ("no-such-commit", "fatal: remote error: upload-pack: not our ref deadbeef"),
        ("no-such-repository", NO_REPOSITORY),
        ("another-users-repository", "fatal: detected dubious ownership in repository at '/srv/x'"),
        ("unexpected", "fatal: nobody has seen this"),
    ],
)
def test_a_failed_fetch_has_its_lines_and_its_mend(name: str, output: str, operator_sees: OperatorSees) -> None:
    shown(f"source/git-{name}", Cause.ENGINE_FETCH, git_trouble(output, CONTEXT), operator_sees)


@pytest.mark.parametrize(
    ("output", "summary"),
    [
        ("fatal: could not read Username for 'https://x': terminal prompts disabled", AUTHENTICATION),
        ("git@x: Permission denied (publickey).", AUTHENTICATION),
        ("fatal: unable to access 'http://x/': The requested URL returned error: 403", AUTHENTICATION),
        ("fatal: repository 'http://x/' not found", "there is no such repository"),
        ("fatal: unable to access 'http://x/': The requested URL returned error: 500", NOWHERE),
        ("ssh: connect to host x port 22: Connection refused", NOWHERE),
        ("fatal: couldn't find remote ref nosuch", "the repository has no such ref"),
        ("fatal: write error: No space left on device", "the disk is full"),
    ],
)
def test_what_git_says_is_known_in_its_spellings(output: str, summary: str) -> None:
    trouble = git_trouble(output, CONTEXT)
    assert trouble.summary == summary
    assert trouble.passes == (summary == NOWHERE)
    assert is_absence(trouble) == (summary == "the repository has no such ref")


@given(st.text())
def test_whatever_a_tool_says_becomes_a_short_text(output: str) -> None:
    for explain in (configure_trouble, build_trouble, git_trouble):
        trouble = explain(output, CONTEXT)
        assert trouble.summary
        assert trouble.hint
        assert len(trouble.lines) <= SHOWN_LINES


def shown(name: str, cause: Cause, trouble: Trouble, operator_sees: OperatorSees) -> None:
    of_git = cause is Cause.ENGINE_FETCH
    subject = "https://example.org/llama.cpp" if of_git else "llama.cpp 9a9394a89 cannot be built"
    text = trouble.text(subject, None if of_git else "<path>")
    operator_sees(name, ProvisionError(cause, text, trouble.hint).render())

"""The plugin that keeps docs/failures.md true."""

import os
from pathlib import Path

import pytest

from tests.plugins.failures import Failure, normalized, parse, write

pytestmark = pytest.mark.timeout(300)  # each starts some runs of pytest

ROOT = Path(__file__).parents[3]
TEST = """
import pytest
{mark}
def test_it(operator_sees, tmp_path):
    operator_sees("source/no-compiler", f"no gcc in {{tmp_path}}/bin; {text}")
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A test suite with a document of its own; it runs in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take longer to import than all the rest takes
    monkeypatch.setenv("PYTEST_PLUGINS", "tests.plugins.failures")
    document = os.fspath(pytester.path / "failures.md")
    pytester.makeconftest(
        f"import pathlib\nfrom tests.plugins import failures\nfailures.DOCUMENT = pathlib.Path({document!r})\n"
        "failures.ROOT = failures.DOCUMENT.parent"
    )
    return pytester


def has_text(suite: pytest.Pytester, text: str, mark: str = "") -> None:
    suite.makepyfile(test_it=TEST.format(text=text, mark=mark))


def failures_of(suite: pytest.Pytester) -> dict[str, Failure]:
    return parse((suite.path / "failures.md").read_text())


def test_a_text_that_is_not_documented_fails_its_test_until_it_is_written(suite: pytest.Pytester) -> None:
    has_text(suite, "install it")
    missing = suite.runpytest_subprocess()
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["*failures.md lacks source/no-compiler:", "*--update-failures test_it.py::test_it"])
    suite.runpytest_subprocess("--update-failures").assert_outcomes(passed=1)
    text = "no gcc in <path>/bin; install it"
    assert failures_of(suite)["source/no-compiler"] == Failure(
        name="source/no-compiler", test="test_it.py::test_it", text=text
    )
    suite.runpytest_subprocess().assert_outcomes(passed=1)
    has_text(suite, "buy it")
    changed = suite.runpytest_subprocess()
    changed.assert_outcomes(failed=1)
    changed.stdout.fnmatch_lines(["*-no gcc in <path>/bin; install it", "*+no gcc in <path>/bin; buy it"])


def test_a_whole_run_fails_when_no_test_shows_a_documented_failure_any_more(suite: pytest.Pytester) -> None:
    has_text(suite, "install it")
    suite.runpytest_subprocess("--update-failures")
    has_text(suite, "install it", mark="@pytest.mark.skip(reason='nothing is known then')")
    assert suite.runpytest_subprocess().ret == pytest.ExitCode.OK
    suite.makepyfile(test_it="def test_it(): ...")
    assert suite.runpytest_subprocess("test_it.py").ret == pytest.ExitCode.OK
    whole = suite.runpytest_subprocess()
    assert whole.ret == pytest.ExitCode.TESTS_FAILED
    whole.stdout.fnmatch_lines(["source/no-compiler: test_it.py::test_it"])


def test_an_update_of_a_part_keeps_the_rest(suite: pytest.Pytester) -> None:
    has_text(suite, "install it")
    suite.makepyfile(test_other="def test_other(operator_sees): operator_sees('gpu/none', 'no GPU')")
    suite.runpytest_subprocess("--update-failures")
    has_text(suite, "buy it")
    suite.runpytest_subprocess("--update-failures", "test_it.py")
    assert {each.text for each in failures_of(suite).values()} == {"no gcc in <path>/bin; buy it", "no GPU"}
    (suite.path / "test_other.py").write_text("def test_another(): ...")
    suite.runpytest_subprocess("--update-failures", "test_it.py")
    assert failures_of(suite).keys() == {"source/no-compiler"}, "the test of the other one is gone"
    suite.makepyfile(test_it="def test_it(): ...")
    suite.runpytest_subprocess("--update-failures", "test_it.py")
    assert failures_of(suite) == {}, "its test shows it no more"


def test_a_name_belongs_to_one_test_and_to_an_area(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        def test_1(operator_sees): operator_sees("gpu/none", "no GPU")
        def test_2(operator_sees): operator_sees("gpu/none", "no GPU")
        def test_3(operator_sees): operator_sees("gpus", "no GPU")
        def test_4(operator_sees): operator_sees("gpu/empty", "")
        """
    )
    result = suite.runpytest_subprocess("--update-failures")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["gpu/none is shown by *::test_1 already*", "'gpus' is no name of the form*"])


def test_what_is_written_can_be_read() -> None:
    failures = [
        Failure(name="gpu/none", test="tests/a.py::test_a", text="no GPU\n  mend: buy one\n\n### odd\n"),
        Failure(name="config/line", test="tests/b.py::test_b", text="a"),
    ]
    assert parse(write(failures)) == {failure.name: failure for failure in failures}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read /tmp/tmpab12/m.gguf: no such file", "cannot read <path>: no such file"),
        ("http://127.0.0.1:45123/health", "http://127.0.0.1:<port>/health"),
        ("config.yaml:12: server.bind: 127.0.0.1:8080", "config.yaml:12: server.bind: 127.0.0.1:8080"),
        ("[::1]:51234 and port 51234", "[::1]:<port> and port <port>"),
        ("pid 4711 is process 4711", "pid <pid> is process <pid>"),
        ("did not answer within 0.2 s; try in 1200 ms", "did not answer within <duration> s; try in <duration> ms"),
        ("GPU-0f2c0000-aaaa-bbbb-cccc-000000000000", "GPU-<uuid>"),
        ("image@sha256:" + "0a" * 32, "image@sha256:<digest>"),
        ("cli-0123456789abcdef0123456789abcdef", "cli-<id>"),
        ("builds/9a9394a89-012345678901/build.log", "builds/9a9394a89-<id>/build.log"),
        ("epic.gguf~0123456789012345/abcdefabcdef-x", "epic.gguf~<id>/abcdefabcdef-x"),
        ("deadbeefcafe and 123456789012 bytes", "deadbeefcafe and 123456789012 bytes"),
        ("4 of 8 GiB on port 80 \n", "4 of <size> on port 80"),
    ],
)
def test_what_differs_between_runs_is_left_out(text: str, shown: str) -> None:
    assert normalized(text, {"8 GiB": "<size>"}) == shown

"""The plugins of this test suite fail what they are there to fail."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.plugins.needs import has_engine

pytestmark = pytest.mark.timeout(300)  # each starts some runs of pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty test suite that finds our plugins; it runs in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take longer to import than all the rest takes
    monkeypatch.delenv("CI", raising=False)
    pytester.makeini("[pytest]\nmarkers =\n req: ids\n needs: commands\n engine: names\n gpu: a GPU\n")
    return pytester


def test_a_child_left_behind_fails_the_run_and_is_ended(checkout: pytest.Pytester) -> None:
    checkout.makepyfile(
        test_it=f"""
        import subprocess
        def test_starts_a_child():
            child = subprocess.Popen(
                [{sys.executable!r}, "-c", "print(); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
            assert child.stdout.read(1), "it is itself, no longer a copy of us"
        """
    )
    result = checkout.runpytest_subprocess("-s", "-p", "tests.plugins.leftovers")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*processes left behind by tests*", "*: *-c print(); input(), started in test_it.py::test_starts_a_child"]
    )


def test_an_orphan_is_found_by_the_mark_in_its_environment(checkout: pytest.Pytester) -> None:
    checkout.makepyfile(
        test_it="""
        import os
        import subprocess
        def test_starts_an_orphan():
            os.mkfifo("never")
            # It stays the shell that it is a copy of: on its way to another program it would have no environment.
            subprocess.run(["sh", "-c", "read line >/dev/null 2>&1 < never &"], check=True)
        """
    )
    result = checkout.runpytest_subprocess("-p", "tests.plugins.leftovers")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*: *read line *, started in test_it.py::test_starts_an_orphan"])


def test_a_child_that_was_waited_for_is_no_leftover(checkout: pytest.Pytester) -> None:
    checkout.makepyfile(test_it="import subprocess\ndef test_it(): subprocess.run(['true'], check=True)")
    assert checkout.runpytest_subprocess("-p", "tests.plugins.leftovers").ret == pytest.ExitCode.OK


def test_a_missing_command_is_said_in_one_line(checkout: pytest.Pytester) -> None:
    checkout.makepyfile(
        test_it="""
        import pytest
        @pytest.mark.needs("sh", "no-such-command-2", "no-such-command-1")
        def test_it(): raise AssertionError
        """
    )
    result = checkout.runpytest_subprocess("-p", "tests.plugins.needs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["not run: test_it.py (1 tests; missing: no-such-command-1, no-such-command-2)"])


def test_a_missing_command_is_an_error_in_ci(checkout: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    checkout.makepyfile(test_it="import pytest\n@pytest.mark.needs('no-such-command')\ndef test_it(): ...")
    result = checkout.runpytest_subprocess("-p", "tests.plugins.needs")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*CI lacks no-such-command*"])


def test_a_missing_engine_is_said_in_one_line(checkout: pytest.Pytester) -> None:
    checkout.makepyfile(test_it="import pytest\n@pytest.mark.engine('none-such')\ndef test_it(): raise AssertionError")
    result = checkout.runpytest_subprocess("-p", "tests.plugins.needs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["not run: test_it.py (1 tests; missing: a real none-such from `make engines`)"])


def test_an_engine_of_other_requirements_is_missing(tmp_path: Path) -> None:
    pinned, made = tmp_path / "requirements/engines/x.txt", tmp_path / ".cache/engines/x/requirements.txt"
    for file in (pinned, made):
        file.parent.mkdir(parents=True)
        file.write_text("x==1")
    assert has_engine("x", tmp_path)
    pinned.write_text("x==2")
    assert not has_engine("x", tmp_path)


def test_an_unknown_requirement_is_an_error_at_collection(checkout: pytest.Pytester) -> None:
    checkout.makepyfile(test_it="import pytest\n@pytest.mark.req('HP-01', 'HP-99')\ndef test_it(): ...")
    result = checkout.runpytest_subprocess("-p", "tests.plugins.requirements", "test_it.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_it.py::test_it: no requirement 'HP-99' in docs/requirements.yaml"])


def test_only_a_whole_run_is_traced_and_a_failing_teardown_counts(
    checkout: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = checkout.path / "trace.json"
    checkout.makeconftest(f"import pathlib, tools.trace\ntools.trace.TRACE_PATH = pathlib.Path({os.fspath(trace)!r})")
    checkout.makepyfile(
        test_it="""
        import pytest
        @pytest.fixture
        def broken():
            yield
            raise OSError
        @pytest.mark.req("HP-01")
        def test_passes(): ...
        @pytest.mark.req("HP-01", "HP-02")
        def test_fails_at_its_end(broken): ...
        @pytest.mark.req("HP-03")
        @pytest.mark.skip(reason="shows that nothing is proved")
        def test_skipped(): ...
        """
    )
    monkeypatch.setenv("PYTEST_PLUGINS", "tests.plugins.requirements")
    checkout.runpytest_subprocess("test_it.py")
    assert not trace.exists()
    checkout.runpytest_subprocess()
    assert json.loads(trace.read_text()) == {
        "HP-01": {"passed": ["test_it.py::test_passes"], "failed": ["test_it.py::test_fails_at_its_end"]},
        "HP-02": {"passed": [], "failed": ["test_it.py::test_fails_at_its_end"]},
    }

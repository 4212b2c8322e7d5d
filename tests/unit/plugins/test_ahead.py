"""The plugin that begins long work before its test comes."""

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)  # each starts some runs of pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A test suite with work of its own to begin; it runs in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(pytester.path))))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "tests.plugins.ahead,tests.plugins.leftovers")
    pytester.makeconftest("from tests.plugins import ahead\nahead.WORK['llamacpp_build'] = 'work'")
    return pytester


def test_it_begins_with_the_run_and_who_waits_for_it_comes_last(suite: pytest.Pytester) -> None:
    begun = suite.path / "begun"
    os.mkfifo(begun)
    suite.makepyfile(
        work=f"open({str(begun)!r}, 'w').write('x')\nprint('made')",
        test_a="def test_it(llamacpp_build):\n    assert llamacpp_build == 'made\\n'\n",
        test_b=f"def test_it():\n    assert open({str(begun)!r}).read() == 'x'\n",
    )
    result = suite.runpytest_subprocess("-v")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["test_b.py::test_it PASSED*", "test_a.py::test_it PASSED*"])


def test_who_waits_for_what_failed_fails_and_says_why(suite: pytest.Pytester) -> None:
    suite.makepyfile(work="raise SystemExit('no compiler')", test_it="def test_it(llamacpp_build): ...")
    result = suite.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["work ended with 1:", "no compiler"])


def test_nothing_of_it_stays_when_nobody_has_waited(suite: pytest.Pytester) -> None:
    begun = suite.path / "begun"
    os.mkfifo(begun)
    suite.makepyfile(
        work=f"import signal\nopen({str(begun)!r}, 'w').write('x')\nsignal.pause()",
        test_b=f"def test_it():\n    assert open({str(begun)!r}).read() == 'x'\n    assert False\n",
        test_c="def test_it(llamacpp_build): ...",
    )
    result = suite.runpytest_subprocess("-x")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*processes left behind*")


@pytest.mark.parametrize("options", [("-k", "other"), ("--collect-only",)])
def test_what_nobody_will_wait_for_is_not_begun(suite: pytest.Pytester, options: tuple[str, ...]) -> None:
    suite.makepyfile(
        work=f"open({str(suite.path / 'begun')!r}, 'w')",
        test_it="def test_one(llamacpp_build): ...\ndef test_other(): ...",
    )
    assert suite.runpytest_subprocess(*options).ret == pytest.ExitCode.OK
    assert not (suite.path / "begun").exists()

"""Begins long work before its test comes: at the start of the run, with the processor time that nobody else wants.

A build of the whole of llama.cpp takes minutes of a processor and waits for nothing, and most tests wait for something.
A test that needs the outcome asks for its fixture, and runs after all that need none. The work is a module that is run
as a program, and prints its outcome. It keeps behind all others until its standard input is closed, for then somebody
waits. It ends early at SIGTERM; an exit status other than 0 fails the tests that wait for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORK = {"llamacpp_build": "tests.support.llamacpp_build"}
"""The modules, by the fixture that waits for them."""
WITH_US = ("setpriv", "--pdeathsig", "TERM")
"""It ends with this process, even when that is killed."""
END_S = 20


class Work:
    """One program that runs meanwhile."""

    def __init__(self, module: str, folder: Path) -> None:
        self._module = module
        self._printed, self._said = folder / "printed", folder / "said"
        with self._printed.open("wb") as printed, self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*WITH_US, sys.executable, "-m", module],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=said,
                start_new_session=True,
            )

    def outcome(self) -> str:
        """Wait for its end; the answer is what it printed."""
        self._hurry()
        status = self._process.wait()
        if status != 0:
            pytest.fail(f"{self._module} ended with {status}:\n{self._said.read_text(errors='replace')}", pytrace=False)
        return self._printed.read_text()

    def end(self) -> None:
        """It is not wanted any more."""
        self._hurry()
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _hurry(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


class Ahead:
    """What was begun in this run, by fixture."""

    def __init__(self) -> None:
        self.begun: dict[str, Work] = {}

    @pytest.hookimpl(trylast=True)  # when it is known what is skipped
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: bool(wanted_by(item)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        wanted = {fixture for item in session.items for fixture in wanted_by(item)}
        with contextlib.ExitStack() as stack:
            for fixture in sorted(wanted if not session.config.option.collectonly else ()):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ahead-")))
                self.begun[fixture] = Work(WORK[fixture], folder)
                stack.callback(self.begun[fixture].end)
            return (yield)


def wanted_by(item: pytest.Item) -> set[str]:
    """What a test needs that is begun ahead, by fixture."""
    if item.get_closest_marker("skip"):
        return set()
    return WORK.keys() & set(getattr(item, "fixturenames", ()))


@pytest.fixture
def llamacpp_build(request: pytest.FixtureRequest) -> str:
    """The build of the whole of llama.cpp, as tests/support/llamacpp_build.py tells of it."""
    plugin = request.config.pluginmanager.get_plugin("llama_orch_ahead")
    assert isinstance(plugin, Ahead)
    return plugin.begun["llamacpp_build"].outcome()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Ahead(), "llama_orch_ahead")

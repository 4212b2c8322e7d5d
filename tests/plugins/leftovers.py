"""Fails the run when a process that a test started is still there at its end, and names the test.

Children of the test process are found by their parent, and processes that lost their parent by a mark in the
environment that they inherited. The mark says the test too.
"""

import contextlib
import os
import signal
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest

MARK = "LLAMA_ORCH_TEST_RUN"
# multiprocessing starts this one by itself and ends it with the interpreter.
EXPECTED = "multiprocessing.resource_tracker"


def _parent_of(stat: str) -> int:
    """The parent's pid in the text of /proc/<pid>/stat; the command in it may hold blanks and parentheses."""
    return int(stat.rpartition(")")[2].split()[1])


def _marked(environ: bytes, mark: str) -> str | None:
    """The test in whose time a process began that has this environment; None without the mark, "" between two tests."""
    for variable in environ.split(b"\0"):
        if variable.startswith(f"{MARK}={mark}".encode()):
            return variable.decode(errors="replace").partition(" ")[2]
    return None


def find_leftovers(mark: str, parent: int) -> dict[int, str]:
    """The processes whose parent is `parent` or whose environment holds the mark: pid -> command line, and its test."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == parent:
            continue
        try:
            ours = _parent_of((entry / "stat").read_text(errors="replace")) == parent
            test = _marked((entry / "environ").read_bytes(), mark)
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
        if (ours or test is not None) and EXPECTED not in command:
            command = command or "(ended, but nobody waited for it)"
            found[int(entry.name)] = f"{command}, started in {test}" if test else command
    return found


class Leftovers:
    """Marks the environment at the start of the run and looks around at its end."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.found: dict[int, str] = {}
        os.environ[MARK] = self.mark

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        os.environ[MARK] = f"{self.mark} {item.nodeid}"
        try:
            return (yield)
        finally:
            os.environ[MARK] = self.mark

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.found = find_leftovers(self.mark, os.getpid())
        for pid in self.found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.found:
            terminalreporter.section("processes left behind by tests (now killed)", red=True)
            for pid, command in sorted(self.found.items()):
                terminalreporter.write_line(f"{pid}: {command}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Leftovers(), "llama_orch_leftovers")

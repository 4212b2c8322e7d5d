"""Fails the run when a process that a test started is still there at its end.

Children of the test process are found by their parent, and processes that lost their parent by a mark in the
environment that they inherited.
"""

import contextlib
import os
import signal
import uuid
from pathlib import Path

import pytest

MARK = "LLAMA_ORCH_TEST_RUN"
# multiprocessing starts this one by itself and ends it with the interpreter.
EXPECTED = "multiprocessing.resource_tracker"


def _parent_of(stat: str) -> int:
    """The parent's pid in the text of /proc/<pid>/stat; the command in it may hold blanks and parentheses."""
    return int(stat.rpartition(")")[2].split()[1])


def find_leftovers(mark: str, parent: int) -> dict[int, str]:
    """The processes whose parent is `parent` or whose environment holds the mark: pid -> command line."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == parent:
            continue
        try:
            ours = _parent_of((entry / "stat").read_text(errors="replace")) == parent
            ours = ours or f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
        if ours and EXPECTED not in command:
            found[int(entry.name)] = command or "(ended, but nobody waited for it)"
    return found


class Leftovers:
    """Marks the environment at the start of the run and looks around at its end."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.found: dict[int, str] = {}
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

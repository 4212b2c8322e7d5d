"""What a test wants said in the last lines of the run: how much was played, not whether it passed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Told = Callable[[str], None]
LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Told:
    """Say a line at the end of the run."""
    return request.config.stash[LINES].append


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash[LINES]:
        terminalreporter.write_line(line)

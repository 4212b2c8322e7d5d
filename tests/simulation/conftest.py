"""Every coroutine test in this folder runs on virtual time; what was played is said at the end of the run."""

from collections.abc import Callable, Mapping

import pytest

from tests.simulation.house import PLAYED
from tests.support.virtual_loop import VirtualTimeLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], VirtualTimeLoop]]:
    return {"virtual": VirtualTimeLoop}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line; nothing where no simulation ran in this process."""
    if PLAYED:
        played = ", ".join(f"{count:,} {what}" for what, count in sorted(PLAYED.items()))
        terminalreporter.write_line(f"simulated: {played}")

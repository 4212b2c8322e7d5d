"""What was played is said at the end of the run."""

import pytest

from tests.simulation.house import PLAYED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line; nothing where no simulation ran in this process."""
    if PLAYED:
        played = ", ".join(f"{count:,} {what}" for what, count in sorted(PLAYED.items()))
        terminalreporter.write_line(f"simulated: {played}")

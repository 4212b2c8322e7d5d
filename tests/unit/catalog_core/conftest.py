"""Counts what the crash simulation tried, and says it at the end of the run."""

from dataclasses import dataclass, field

import pytest

from tests.support.syscalls import Outcome
from tests.unit.catalog_core.traced_writer import Order


@dataclass
class Tally:
    """How many changes were begun, and how they ended."""

    orders: int = 0
    calls: int = 0
    killed: int = 0
    full: int = 0
    acts: set[tuple[str, str]] = field(default_factory=set)

    def count(self, order: Order, outcome: Outcome) -> None:
        self.orders += 1
        self.calls += outcome.calls
        self.killed += outcome.ended == "killed"
        self.full += order.full_at is not None
        self.acts.add((order.kind, order.act))

    def render(self) -> str:
        return (
            f"{self.orders} changes of {len(self.acts)} kinds, {self.calls} system calls, "
            f"killed at {self.killed} of them, disk full at {self.full}"
        )


_KEY = pytest.StashKey[Tally]()


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    return pytestconfig.stash.setdefault(_KEY, Tally())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_KEY, None)
    if found is not None and found.orders:
        terminalreporter.write_line(f"catalog crash simulation: {found.render()}")

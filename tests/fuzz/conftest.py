"""Counts what the fuzz tests ran, and says it at the end of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

Cost = Callable[[str, int, float], None]
COSTS: dict[str, tuple[int, float]] = {}
RAN: dict[str, Counter[str]] = {}


@pytest.fixture(scope="session")
def ran() -> Callable[[str, str], None]:
    """Call it with what was fuzzed and how one example ended."""

    def count(what: str, outcome: str) -> None:
        RAN.setdefault(what, Counter())[outcome] += 1

    return count


@pytest.fixture(scope="session")
def cost() -> Cost:
    """Call it with a hostile model, the bytes of memory and the seconds that it took to inspect it."""

    def note(what: str, memory: int, seconds: float) -> None:
        COSTS[what] = (memory, seconds)

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, outcomes in sorted(RAN.items()):
        shown = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        terminalreporter.write_line(f"fuzzed: {what}: {outcomes.total()} examples ({shown})")
    if COSTS:
        largest, longest = (max(COSTS, key=lambda what: COSTS[what][part]) for part in (0, 1))
        terminalreporter.write_line(
            f"fuzzed: {len(COSTS)} models made to cost the most: at most {COSTS[largest][0] >> 20} MiB ({largest}) "
            f"and {COSTS[longest][1]:.1f} s ({longest})"
        )

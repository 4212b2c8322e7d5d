"""Which trap each adapter is proved against: runs the tests that are marked with one, and prints one matrix.

A test shows a trap for the engine of its parameter `subject`, or for the row that its mark names with `by`. A field is
passed only when each of its tests ran and passed. `python -m tools.conformance` fails for a field that is
failed, untested, or declared as not applicable and tested all the same; `--collect` runs nothing and looks only for
fields without a test.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from tests.integration.adapters.traps import NOT_APPLICABLE, ROWS, TRAPS

Field = tuple[int, str]
"""A trap and a row."""
ROOT = Path(__file__).parents[1]
PLACES = (
    "tests/integration/adapters",
    "tests/integration/orchestratord",
    "tests/integration/pool_managerd",
    "tests/unit/engine_provisioner",
    "tests/unit/pool_managerd",
)
"""Where tests of traps are."""
WIDTH = 14


# --- what the tests show ----------------------------------------------------------------------------------------------


class Traps:
    """A plugin for pytest: the tests that show traps, and how each of them ended: passed, failed or skipped."""

    def __init__(self) -> None:
        self.fields: dict[str, list[Field]] = {}
        self.outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Read the marks; a wrong one stops the collection."""
        found = {item.nodeid: list(_fields_of(item)) for item in items}
        self.fields = {node: fields for node, fields in found.items() if fields}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the worst of a test's parts."""
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self.outcomes.setdefault(report.nodeid, "skipped")
        elif report.when == "call":
            self.outcomes.setdefault(report.nodeid, "passed")

    def by_field(self) -> dict[Field, list[str]]:
        """The outcomes of each field's tests; one that never ran is skipped."""
        ended: dict[Field, list[str]] = {}
        for node, fields in self.fields.items():
            for field in fields:
                ended.setdefault(field, []).append(self.outcomes.get(node, "skipped"))
        return ended


def _fields_of(item: pytest.Item) -> Iterator[Field]:
    for mark in item.iter_markers("trap"):
        row = mark.kwargs.get("by") or _engine_of(item)
        for number in mark.args:
            if number not in TRAPS or row not in ROWS:
                raise pytest.UsageError(
                    f"{item.nodeid}: no trap {number!r} of {row!r}; see tests/integration/adapters/traps.py"
                )
            yield number, row


def _engine_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    subject = None if callspec is None else callspec.params.get("subject")
    engine = getattr(subject, "engine", None)
    return None if engine is None else str(engine)


# --- what that makes of a field ---------------------------------------------------------------------------------------


class State(Enum):
    """What is known of one trap and one row."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    UNTESTED = "untested"
    CONTRADICTED = "declared as not applicable, and tested"


GOOD = frozenset({State.PASSED, State.NOT_APPLICABLE})


@dataclass(frozen=True)
class Cell:
    """One field of the matrix. ``passed`` of ``tests`` passed."""

    state: State
    passed: int = 0
    tests: int = 0

    def __str__(self) -> str:
        match self.state:
            case State.PASSED:
                return f"passed {self.passed}"
            case State.FAILED:
                return f"FAILED {self.tests - self.passed}/{self.tests}"
            case State.NOT_APPLICABLE:
                return "n/a"
            case State.UNTESTED:
                return "UNTESTED"
            case State.CONTRADICTED:
                return "n/a, TESTED"


def cell(outcomes: Sequence[str], reason: str | None) -> Cell:
    """The field of these tests. A test that was skipped shows nothing, so a field of such tests is untested."""
    passed, failed = (sum(outcome == wanted for outcome in outcomes) for wanted in ("passed", "failed"))
    if reason is not None:
        return Cell(State.CONTRADICTED if outcomes else State.NOT_APPLICABLE, passed, len(outcomes))
    if failed:
        return Cell(State.FAILED, passed, passed + failed)
    if passed < len(outcomes) or not outcomes:
        return Cell(State.UNTESTED, passed, len(outcomes))
    return Cell(State.PASSED, passed, passed)


def matrix(outcomes: Mapping[Field, Sequence[str]]) -> dict[Field, Cell]:
    """Every field of the table."""
    fields = [(number, row) for number in TRAPS for row in ROWS]
    return {field: cell(outcomes.get(field, ()), NOT_APPLICABLE.get(field)) for field in fields}


def rendered(cells: Mapping[Field, Cell]) -> Iterator[str]:
    """The matrix, why something cannot be applied, and the sums."""
    title = max(map(len, TRAPS.values())) + 4
    yield " " * title + "".join(row.rjust(WIDTH) for row in ROWS)
    for number, name in TRAPS.items():
        yield f"{number:>2}  {name}".ljust(title) + "".join(str(cells[number, row]).rjust(WIDTH) for row in ROWS)
    yield ""
    yield "n/a:"
    for row in ROWS:
        reasons: dict[str, list[int]] = {}
        for number in TRAPS:
            if (reason := NOT_APPLICABLE.get((number, row))) is not None:
                reasons.setdefault(reason, []).append(number)
        said = "; ".join(f"{', '.join(map(str, numbers))} {reason}" for reason, numbers in reasons.items())
        yield f"  {row}: {said or 'nothing'}"
    yield ""
    yield _sums(cells.values())


def _sums(cells: Iterable[Cell]) -> str:
    known = list(cells)
    counts = [f"{sum(each.state is state for each in known)} {state.value}" for state in State]
    tests = sum(each.passed for each in known if each.state is State.PASSED)
    return f"conformance: {len(known)} fields: {', '.join(counts)}; {tests} tests in those that passed"


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and answer with the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.conformance", description=__doc__)
    parser.add_argument("--collect", action="store_true", help="run nothing; look for fields without a test")
    collect = parser.parse_args(arguments).collect
    traps = Traps()
    options = [
        "-m",
        "trap",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(ROOT),
        *(str(ROOT / each) for each in PLACES),
    ]
    status = pytest.main([*options, *(["--collect-only", "-qq"] if collect else [])], plugins=[traps])
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        return int(status)
    outcomes = traps.by_field()
    if collect:
        outcomes = {field: ["passed"] * len(tests) for field, tests in outcomes.items()}
    cells = matrix(outcomes)
    bad = {field: each for field, each in cells.items() if each.state not in GOOD}
    if collect:
        for (number, row), each in bad.items():
            print(f"trap {number} ({TRAPS[number]}) of {row}: {each.state.value}")
        return int(bool(bad))
    print("\n" + "\n".join(rendered(cells)))
    return int(bool(bad) or status != pytest.ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())

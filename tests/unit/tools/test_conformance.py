import pytest

from tests.integration.adapters.traps import NOT_APPLICABLE, ROWS, SUPERVISOR, TRAPS
from tools.conformance import GOOD, Cell, State, cell, matrix, rendered


@pytest.mark.parametrize(
    ("outcomes", "reason", "expected"),
    [
        ([], None, Cell(State.UNTESTED)),
        (["passed", "passed"], None, Cell(State.PASSED, 2, 2)),
        (["passed", "failed"], None, Cell(State.FAILED, 1, 2)),
        (["failed", "skipped"], None, Cell(State.FAILED, 0, 1)),
        (["skipped"], None, Cell(State.UNTESTED, 0, 1)),
        (["passed", "skipped"], None, Cell(State.UNTESTED, 1, 2)),
        ([], "has none", Cell(State.NOT_APPLICABLE)),
        (["passed"], "has none", Cell(State.CONTRADICTED, 1, 1)),
    ],
)
def test_a_field_is_passed_only_by_tests_that_ran(outcomes: list[str], reason: str | None, expected: Cell) -> None:
    assert cell(outcomes, reason) == expected
    assert (expected.state in GOOD) is (expected.state.value in {"passed", "not applicable"})


def test_a_field_that_nobody_fills_is_in_the_matrix() -> None:
    cells = matrix({})
    assert len(cells) == len(TRAPS) * len(ROWS)
    untested = {field for field, each in cells.items() if each.state is State.UNTESTED}
    assert untested == cells.keys() - NOT_APPLICABLE.keys()


def test_the_matrix_has_a_line_for_each_trap_and_says_why_something_is_not_applicable() -> None:
    done = {(1, "tgi"): ["passed"] * 3, (2, "tgi"): ["passed", "failed"], (3, SUPERVISOR): ["passed"]}
    lines = list(rendered(matrix(done)))
    assert lines[0].split() == list(ROWS)
    first, second, third = lines[1:4]
    assert first.startswith(" 1  an error inside a 200 stream")
    assert "passed 3" in first
    assert "FAILED 1/2" in second
    assert third.endswith("n/a, TESTED")
    assert any("triton: " in line and "has no [DONE]" in line for line in lines)
    assert "1 passed, 1 failed" in lines[-1]
    assert "3 tests in those that passed" in lines[-1]


def test_what_is_declared_as_not_applicable_exists() -> None:
    assert all(number in TRAPS and row in ROWS and reason for (number, row), reason in NOT_APPLICABLE.items())

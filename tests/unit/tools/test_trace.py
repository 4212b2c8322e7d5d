"""tools/trace.py counts what is proved and names what is not."""

from pathlib import Path

import pytest

from tools.trace import Requirement, ids_in_marks, load_requirements, not_proved


def requirement(identifier: str, level: str = "MUST") -> Requirement:
    return Requirement(id=identifier, level=level, text="something")


def test_the_product_s_own_list_is_well_formed() -> None:
    assert {"MUST", "SHOULD"} <= {entry.level for entry in load_requirements()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {id: A, level: MUST, text: x}\n- {id: A, level: MUST, text: y}", "A stands there twice"),
        ("- {id: A, level: OFTEN, text: x}", "level 'OFTEN' is none of"),
    ],
)
def test_a_malformed_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "requirements.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_requirements(file)


def test_the_ids_of_marks_are_found_where_they_stand() -> None:
    source = '@pytest.mark.req("A", "B")\ndef test(): ...\npytestmark = pytest.mark.req("C")\n@pytest.mark.slow\n'
    assert list(ids_in_marks(source + "def test_2(): ...")) == [(1, "A"), (1, "B"), (3, "C")]


def test_a_failing_test_outweighs_a_passing_one_and_a_may_is_not_asked_for() -> None:
    wanted = [requirement("A"), requirement("B", "SHOULD"), requirement("C"), requirement("D", "MAY")]
    trace = {"A": {"passed": ["t1"], "failed": []}, "B": {"passed": ["t1"], "failed": ["t2"]}}
    assert [entry.id for entry in not_proved(wanted, trace)] == ["B", "C"]

import pytest

from llama_orch.proof.log_lines import of_the_daemons, of_the_engine

pytestmark = pytest.mark.req("OP-03", "HP-22")


def test_the_daemons_lines_of_a_task_are_told_by_their_fields() -> None:
    ours: list[dict[str, object]] = [
        {"message": "task t-1 admitted", "task_id": "t-1"},
        {"message": "pool asked", "correlation_id": "c-1"},
        {"message": "slot released", "correlation_ids": ["c-9", "c-1"]},
    ]
    others: list[dict[str, object]] = [
        {"message": "about t-1 and c-1", "task_id": "t-2", "correlation_id": "c-2"},
        {"message": "c-1", "correlation_ids": "c-1"},
        {"message": "nothing"},
    ]
    assert of_the_daemons([*ours, *others], "t-1", "c-1") == ours


def test_the_engines_lines_are_told_by_the_ids_at_their_end() -> None:
    lines = [
        "--- llamacpp starts",
        "slot launched  correlation_ids=c-1",
        "both  correlation_ids=c-0,c-1,+3",
        "of another  correlation_ids=c-10",
        "it says correlation_ids=c-1",
        "it says  correlation_ids=c-1  correlation_ids=c-2",
    ]
    found = of_the_engine(lines, "trial", "c-1")
    assert [each["message"] for each in found] == ["slot launched", "both"]
    assert found[0] == {"service": "engine", "pool_id": "trial", "message": "slot launched"}

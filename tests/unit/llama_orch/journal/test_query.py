"""What the journal is asked for."""

import pytest

from llama_orch.journal.line import Line
from llama_orch.journal.query import USUAL_LINES, Wanted, arguments, belongs


def matches(wanted: Wanted, correlation_id: str | None = None) -> list[str]:
    return [each for each in arguments(wanted, correlation_id=correlation_id) if not each.startswith("--")]


@pytest.mark.parametrize(
    ("wanted", "lines"),
    [
        (Wanted(), f"--lines={USUAL_LINES}"),
        (Wanted(pool_id="p", follow=True), f"--lines={USUAL_LINES}"),
        (Wanted(since="today"), "--lines=all"),
        (Wanted(task_id="t"), "--lines=all"),
        (Wanted(correlation_id="c"), "--lines=all"),
        (Wanted(correlation_id="c", lines=3), "--lines=3"),
        (Wanted(lines=0), "--lines=0"),
    ],
)
def test_as_many_lines_as_were_asked_for_or_fit_what_was_asked(wanted: Wanted, lines: str) -> None:
    assert lines in arguments(wanted)


def test_both_daemons_and_what_systemd_says_of_them() -> None:
    asked = arguments(Wanted(since="today", follow=True))
    for unit in ("orchestratord.service", "pool-managerd.service", "llama-orch.target"):
        assert f"--user-unit={unit}" in asked
    assert {"--follow", "--since=today", "--output=json", "--all"} <= set(asked)
    assert "--follow" not in arguments(Wanted())


def test_every_filter_must_hold() -> None:
    wanted = Wanted(pool_id="gpu0", engine=True, correlation_id="c-1")
    assert matches(wanted) == ["LLAMA_ORCH_POOL=gpu0", "LLAMA_ORCH_SOURCE=engine", "LLAMA_ORCH_CORRELATION_ID=c-1"]


def test_a_task_is_found_by_its_id_or_by_that_of_its_request() -> None:
    wanted = Wanted(task_id="t-1", pool_id="gpu0")
    assert matches(wanted) == ["LLAMA_ORCH_POOL=gpu0", "LLAMA_ORCH_TASK_ID=t-1"]
    assert matches(wanted, "c-1") == [
        *(
            "LLAMA_ORCH_POOL=gpu0",
            "LLAMA_ORCH_TASK_ID=t-1",
            "+",
            "LLAMA_ORCH_POOL=gpu0",
            "LLAMA_ORCH_CORRELATION_ID=c-1",
        )
    ]


def test_tasks_that_share_a_correlation_id_are_not_each_other() -> None:
    lines = [Line(message="", source="", task_id=task) for task in ("t-1", "t-2", None)]
    assert [belongs(line, Wanted(task_id="t-1")) for line in lines] == [True, False, True]
    assert all(belongs(line, Wanted()) for line in lines)


def test_what_was_not_found_is_named() -> None:
    assert Wanted().what == "line"
    wanted = Wanted(pool_id="p", task_id="t", correlation_id="c", engine=True, since="today")
    assert wanted.what == "line of the engines of pool p about task t with correlation id c since today"

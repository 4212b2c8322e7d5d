"""Which verdict figures lead to. No figure is measured here."""

from __future__ import annotations

import pytest

from bench.rows import ROWS
from bench.targets import TARGETS, Target, Verdict, at_least, at_most, judged, verdict

FAST = Target("speed", "speed", (at_least(0.75, "floor"), at_least(100, "LiteLLM")), (at_least(1, "nginx"),))
SHORT = Target("gap", "gap", (at_most(1, unit=" ms"),), (at_least(99.5, key="busy", unit=" %"),))


@pytest.mark.parametrize(
    ("ours", "floor", "litellm", "nginx", "expected"),
    [
        (80.0, 100.0, 0.5, 200.0, Verdict.MET),
        (75.0, 100.0, 0.75, 75.0, Verdict.BEYOND),
        (70.0, 100.0, 0.1, 60.0, Verdict.MISSED),
        (80.0, 100.0, 0.9, 60.0, Verdict.MISSED),
        (80.0, 100.0, None, None, Verdict.MET),
        (80.0, 100.0, None, 60.0, Verdict.BEYOND),
        (80.0, None, None, 60.0, Verdict.UNKNOWN),
        (None, 100.0, 0.5, 60.0, Verdict.UNKNOWN),
    ],
)
def test_a_ratio_is_held_against_every_bound_that_was_measured(
    ours: float | None, floor: float | None, litellm: float | None, nginx: float | None, expected: Verdict
) -> None:
    values = {"llama-orch": ours, "floor": floor, "LiteLLM": litellm, "nginx": nginx}
    shown = {"speed": {name: value for name, value in values.items() if value is not None}}
    assert verdict(judged(FAST, shown)) is expected


@pytest.mark.parametrize(
    ("gap", "busy", "expected"),
    [(1.0, 99.5, Verdict.BEYOND), (0.2, 99.4, Verdict.MET), (1.1, 99.9, Verdict.MISSED)],
)
def test_a_bound_without_a_system_is_held_against_the_figure_itself(gap: float, busy: float, expected: Verdict) -> None:
    assert verdict(judged(SHORT, {"gap": {"llama-orch": gap}, "busy": {"llama-orch": busy}})) is expected


def test_with_another_event_loop_ours_and_the_floor_have_it_in_common() -> None:
    shown = {"speed": {"llama-orch + uvloop": 90.0, "floor": 300.0, "floor + uvloop": 100.0, "nginx": 45.0}}
    assert [part.ratio for part in judged(FAST, shown, " + uvloop")] == [0.9, None, 2.0]


def test_a_bound_reads_as_it_is_meant() -> None:
    texts = [part.bound.text for target in (FAST, SHORT) for part in judged(target, {})]
    assert texts == [">= 0.75x floor", ">= 100x LiteLLM", ">= 1x nginx", "<= 1 ms", ">= 99.5 %"]


def test_every_target_names_a_row_of_the_table() -> None:
    keys = {row.key for row in ROWS}
    assert len(keys) == len(ROWS)
    assert {part.bound.key or target.key for target in TARGETS for part in judged(target, {})} <= keys

"""What somebody who waits wants to be told."""

from typing import Any

import msgspec
import pytest

from orchestratord.standing import Standing, notable

TOLD = Standing(at_ms=0.0, position=100, queue_depth=200, start_ms=60_000, low_ms=50_000, high_ms=70_000)


@pytest.mark.req("HP-14")
@pytest.mark.parametrize(
    ("told", "now", "expected"),
    [
        ({}, {}, False),
        ({}, {"queue_depth": 500}, False),
        ({}, {"position": 91}, False),
        ({}, {"position": 90}, True),
        ({"position": 9}, {"position": 8}, True),
        ({"position": 9}, {"position": 9}, False),
        ({}, {"at_ms": 10_000.0, "start_ms": 50_000}, False),  # as foretold
        ({}, {"at_ms": 10_000.0, "start_ms": 59_000}, False),
        ({}, {"at_ms": 10_000.0, "start_ms": 63_000}, True),
        ({"start_ms": 1_000}, {"at_ms": 900.0, "start_ms": 400}, False),  # too little to mention
        ({"start_ms": 1_000}, {"at_ms": 900.0, "start_ms": 600}, True),
        ({"on_time_probability": 0.9}, {"on_time_probability": 0.85}, False),
        ({"on_time_probability": 0.9}, {"on_time_probability": 0.75}, True),
    ],
)
def test_a_change_is_worth_telling_when_it_is_notable(
    told: dict[str, Any], now: dict[str, Any], expected: bool
) -> None:
    before, after = msgspec.structs.replace(TOLD, **told), msgspec.structs.replace(TOLD, **(told | now))
    assert notable(before, after) is expected


def test_who_was_told_nothing_is_told() -> None:
    assert notable(None, TOLD)

"""What is foretold of a task, in words."""

from typing import Any

import msgspec
import pytest

from contracts.events import Metrics
from contracts.tasks import TaskForecast
from llama_orch.prospects import forecast_lines, waiting_line

FOUND = TaskForecast(
    queue_position=2,
    predicted_start_ms=40_000,
    predicted_start_low_ms=20_000,
    predicted_start_high_ms=65_000,
    predicted_end_ms=52_300,
    pool_id="gpu0",
    replica_id="gpu0-0",
    eligible_pools=("gpu0", "gpu1"),
    kv_warmth=False,
    prompt_tokens=120,
    prompt_tokens_counted=True,
    new_tokens=80,
)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, None),
        ({"kv_warmth": True}, None),
        ({"queue_position": 0}, "waiting: it is next"),
        (
            {"queue_position": 1, "predicted_start_ms": 300},
            "waiting: 1 task goes before it; it starts in less than a second",
        ),
        (
            {
                "queue_position": 12,
                "predicted_start_ms": 40_000,
                "predicted_start_low_ms": 20_000,
                "predicted_start_high_ms": 65_000,
                "on_time_probability": 0.934,
            },
            "waiting: 12 tasks go before it; it starts in about 40 s (20 s to 1 min 5 s); in time with 93%",
        ),
    ],
)
def test_who_waits_reads_where_and_how_long(told: dict[str, Any], expected: str | None) -> None:
    assert waiting_line(Metrics(**told)) == expected


def test_a_dry_run_says_when_where_and_how_much() -> None:
    assert forecast_lines(FOUND) == [
        "it would start in about 40 s (20 s to 1 min 5 s): 2 tasks go before it",
        "it would end in about 52 s",
        "in pool gpu0 (gpu0-0); gpu1 could run it, too",
        "120 prompt tokens (counted by the engine), about 80 new ones",
        "nothing was sent",
    ]


def test_a_dry_run_says_what_is_unusual() -> None:
    changes: dict[str, Any] = {
        "queue_position": 0,
        "predicted_start_ms": 0,
        "predicted_end_ms": 400,
        "eligible_pools": ("gpu0",),
        "kv_warmth": True,
        "prompt_tokens_counted": False,
        "on_time_probability": 0.5,
        "evicts": "task-1",
    }
    assert forecast_lines(msgspec.structs.replace(FOUND, **changes)) == [
        "it would start at once: it is next",
        "it would end in less than a second",
        "in pool gpu0 (gpu0-0), with a warm cache",
        "120 prompt tokens (estimated), about 80 new ones",
        "before its deadline with a probability of 50%",
        "task task-1 would have to give way",
        "nothing was sent",
    ]

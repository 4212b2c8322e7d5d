"""How samples become the figures of a row."""

from __future__ import annotations

import pytest

from bench.figures import Figures, percentile
from bench.rows import added, shown


def test_added_is_what_is_over_the_engine_alone_in_the_same_protocol() -> None:
    values = {"direct": 10.0, "floor": 15.0, "direct, OpenAI": 40.0, "LiteLLM": 100.0}
    assert added(values) == {"floor": 5.0, "LiteLLM": 60.0}
    assert added({"direct": 10.0, "LiteLLM": 100.0}) == {}


@pytest.mark.parametrize(("share", "expected"), [(0, 1.0), (50, 51.0), (99, 100.0), (100, 100.0)])
def test_a_percentile_is_a_value_that_was_measured(share: int, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_a_cancel_is_counted_without_what_the_engine_takes_by_itself() -> None:
    figures = Figures()
    figures.add("free_own", "direct", 1.0, 2.0, 9.0)
    figures.add("free_ms", "llama-orch", 3.0, 4.0, 10.0)
    assert shown(figures)["free_50"] == {"llama-orch": 2.0}
    assert shown(figures)["free_99"] == {"llama-orch": 1.0}


def test_a_row_that_was_not_measured_is_not_shown() -> None:
    figures = Figures()
    figures.add("rss_after", "floor", 50.0, 60.0)
    assert shown(figures) == {"rss_after": {"floor": 60.0}}

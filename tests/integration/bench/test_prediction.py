"""How good predictions are, over drawn loads that the orchestrator does not know. On virtual time: always the same."""

import statistics

import pytest

from bench import prediction_cost
from bench.prediction import measure, table


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.req("HP-03")
def test_predictions_are_as_good_as_they_are_said_to_be() -> None:
    found = measure(tasks=400, seeds=(11, 12))
    everything = found["all of them"]
    assert everything.median_error <= 0.2
    assert 0.7 <= everything.coverage <= 0.92  # the band of four fifths
    assert found["bounded answers"].median_error <= 0.1
    assert found["clients that know"].median_error <= 0.2
    for name, outcome in found.items():  # nobody does much better than who knows all but the draws
        ratio = statistics.median(outcome.beside) / outcome.median_possible
        assert 0.8 <= ratio <= 2.0, (name, ratio)
    assert table(found).row_count == len(found)


def test_what_a_forecast_takes_can_be_measured() -> None:
    found = prediction_cost.measure(1, 2, depths=(3,), repeats=2)
    assert set(found) == {(3, "first"), (3, "again")}
    assert all(spent > 0 for spent in found.values())

"""How good predictions are, over drawn loads that the orchestrator does not know. On virtual time: always the same."""

import pytest

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
    assert table(found).row_count == len(found)

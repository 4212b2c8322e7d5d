"""How far predictions are off, as Prometheus sees it."""

import pytest

from orchestratord.metrics import RECENT, Metrics
from tests.unit.orchestratord.world import Pause, Script, config, ended, world


def errors(metrics: Metrics, pool_id: str = "p") -> dict[str, float]:
    return {
        sample.labels["quantile"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "prediction_error_ms" and sample.labels["pool_id"] == pool_id
    }


@pytest.mark.req("HP-03")
async def test_the_error_of_a_prediction_is_the_distance_to_the_true_start() -> None:
    slow = Script(body=("a", Pause(3.0), *Script().body))
    async with world(slow, settings=config()) as made:
        first, second = await made.submit(), await made.submit()
        predicted = second.accepted.predicted_start_ms
        await ended(first)
        await ended(second)
        assert max(made.metrics.prediction_errors["p"]) == pytest.approx(abs(3000 - predicted), abs=5)


async def test_the_quantiles_are_over_the_latest_errors() -> None:
    async with world() as made:
        for error in range(RECENT + 101):
            made.metrics.predicted("p", float(error))
        # What is left is 101 to 300.
        assert errors(made.metrics) == {"0.5": 200.0, "0.9": 280.0}

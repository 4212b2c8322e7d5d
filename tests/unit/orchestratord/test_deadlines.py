"""Deadlines: refused where they would hardly be met, and for good where the task alone takes longer."""

import pytest

from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from orchestratord.admission import Refusal
from orchestratord.deadlines import hopeless, too_late
from orchestratord.prediction import Forecast
from tests.unit.orchestratord.world import request


def foretold(starts: tuple[float, ...], services: tuple[float, ...] = (500.0,)) -> Forecast:
    return Forecast(starts, lambda: services, "p")


@pytest.mark.req("HP-03", "HP-04")
def test_a_deadline_that_would_hardly_be_met_is_refused_with_the_prediction() -> None:
    late = foretold((1_000.0,) * 20)
    assert too_late(request(), foretold((1e9,))) is None
    assert too_late(request(deadline_ms=1_500), late) is None
    assert too_late(request(deadline_ms=1_499), late) == Refusal(
        code=ErrorCode.ADMISSION_REJECT,
        message="the task would start in about 1000 ms and be done in about 1500 ms, after its deadline of 1499 ms",
        hint="try again later, allow a later deadline_ms, or ask for fewer tokens",
        retry_after_ms=1_000,
        policy_label=PolicyLabel.DEADLINE,
    )


def test_a_deadline_that_is_met_once_in_twenty_times_is_worth_trying() -> None:
    assert too_late(request(deadline_ms=1_000), foretold((100.0,) + (1_000.0,) * 19)) is None
    assert too_late(request(deadline_ms=1_000), foretold((100.0,) + (1_000.0,) * 20)) is not None


def test_a_task_that_will_soon_start_is_told_to_wait_at_least_a_moment() -> None:
    found = too_late(request(deadline_ms=500), foretold((0.4,)))
    assert found is not None
    assert (found.retry_after_ms, found.retriable) == (1, None)


@pytest.mark.req("HP-04")
@pytest.mark.parametrize("starts", [(0.0,), (1_000.0,)])
def test_a_deadline_that_the_task_alone_passes_is_not_worth_another_try(starts: tuple[float, ...]) -> None:
    wanted, forecast = request(deadline_ms=1), foretold(starts, (499.5,))
    assert too_late(wanted, forecast) == Refusal(
        code=ErrorCode.ADMISSION_REJECT,
        message="a task like this takes about 500 ms by itself, and its deadline is 1 ms",
        hint="allow at least 500 ms, or ask for fewer tokens",
        retry_after_ms=500,
        retriable=False,
        policy_label=PolicyLabel.DEADLINE,
    )
    assert too_late(request(deadline_ms=500), foretold((0.0,), (499.5,))) is None
    while_it_waits = hopeless(wanted, forecast, 0.5)
    assert while_it_waits is not None
    assert while_it_waits.retriable is False


@pytest.mark.req("HP-04")
def test_a_waiting_task_is_told_by_how_much_it_would_be_late() -> None:
    assert hopeless(request(deadline_ms=2_000), foretold((200.0,)), 700.0) is None
    assert hopeless(request(deadline_ms=2_000), foretold((300.0,)), 700.0) == Refusal(
        code=ErrorCode.ADMISSION_REJECT,
        message="the deadline of 2000 ms cannot be met any more: the answer would come 100 ms too late",
        hint="allow a later deadline_ms, or send it when less is queued",
        retry_after_ms=300,
        policy_label=PolicyLabel.DEADLINE,
    )

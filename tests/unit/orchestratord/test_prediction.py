"""The queue played forward: when a task starts, how sure that is, and whether it will be in time."""

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.tasks import Priority
from orchestratord import prediction
from orchestratord.demand import Demand, Tally, demand_of
from orchestratord.lengths import DRAWS
from orchestratord.measured import Ran, Replica
from orchestratord.prediction import (
    MOST_DELAY,
    Crowd,
    Forecast,
    Inflow,
    Rivals,
    Station,
    Waiting,
    delayed,
    doubted,
    played,
    summed,
)
from tests.unit.orchestratord.world import request

P = frozenset({"p"})


def demand(max_tokens: int = 100, priority: Priority = Priority.INTERACTIVE, **changes: Any) -> Demand:  # noqa: ANN401
    return demand_of(request(max_tokens=max_tokens, priority=priority, **changes), 10.0, 1 << 20)


def experienced(each_ms: float, runs: int = 200, spread: float = 0.0, seed: int = 1) -> Replica:
    """A replica on which every task has taken so long, give or take."""
    replica, draw = Replica(), random.Random(seed)
    for _ in range(runs):
        tokens = max(1, round(100 * draw.lognormvariate(0, spread)))
        ends = each_ms * tokens / 100
        for priority in Priority:
            ran = Ran(
                demand=demand(10_000, priority),
                prompt_bytes=50,
                tokens_in=10,
                cached=0,
                tokens_out=tokens,
                first_ms=0.0,
                end_ms=ends,
                ended=True,
                cut=False,
                steady=True,
            )
            replica.learn(ran)
    return replica


SECOND = experienced(1_000.0)
RANDOM = experienced(1_000.0, spread=0.7)
UNKNOWN = Replica()
replicas = st.sampled_from([SECOND, RANDOM, UNKNOWN])


def busy(replica: Replica, slots: int = 1, left_ms: float = 1_000.0) -> Station:
    return Station([[left_ms] * DRAWS for _ in range(slots)], replica)


def waiting(count: int, pools: frozenset[str] = P, **changes: Any) -> list[Waiting]:  # noqa: ANN401
    return [Waiting(pools, demand(10_000, **changes), number) for number in range(count)]


def crowd(count: int, pools: frozenset[str] = P, **changes: Any) -> Crowd:  # noqa: ANN401
    tally = Tally()
    for each in waiting(count, pools, **changes):
        tally.add(each.demand)
    return Crowd(pools, tally)


def forecast(starts: list[float], replica: Replica) -> Forecast:
    return Forecast(starts, lambda: replica.service(demand()), "p")


def middle(starts: Sequence[float]) -> float:
    return statistics.median(starts)


# --- what is foretold -------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-03")
@pytest.mark.parametrize(
    ("slots", "ahead", "expected"),
    [(1, 0, 1_000), (1, 3, 4_000), (2, 0, 1_000), (2, 1, 1_000), (2, 2, 2_000), (4, 9, 3_000)],
)
def test_where_every_task_takes_as_long_the_start_is_known(slots: int, ahead: int, expected: int) -> None:
    starts = played({"p": busy(SECOND, slots)}, waiting(ahead), P)
    assert middle(starts) == pytest.approx(expected, rel=0.1)


@pytest.mark.req("HP-03")
@pytest.mark.parametrize(("slots", "ahead"), [(1, 10), (1, 20), (3, 15), (8, 20)])
def test_the_sums_say_about_what_the_plays_say(slots: int, ahead: int) -> None:
    for replica in (SECOND, RANDOM):
        station = {"p": busy(replica, slots, 700.0)}
        one_by_one = middle(played(station, waiting(ahead), P))
        together = middle(summed(station, [crowd(ahead)], P))
        assert together == pytest.approx(one_by_one, rel=0.25, abs=300)


def test_the_plays_agree_with_a_queue_that_is_really_drawn() -> None:
    """Twenty thousand queues with known lengths: their median and their band are those that were foretold."""
    draw, starts = random.Random(5), []
    for _ in range(20_000):
        slots = [1_000.0] * 3
        for _ in range(12):
            slots.sort()
            slots[0] += 1_000 * draw.lognormvariate(0, 0.7)
        starts.append(min(slots))
    starts.sort()
    found = forecast(played({"p": busy(RANDOM, 3)}, waiting(12), P), RANDOM)
    assert found.start_ms == pytest.approx(starts[10_000], rel=0.15)
    assert found.low_ms == pytest.approx(starts[2_000], rel=0.2)
    assert found.high_ms == pytest.approx(starts[18_000], rel=0.2)


def test_a_pool_that_is_faster_gets_more_of_the_queue() -> None:
    both = frozenset({"p", "q"})
    stations = {"p": busy(SECOND), "q": busy(experienced(250.0))}
    assert middle(played(stations, waiting(10, both), both)) == pytest.approx(3_000, rel=0.15)
    assert middle(summed(stations, [crowd(40, both)], both)) == pytest.approx(9_000, rel=0.15)


def test_what_waits_for_another_pool_is_in_nobodys_way() -> None:
    stations = {"p": busy(SECOND), "q": busy(SECOND)}
    q = frozenset({"q"})
    assert middle(played(stations, waiting(10, q), P)) == pytest.approx(1_000, rel=0.05)
    assert middle(summed(stations, [crowd(100, q)], P)) == pytest.approx(1_000, rel=0.05)


def test_work_that_two_pools_can_do_goes_where_less_waits() -> None:
    p_and_q, q = frozenset({"p", "q"}), frozenset({"q"})
    stations = {"p": busy(SECOND), "q": busy(SECOND)}
    starts = summed(stations, [crowd(30, p_and_q), crowd(10, q)], P)
    assert middle(starts) == pytest.approx(21_000, rel=0.1)


def test_without_a_slot_there_is_no_start() -> None:
    assert played({"p": Station([], SECOND)}, (), P) == [math.inf] * DRAWS
    assert summed({}, (), P) == [math.inf] * DRAWS
    found = forecast([math.inf] * DRAWS, SECOND)
    assert found.on_time(10.0**9) == 0


# --- a run that goes on -----------------------------------------------------------------------------------------------


def test_how_long_a_run_still_takes_goes_with_what_it_has_done() -> None:
    task = demand(10_000)
    whole = middle(SECOND.service(task))
    half = middle(SECOND.remaining(task, 50, whole / 2))
    assert whole == pytest.approx(1_000, rel=0.05)
    assert half == pytest.approx(whole / 2, rel=0.1)
    assert middle(SECOND.remaining(task, 99, whole)) < 0.1 * whole
    assert max(SECOND.remaining(demand(60), 60, whole)) == 0  # it has all it may have


def test_a_run_without_a_token_that_should_have_one_takes_a_little_longer() -> None:
    late = SECOND.remaining(demand(10_000), 0, 10**6)
    assert middle(late) == pytest.approx(1_000, rel=0.1)
    assert min(late) > 0


# --- tasks that go before though they come later ----------------------------------------------------------------------


def half_the_slots(slots: int, guaranteed: float = 0.0) -> Rivals:
    return coming(0.5 * slots / 1_000, guaranteed)


def coming(rate: float, guaranteed: float = 0.0) -> Rivals:
    inflow = Inflow()
    inflow.add(demand(10_000), 1.0, 0.0)
    return Rivals(rate=rate, latest=inflow.latest, tally=inflow.tally, guaranteed=guaranteed)


@pytest.mark.req("HP-03")
@pytest.mark.parametrize("slots", [1, 4])
def test_batch_waits_longer_by_what_interactive_tasks_take_meanwhile(slots: int) -> None:
    stations, rivals = {"p": busy(SECOND, slots)}, half_the_slots(slots)
    ahead = waiting(5 * slots, priority=Priority.BATCH)
    alone, delayed_by = played(stations, ahead, P), played(stations, ahead, P, rivals)
    assert middle(alone) == pytest.approx(6_000, rel=0.05)
    assert middle(delayed_by) == pytest.approx(12_000, rel=0.2)
    assert middle(delayed([6_000.0] * DRAWS, rivals, stations.values())) == pytest.approx(12_000, rel=0.1)


def test_interactive_tasks_ahead_let_nobody_pass() -> None:
    stations, rivals = {"p": busy(SECOND)}, half_the_slots(1)
    mixed = [*waiting(10), *waiting(1, priority=Priority.BATCH)]
    late = [*waiting(11, priority=Priority.BATCH)]
    assert middle(played(stations, mixed, P, rivals)) <= middle(played(stations, late, P, rivals)) * 1.1


def test_rivals_without_end_delay_a_task_by_a_bounded_time() -> None:
    flood, stations = coming(100.0), {"p": busy(SECOND)}
    starts = played(stations, (), P, flood)
    assert max(starts) <= 1_000 + prediction.MOST_RIVALS * 1_500
    assert max(delayed([1_000.0] * DRAWS, flood, stations.values())) <= MOST_DELAY * 1_000


@pytest.mark.parametrize("ahead", [5, 40])
def test_the_share_that_batch_is_given_bounds_its_delay(ahead: int) -> None:
    flood = coming(100.0, guaranteed=0.5)
    stations = {"p": busy(SECOND)}
    tasks = waiting(ahead, priority=Priority.BATCH)
    alone = played(stations, tasks, P)
    assert middle(played(stations, tasks, P, flood)) <= 2.2 * middle(alone)
    assert max(delayed(alone, flood, stations.values())) <= 2 * max(alone)


def test_nobody_comes_where_nobody_came() -> None:
    assert Inflow().rate(10**9) == 0
    assert delayed([5.0] * DRAWS, prediction.NO_RIVALS, [busy(SECOND)]) == [5.0] * DRAWS


def test_the_rate_of_arrivals_is_measured_and_fades() -> None:
    inflow, task = Inflow(), demand()
    for number in range(600):
        inflow.add(task, 1.0, 1_000.0 * number)
    assert inflow.rate(600_000) == pytest.approx(1 / 1_000, rel=0.1)
    assert inflow.rate(600_000 + 3 * Inflow.OVER_MS) < 0.1 / 1_000
    assert len(inflow.latest) == Inflow.LATEST
    assert [held.count for held in inflow.tally.sums.values()] == [Inflow.LATEST]


def test_the_first_arrival_is_no_flood() -> None:
    inflow = Inflow()
    inflow.add(demand(), 1.0, 0.0)
    assert inflow.rate(0.0) <= 1.1 / Inflow.FIRST_MS


def test_what_is_in_doubt_is_in_doubt_in_all_plays_alike() -> None:
    starts = [1_000.0] * DRAWS
    assert doubted(starts, 0.0) == starts
    doubtful = doubted(starts, 0.5)
    assert middle(doubtful) == pytest.approx(1_000, rel=0.05)
    assert statistics.pstdev(map(math.log, doubtful)) == pytest.approx(0.5, rel=0.1)


# --- properties -------------------------------------------------------------------------------------------------------

slots_left = st.lists(st.floats(0, 1e5), min_size=1, max_size=6)


@given(replicas, slots_left, st.integers(0, 20), st.floats(1, 1e6))
@settings(deadline=None)
def test_a_forecast_is_in_order_and_never_negative(
    replica: Replica, left: list[float], ahead: int, deadline_ms: float
) -> None:
    station = {"p": Station([[each] * DRAWS for each in left], replica)}
    for starts in (played(station, waiting(ahead), P), summed(station, [crowd(ahead)] if ahead else [], P)):
        found = forecast(starts, replica)
        assert 0 <= found.low_ms <= found.start_ms <= found.high_ms
        assert found.low_ms - 1 <= statistics.median(starts) <= found.high_ms + 1
        assert found.end_ms >= found.start_ms
        assert 0 <= found.on_time(deadline_ms) <= 1


@given(replicas, slots_left, st.integers(0, 19))
@settings(deadline=None)
def test_more_ahead_is_never_an_earlier_start(replica: Replica, left: list[float], ahead: int) -> None:
    station = {"p": Station([[each] * DRAWS for each in left], replica)}
    fewer, more = played(station, waiting(ahead), P), played(station, waiting(ahead + 1), P)
    assert all(one <= other for one, other in zip(fewer, more, strict=True))


@given(replicas, st.integers(1, 6), st.integers(1, 10**5))
@settings(deadline=None)
def test_more_of_a_crowd_is_never_an_earlier_start(replica: Replica, slots: int, count: int) -> None:
    station = {"p": busy(replica, slots)}
    few, many = crowd(5), crowd(5)
    some = summed(station, [Crowd(P, few.tally, float(count))], P)
    more = summed(station, [Crowd(P, many.tally, count + 1.0)], P)
    assert middle(some) <= middle(more)


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
    st.floats(0, 3e6),
    st.floats(0, 3e6),
)
def test_the_chance_to_be_in_time_grows_with_the_deadline(
    starts: list[float], services: list[float], one: float, other: float
) -> None:
    found = Forecast(starts, lambda: services, "p")
    near, far = sorted((one, other))
    assert 0 <= found.on_time(near) <= found.on_time(far) <= 1
    assert found.on_time(max(starts) + max(services) + 1) == 1
    assert found.on_time(-1) == 0


def test_the_work_of_a_forecast_is_bounded() -> None:
    """A hundred thousand tasks ahead cost as much as twenty-one: they are sums, one for each kind."""
    deep = crowd(21)
    assert len(deep.tally.sums) == 1
    few = summed({"p": busy(SECOND)}, [deep], P)
    many = summed({"p": busy(SECOND)}, [Crowd(P, deep.tally, 5_000.0)], P)
    assert middle(many) == pytest.approx(5_000 * middle(few), rel=0.1)

"""Predicted starts, back-off times and the mean they come from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.prediction import PRIOR_MS, Load, ServiceTime, place_ms, start_ms

times = st.floats(min_value=0.1, max_value=1e7)
loads = st.lists(
    st.builds(Load, slots=st.integers(1, 8), active=st.integers(0, 8), service=st.builds(ServiceTime, mean_ms=times)),
    min_size=1,
    max_size=4,
)


def load(slots: int = 1, active: int = 1, mean_ms: float = 1000.0) -> Load:
    return Load(slots=slots, active=active, service=ServiceTime(mean_ms=mean_ms))


@pytest.mark.parametrize(
    ("ahead", "where", "expected"),
    [
        (0, [load(active=0)], 0),
        (0, [load()], 1000),
        (3, [load()], 4000),
        (0, [load(slots=4, active=4)], 250),
        (1, [load(), load()], 1000),
        (0, [load(active=0), load()], 0),
        (1, [load(active=0), load()], 500),
        (0, [load(mean_ms=1000.0), load(mean_ms=3000.0)], 750),
        (0, [load(slots=1, active=3)], 1000),
    ],
)
def test_a_start_is_predicted_from_the_mean_and_the_slots(ahead: int, where: list[Load], expected: int) -> None:
    assert start_ms(ahead, where) == expected


@given(st.integers(0, 50), loads)
def test_more_tasks_ahead_never_mean_an_earlier_start(ahead: int, where: list[Load]) -> None:
    assert start_ms(ahead, where) <= start_ms(ahead + 1, where)


@given(st.integers(0, 50), loads)
def test_it_is_now_exactly_when_a_slot_is_free_for_the_task(ahead: int, where: list[Load]) -> None:
    free = sum(max(0, each.slots - each.active) for each in where)
    assert (start_ms(ahead, where) == 0) == (free > ahead)


@given(loads, loads)
def test_more_replicas_never_take_longer_per_task(some: list[Load], more: list[Load]) -> None:
    assert 0 < place_ms([*some, *more]) <= place_ms(some)


def test_without_any_replica_the_prior_stands() -> None:
    assert place_ms([]) == PRIOR_MS
    assert start_ms(0, []) == PRIOR_MS


def test_the_first_measurement_replaces_the_prior() -> None:
    assert ServiceTime().mean_ms == PRIOR_MS
    assert ServiceTime().observed(100.0) == ServiceTime(mean_ms=100.0, samples=1)


@given(times, st.lists(times, min_size=1, max_size=30))
def test_the_mean_stays_within_what_was_measured(first: float, rest: list[float]) -> None:
    service = ServiceTime().observed(first)
    for each in rest:
        service = service.observed(each)
    assert service.samples == 1 + len(rest)
    low, high = min([first, *rest]), max([first, *rest])
    assert low * (1 - 1e-9) <= service.mean_ms <= high * (1 + 1e-9)


def test_it_follows_a_change_within_about_ten_tasks() -> None:
    service = ServiceTime().observed(100.0)
    for _ in range(10):
        service = service.observed(1000.0)
    assert service.mean_ms > 850

"""The places that were promised: counted for whom they concern, over when their moment is, bounded."""

from hypothesis import given
from hypothesis import strategies as st

from orchestratord.promises import MOST, Promises

P, Q, BOTH = frozenset("p"), frozenset("q"), frozenset("pq")


def test_nobody_was_told_anything_at_first() -> None:
    assert Promises().open(P, 0.0) == 0


def test_each_that_is_told_comes_before_the_next_one() -> None:
    promises = Promises()
    for number in range(5):
        assert promises.open(P, 0.0) == number
        promises.add(P, 100.0 + number)


def test_a_promise_is_over_with_its_moment() -> None:
    promises = Promises()
    for moment in (30.0, 10.0, 20.0):
        promises.add(P, moment)
    assert [promises.open(P, now) for now in (9.9, 10.0, 20.0, 29.9, 30.0)] == [3, 2, 1, 1, 0]


def test_a_place_in_one_of_several_pools_counts_for_all_of_them() -> None:
    promises = Promises()
    promises.add(P, 10.0)
    promises.add(BOTH, 10.0)
    assert [promises.open(pools, 0.0) for pools in (P, Q, BOTH)] == [2, 1, 2]


@given(st.lists(st.tuples(st.sampled_from([P, Q, BOTH]), st.floats(0, 1e6)), max_size=400), st.floats(0, 1e6))
def test_there_are_never_more_than_can_be_told_apart(told: list[tuple[frozenset[str], float]], now: float) -> None:
    promises = Promises()
    for pools, moment in told:
        promises.add(pools, moment)
    later = sum(moment > now for pools, moment in told if not pools.isdisjoint(P))
    assert promises.open(P, now) <= min(MOST, later)
    if len(told) <= MOST:
        assert promises.open(P, now) == later

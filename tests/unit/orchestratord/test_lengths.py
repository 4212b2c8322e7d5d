"""How long answers become, from those that ended and those that were cut."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.lengths import DRAWS, PRIOR_TOKENS, Lengths

lengths_seen = st.lists(st.tuples(st.integers(0, 100_000), st.booleans()), max_size=60)


def learned(seen: list[tuple[int, bool]]) -> Lengths:
    lengths = Lengths()
    for tokens, cut in seen:
        lengths.add(tokens, cut=cut)
    return lengths


def mean_of(lengths: Lengths, bound: float) -> float:
    return lengths.whole(bound)[1]


def mean_left(lengths: Lengths, bound: float, beyond: float) -> float:
    return statistics.mean(lengths.left(bound, beyond))


def test_before_anything_was_seen_the_stated_assumption_stands() -> None:
    _, mean, variance = Lengths().whole(10**7)
    assert mean == pytest.approx(PRIOR_TOKENS, rel=0.1)
    assert variance == pytest.approx(PRIOR_TOKENS**2, rel=0.3)
    assert mean_of(Lengths(), 20) == pytest.approx(19, rel=0.05)


@pytest.mark.parametrize("tokens", [1, 5, 100, 3_000])
def test_answers_that_are_always_as_long_are_expected_so(tokens: int) -> None:
    lengths = learned([(tokens, False)] * 100)
    _, mean, variance = lengths.whole(10**6)
    assert mean == pytest.approx(tokens, rel=0.05, abs=0.5)
    assert variance**0.5 < 0.3 * tokens + 10
    left = mean_left(lengths, 10**6, tokens * 0.5)
    assert left == pytest.approx(tokens * 0.5, rel=0.1, abs=0.5)


def test_what_was_cut_is_known_to_be_longer() -> None:
    """Half of the answers end at 100, the others are cut there: nobody knows how long they would have become."""
    lengths = learned([(100, False), (100, True)] * 100)
    assert mean_of(lengths, 100) == pytest.approx(100, rel=0.05)
    assert mean_of(lengths, 10**6) > 150


def test_the_tail_is_found_through_bounds_that_hide_it() -> None:
    """Answers of a geometric length, most of them cut by one of several bounds."""
    draw = random.Random(1)
    lengths = Lengths()
    for _ in range(1_500):
        wanted, bound = round(draw.expovariate(1 / 300)), draw.choice((50, 200, 1_000))
        lengths.add(min(wanted, bound), cut=wanted >= bound)
    assert mean_of(lengths, 10**6) == pytest.approx(300, rel=0.2)
    assert mean_of(lengths, 200) == pytest.approx(300 * (1 - 2.718281828 ** (-200 / 300)), rel=0.1)
    # Of random lengths as much is to come, however much has come.
    assert mean_left(lengths, 10**6, 200) == pytest.approx(300, rel=0.25)


def test_old_answers_fade() -> None:
    lengths = learned([(1_000, False)] * 500)
    for _ in range(1_600):
        lengths.add(10, cut=False)
    assert mean_of(lengths, 10**6) < 40


@given(lengths_seen, st.integers(1, 10**7), st.floats(0, 10**7))
def test_whatever_was_seen_no_more_is_to_come_than_may(seen: list[tuple[int, bool]], bound: int, beyond: float) -> None:
    lengths = learned(seen)
    room = max(0.0, bound - beyond)
    for drawn, most in ((lengths.left(bound, beyond), room), (lengths.whole(bound)[0], bound)):
        assert len(drawn) == DRAWS
        assert drawn == sorted(drawn)
        assert drawn[0] >= 0
        assert drawn[-1] <= most


@given(lengths_seen, st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_later_bound_never_makes_an_answer_shorter(seen: list[tuple[int, bool]], one: int, other: int) -> None:
    lengths = learned(seen)
    near, far = sorted((one, other))
    assert mean_of(lengths, near) <= mean_of(lengths, far) + 1e-9
    assert all(low <= high for low, high in zip(lengths.whole(near)[0], lengths.whole(far)[0], strict=True))


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=60), st.integers(1, 2_000))
def test_the_draws_have_the_mean_of_the_whole_distribution(seen: list[int], bound: int) -> None:
    """But for the little that the assumption is worth."""
    _, mean, _ = learned([(tokens, False) for tokens in seen]).whole(bound)
    true = statistics.mean(min(tokens, bound) for tokens in seen)
    assert abs(mean - true) <= 0.2 * bound / (len(seen) + 0.2) + 1e-6


def test_an_answer_longer_than_all_that_were_seen_goes_on_for_a_share_of_what_it_has() -> None:
    lengths = learned([(100, False)] * 300)
    assert 0.1 * 5_000 < mean_left(lengths, 10**6, 5_000) < 0.5 * 5_000
    assert mean_left(lengths, 5_010, 5_000) <= 10


def test_very_many_answers_overflow_nothing() -> None:
    lengths = Lengths()
    for _ in range(20_000):
        lengths.add(50, cut=False)
    assert mean_of(lengths, 1_000) == pytest.approx(50, rel=0.05)

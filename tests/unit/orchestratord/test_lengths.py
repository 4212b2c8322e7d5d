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
        if cut:
            lengths.cut(tokens)
        else:
            lengths.ended(tokens)
    return lengths


def test_before_anything_was_seen_the_stated_assumption_stands() -> None:
    mean, variance = Lengths().expected(10**7)
    assert mean == pytest.approx(PRIOR_TOKENS, rel=0.1)
    assert variance == pytest.approx(PRIOR_TOKENS**2, rel=0.3)
    assert Lengths().expected(20)[0] == pytest.approx(19, rel=0.05)


@pytest.mark.parametrize("tokens", [1, 5, 100, 3_000])
def test_answers_that_are_always_as_long_are_expected_so(tokens: int) -> None:
    lengths = learned([(tokens, False)] * 100)
    mean, variance = lengths.expected(10**6)
    assert mean == pytest.approx(tokens, rel=0.05, abs=0.5)
    assert variance**0.5 < 0.3 * tokens + 10
    left, _ = lengths.expected(10**6, beyond=tokens * 0.5)
    assert left == pytest.approx(tokens * 0.5, rel=0.1, abs=0.5)


def test_what_was_cut_is_known_to_be_longer() -> None:
    """Half of the answers end at 100, the others are cut there: nobody knows how long they would have become."""
    lengths = learned([(100, False), (100, True)] * 100)
    assert lengths.expected(100)[0] == pytest.approx(100, rel=0.05)
    assert lengths.expected(10**6)[0] > 150


def test_the_tail_is_found_through_bounds_that_hide_it() -> None:
    """Answers of a geometric length, most of them cut by one of several bounds."""
    draw = random.Random(1)
    lengths = Lengths()
    for _ in range(1_500):
        wanted, bound = round(draw.expovariate(1 / 300)), draw.choice((50, 200, 1_000))
        if wanted < bound:
            lengths.ended(wanted)
        else:
            lengths.cut(bound)
    assert lengths.expected(10**6)[0] == pytest.approx(300, rel=0.2)
    assert lengths.expected(200)[0] == pytest.approx(300 * (1 - 2.718281828 ** (-200 / 300)), rel=0.1)
    # Of random lengths as much is to come, however much has come.
    assert lengths.expected(10**6, beyond=200)[0] == pytest.approx(300, rel=0.25)


def test_old_answers_fade() -> None:
    lengths = learned([(1_000, False)] * 500)
    for _ in range(1_600):
        lengths.ended(10)
    assert lengths.expected(10**6)[0] < 40


@given(lengths_seen, st.integers(1, 10**7), st.floats(0, 10**7))
def test_whatever_was_seen_no_more_is_to_come_than_may(seen: list[tuple[int, bool]], bound: int, beyond: float) -> None:
    lengths = learned(seen)
    mean, variance = lengths.expected(bound, beyond)
    room = max(0.0, bound - beyond)
    assert 0 <= mean <= room + 1e-6 * bound
    assert 0 <= variance <= room**2 + 1e-3 * bound**2
    drawn = lengths.drawn(bound, beyond)
    assert len(drawn) == DRAWS
    assert drawn == sorted(drawn)
    assert drawn[0] >= 0
    assert drawn[-1] <= room


@given(lengths_seen, st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_later_bound_never_makes_an_answer_shorter(seen: list[tuple[int, bool]], one: int, other: int) -> None:
    lengths = learned(seen)
    near, far = sorted((one, other))
    assert lengths.expected(near)[0] <= lengths.expected(far)[0] + 1e-9
    assert all(low <= high for low, high in zip(lengths.drawn(near), lengths.drawn(far), strict=True))


@given(lengths_seen, st.integers(1, 10**5))
def test_the_draws_stand_for_the_whole_distribution(seen: list[tuple[int, bool]], bound: int) -> None:
    lengths = learned(seen)
    mean, variance = lengths.expected(bound)
    assert abs(statistics.mean(lengths.drawn(bound)) - mean) <= 0.05 * bound + 0.5 * variance**0.5 + 1


def test_very_many_answers_overflow_nothing() -> None:
    lengths = Lengths()
    for _ in range(20_000):
        lengths.ended(50)
    assert lengths.expected(1_000)[0] == pytest.approx(50, rel=0.05)

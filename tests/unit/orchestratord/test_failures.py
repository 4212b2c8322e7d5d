"""How many wrong tokens of one client are looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.failures import LATELY_S, Failures

pytestmark = pytest.mark.req("ORCH-3810", "OP-02")

WRONG = b"wrong"


def used_up(per_minute: int = 10, now: float = 0.0, most: int = 100) -> Failures:
    made = Failures(per_minute, most)
    for number in range(per_minute):
        assert made.look("a", now) is None
        made.failed("a", b"%d" % number, now)
    return made


def test_a_budget_is_used_up_by_its_number_of_failures_and_told_once() -> None:
    made = Failures(3)
    assert [made.failed("a", WRONG, 0) for _ in range(4)] == [False, False, True, False]
    assert made.look("a", 0) is not None
    assert made.look("b", 0) is None


@pytest.mark.parametrize(("per_minute", "wait_ms"), [(10, 6_000), (1, 60_000), (60, 1_000), (7, 8_572)])
def test_the_wait_is_the_time_until_one_more_is_looked_at(per_minute: int, wait_ms: int) -> None:
    made = used_up(per_minute)
    blocked = made.look("a", 0)
    assert blocked is not None
    assert blocked.retry_ms == wait_ms
    assert made.look("a", (wait_ms - 2) / 1000) is not None
    assert made.look("a", wait_ms / 1000) is None


def test_a_spell_goes_on_until_the_budget_is_whole_again() -> None:
    made = used_up()
    assert [made.failed("a", WRONG, 6.5 * count) for count in range(1, 9)] == [False] * 8
    for _ in range(9):
        assert made.failed("a", WRONG, 1_000) is False
    assert made.failed("a", WRONG, 1_000) is True


def test_who_showed_the_right_token_lately_is_known() -> None:
    made = used_up()
    assert not made.knows("a", 0)
    made.succeeded("a", 1)
    assert made.knows("a", 1 + LATELY_S - 1)
    assert not made.knows("a", 1 + LATELY_S)
    assert made.look("a", 1) is not None, "to be known gives no budget back"


def test_who_sends_many_wrong_tokens_is_not_looked_at_and_who_sends_one_again_and_again_is() -> None:
    guesser, broken = used_up(5), Failures(5)
    for _ in range(1_000):
        broken.failed("a", WRONG, 0)
    assert (guesser.guesses("a", 0), broken.guesses("a", 0)) == (True, False)
    assert broken.look("a", 0) is not None, "it has used up its budget all the same"
    guesser.succeeded("a", 1)
    assert not guesser.guesses("a", 2)
    assert not guesser.guesses("b", 2)


def test_no_more_wrong_tokens_are_remembered_than_the_budget() -> None:
    made = used_up(5)
    for number in range(100):
        made.failed("a", b"other %d" % number, 0)
    assert len(made._buckets["a"].guesses) == 5  # noqa: SLF001 - its memory is the point


def test_a_flood_of_addresses_forgets_failures_and_nobody_who_is_known() -> None:
    made = Failures(10, 100)
    made.succeeded("friend", 0)
    for number in range(10_000):
        made.failed(f"f{number}", WRONG, 1)
    assert made.knows("friend", 2)
    assert len(made) <= 101


def test_the_clients_that_are_known_are_bounded_too() -> None:
    made = Failures(10, 100)
    for number in range(1_000):
        made.succeeded(f"f{number}", number)
    assert len(made) == 100
    assert made.knows("f999", 999)


@given(st.lists(st.floats(0, 5), max_size=300), st.integers(1, 30))
def test_no_more_than_twice_the_budget_is_looked_at_in_a_minute(gaps: list[float], per_minute: int) -> None:
    made, now, looked_at = Failures(per_minute), 0.0, []
    for gap in gaps:
        now += gap
        if made.look("a", now) is None:
            looked_at.append(now)
            made.failed("a", WRONG, now)
    for start in looked_at:
        assert sum(start <= moment < start + 60 for moment in looked_at) <= 2 * per_minute


def test_a_clock_that_goes_back_gives_nothing() -> None:
    made = used_up(now=100)
    assert made.look("a", 0) is not None

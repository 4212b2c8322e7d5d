"""How much one client may ask for in a minute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Limits
from orchestratord import rates
from orchestratord.rates import Charge, Rates, Wait


def limited(requests: int | None = None, tokens: int | None = None) -> Rates:
    return Rates(Limits(requests_per_minute=requests, tokens_per_minute=tokens))


def test_without_limits_nobody_waits_and_nothing_is_kept() -> None:
    free = limited()
    assert not free.limited
    for number in range(100):
        assert free.look("me", 10**9, 0.0) is None
        free.take(f"client {number}", 10**9, 0.0)
    assert free.clients == 0


@pytest.mark.req("HP-16")
def test_a_minutes_worth_may_be_asked_for_at_once_and_then_the_wait_is_exact() -> None:
    few = limited(requests=6)
    for _ in range(6):
        assert few.look("me", 1, 0.0) is None
        few.take("me", 1, 0.0)
    assert few.look("me", 1, 0.0) == Wait("requests_per_minute", 6, 10_000)
    assert few.look("me", 1, 4_000.0) == Wait("requests_per_minute", 6, 6_000)
    assert few.look("me", 1, 9_999.0) == Wait("requests_per_minute", 6, 1)
    assert few.look("me", 1, 10_000.0) is None


def test_clients_do_not_use_up_each_others() -> None:
    few = limited(requests=1)
    few.take("me", 1, 0.0)
    assert few.look("me", 1, 0.0) is not None
    assert few.look("you", 1, 0.0) is None


def test_the_limit_that_keeps_a_client_longest_is_told() -> None:
    both = limited(requests=60, tokens=600)
    both.take("me", 600, 0.0)
    assert both.look("me", 100, 0.0) == Wait("tokens_per_minute", 600, 10_000)


@pytest.mark.req("HP-16")
def test_what_was_not_used_is_given_back_and_what_was_used_beyond_is_owed() -> None:
    some = limited(tokens=1_000)
    charge = some.take("me", 800, 0.0)
    some.settle(charge, 300, 0.0)
    assert some.look("me", 700, 0.0) is None
    assert some.look("me", 701, 0.0) == Wait("tokens_per_minute", 1_000, 60)
    some.settle(some.take("me", 700, 0.0), 1_700, 0.0)
    assert some.look("me", 1, 0.0) == Wait("tokens_per_minute", 1_000, 60_060)


def test_giving_back_does_not_give_a_request_back() -> None:
    few = limited(requests=1, tokens=10)
    few.settle(few.take("me", 5, 0.0), 0, 0.0)
    assert few.look("me", 5, 0.0) == Wait("requests_per_minute", 1, 60_000)


def test_a_task_larger_than_a_minutes_worth_waits_for_a_full_bucket_and_not_for_ever() -> None:
    some = limited(tokens=100)
    assert some.look("me", 5_000, 0.0) is None
    some.take("me", 5_000, 0.0)
    assert some.look("me", 1, 0.0) == Wait("tokens_per_minute", 100, 4_901 * 600)


def test_no_more_is_given_back_than_a_full_bucket() -> None:
    some = limited(tokens=100)
    some.settle(Charge("me", 1_000), 0, 0.0)
    some.take("me", 100, 0.0)
    assert some.look("me", 1, 0.0) is not None


def test_the_buckets_of_very_many_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_CLIENTS", 3)
    some = limited(requests=2)
    for number in range(50):
        some.take(f"client {number}", 1, float(number))
        assert some.clients <= 3


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(1, 20_000), st.floats(0, 120_000)), min_size=1, max_size=40),
)
def test_a_client_that_waits_as_it_is_told_gets_in_and_never_beyond_the_rate(
    per_minute: int, asks: list[tuple[int, float]]
) -> None:
    some, now, taken = limited(tokens=per_minute), 0.0, 0
    for tokens, pause in asks:
        now += pause
        wait = some.look("me", tokens, now)
        if wait is not None:
            now += wait.wait_ms
            assert some.look("me", tokens, now) is None
        before, taken = taken, taken + tokens
        some.take("me", tokens, now)
        assert before <= per_minute * (1 + now / 60_000) * (1 + 1e-9) + 1e-3


def test_other_limits_hold_at_once_and_the_same_ones_change_nothing() -> None:
    few = limited(requests=1)
    few.take("me", 1, 0.0)
    few.change(Limits(requests_per_minute=1))
    assert few.look("me", 1, 0.0) is not None
    few.change(Limits(requests_per_minute=2))
    few.take("me", 1, 0.0)
    assert few.look("me", 1, 0.0) is None
    few.change(Limits())
    assert (few.limited, few.clients) == (False, 0)

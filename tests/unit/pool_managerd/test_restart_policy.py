import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Restart
from pool_managerd.restart_policy import decide

RULES = Restart(initial_ms=500, max_ms=60_000, healthy_ms=60_000, max_failures=8)


def test_the_delay_doubles_with_every_failure_in_a_row() -> None:
    delays = [decide(before, 0, RULES, 0.999_999).delay_ms for before in range(7)]
    assert delays == [500, 1000, 2000, 4000, 8000, 16_000, 32_000]


def test_the_breaker_opens_at_the_last_failure_and_says_so() -> None:
    decision = decide(7, 0, RULES, 0.0)
    assert decision.delay_ms is None
    assert decision.reason == "8 failures in a row: not tried again until reset"


def test_a_healthy_period_starts_the_count_anew() -> None:
    assert decide(7, 60_000, RULES, 0.0).failures == 1
    assert decide(7, 59_999, RULES, 0.0).failures == 8


def test_a_delay_says_which_failure_it_follows() -> None:
    assert decide(1, 0, RULES, 0.0).reason == "failure 2 of 8: again in 500 ms"


@pytest.mark.req("PM-01")
@given(
    failures=st.integers(0, 10_000),
    healthy_ms=st.integers(0, 10**9),
    rules=st.builds(
        Restart,
        initial_ms=st.integers(1, 10**6),
        max_ms=st.integers(1, 10**6),
        healthy_ms=st.integers(1, 10**6),
        max_failures=st.integers(1, 10_000),
    ),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_every_delay_is_bounded_and_the_breaker_opens_only_at_its_limit(
    failures: int, healthy_ms: int, rules: Restart, draw: float
) -> None:
    decision = decide(failures, healthy_ms, rules, draw)
    assert (decision.delay_ms is None) == (decision.failures >= rules.max_failures)
    assert decision.failures == (1 if healthy_ms >= rules.healthy_ms else failures + 1)
    if decision.delay_ms is not None:
        assert 1 <= decision.delay_ms <= rules.max_ms
        assert decision.delay_ms >= min(rules.max_ms, rules.initial_ms) // 2

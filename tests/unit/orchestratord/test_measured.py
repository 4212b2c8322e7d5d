"""What runs teach of a replica, and what they do not."""

import random
import statistics
from typing import Any

import pytest

from contracts.tasks import Priority, Workload
from orchestratord.demand import Demand, demand_of
from orchestratord.measured import PRIOR, Ran, Replica
from tests.unit.orchestratord.world import request

CHAT = demand_of(request(max_tokens=500), 100.0, 4096)


def ran(prompt: int = 100, new: int = 50, *, demand: Demand = CHAT, **changes: Any) -> Ran:  # noqa: ANN401 - any field
    first = 20.0 + 2.0 * prompt
    fields: dict[str, Any] = {
        "demand": demand,
        "prompt_bytes": prompt * 5,
        "tokens_in": prompt,
        "cached": 0,
        "tokens_out": new,
        "first_ms": first,
        "end_ms": first + 10.0 * (new - 1),
        "ended": True,
        "cut": False,
        "steady": True,
    }
    return Ran(**(fields | changes))


def left_of(replica: Replica, demand: Demand, tokens: int) -> float:
    """How many tokens are to come in the mean, going by the time that they take."""
    return statistics.mean(replica.remaining(demand, tokens, 0.0)) / replica.cost(demand).per_new_ms


def test_at_first_the_stated_assumption_stands() -> None:
    assert Replica().cost(CHAT).busy_ms(0, 1) == PRIOR.busy_ms(0, 1)
    assert Replica().cost(CHAT).doubt == pytest.approx((PRIOR.noise**2 + PRIOR.doubt**2) ** 0.5)


@pytest.mark.req("HP-03")
def test_the_time_of_prompt_tokens_of_new_ones_and_of_the_rest_is_found() -> None:
    replica, draw = Replica(), random.Random(1)
    for _ in range(60):
        replica.learn(ran(draw.randrange(10, 2_000), draw.randrange(2, 400)))
    cost = replica.cost(CHAT)
    assert cost.per_prompt_ms == pytest.approx(2.0, rel=0.02)
    assert cost.per_new_ms == pytest.approx(10.0, rel=0.02)
    assert cost.fixed_ms == pytest.approx(20.0, abs=15)
    assert cost.noise < 0.15
    assert replica.doubt(CHAT) < 0.15


def test_doubt_goes_with_what_was_measured() -> None:
    replica, doubts = Replica(), []
    for _ in range(20):
        doubts.append(replica.doubt(CHAT))
        replica.learn(ran())
    assert doubts == sorted(doubts, reverse=True)


def test_prompts_in_a_cache_are_not_read_again() -> None:
    replica = Replica()
    turn = demand_of(request(session_id="s"), 1_000.0, 4096)
    for number in range(30):
        replica.learn(ran(1_000, demand=turn, cached=900, first_ms=20.0 + 2.0 * 100, end_ms=220.0 + 490.0))
        replica.learn(ran(200 + number))
    assert replica.cold(turn) == pytest.approx(0.1, abs=0.05)
    assert replica.cold(CHAT) == 1.0
    assert replica.cost(CHAT).per_prompt_ms == pytest.approx(2.0, rel=0.1)


def test_a_cancelled_run_shows_how_fast_tokens_came_and_nothing_of_how_long_it_would_have_been() -> None:
    replica = Replica()
    for _ in range(40):
        replica.learn(ran(new=10, ended=False, cut=True, tokens_in=None))
    assert replica.cost(CHAT).per_new_ms == pytest.approx(10.0, rel=0.05)
    assert replica.cost(CHAT).fixed_ms == pytest.approx(PRIOR.fixed_ms)
    assert replica.new_tokens(CHAT)[0] > 100  # not ten


def test_a_failed_run_shows_no_speed() -> None:
    replica = Replica()
    for _ in range(40):
        replica.learn(ran(ended=False, cut=True, steady=False, tokens_in=None, end_ms=600_000.0))
    assert replica.cost(CHAT) == Replica().cost(CHAT)
    assert replica.new_tokens(CHAT)[0] > 50


def test_a_run_that_never_had_a_token_teaches_nothing() -> None:
    replica = Replica()
    replica.learn(ran(new=0, first_ms=None, ended=False, cut=True, steady=True, tokens_in=None))
    assert replica.cost(CHAT) == Replica().cost(CHAT)
    assert replica.new_tokens(CHAT) == Replica().new_tokens(CHAT)


def test_answers_of_each_priority_and_workload_have_lengths_of_their_own() -> None:
    replica = Replica()
    batch = demand_of(request(max_tokens=500, priority=Priority.BATCH), 100.0, 4096)
    for _ in range(40):
        replica.learn(ran(new=20))
        replica.learn(ran(new=400, demand=batch))
    assert replica.new_tokens(CHAT)[0] == pytest.approx(20, rel=0.1)
    assert replica.new_tokens(batch)[0] == pytest.approx(400, rel=0.1)


def test_what_clients_expect_is_held_to_what_it_was_worth() -> None:
    replica = Replica()
    hinted = demand_of(request(max_tokens=1_000, expected_tokens=100), 100.0, 4096)
    assert replica.new_tokens(hinted)[0] == pytest.approx(100, rel=0.15)
    for _ in range(60):
        replica.learn(ran(new=200, demand=hinted))
    assert replica.new_tokens(hinted)[0] == pytest.approx(200, rel=0.05)
    assert left_of(replica, hinted, 150) == pytest.approx(50, rel=0.2)
    assert 0 < left_of(replica, hinted, 900) <= 100


def test_the_hint_is_bounded_by_the_bound() -> None:
    hinted = demand_of(request(max_tokens=10, expected_tokens=1_000), 5.0, 4096)
    assert (hinted.hint, hinted.bound) == (10, 10)
    assert Replica().new_tokens(hinted)[0] <= 10


def test_embeddings_are_read_and_nothing_is_drawn() -> None:
    replica = Replica()
    embedding = demand_of(request(workload=Workload.EMBEDDING, prompt=None, inputs=("a",), max_tokens=None), 50.0, 512)
    assert embedding.bound == 0
    for size in range(10, 60):
        replica.learn(ran(size * 10, 1, demand=embedding, first_ms=1.0, end_ms=5.0 + 3.0 * size * 10))
    assert replica.cost(embedding).busy_ms(100, 0) == pytest.approx(305, rel=0.05)
    assert replica.cost(CHAT) == Replica().cost(CHAT)
    assert replica.new_tokens(embedding) == (0.0, 0.0)


def test_bytes_to_a_token_are_measured() -> None:
    replica = Replica()
    assert replica.tokens_of(400, Workload.CHAT) == 100
    for _ in range(50):
        replica.learn(ran(1_000, prompt_bytes=2_000, demand=demand_of(request(), 1.0, 4096)))
    assert replica.tokens_of(400, Workload.COMPLETION) == pytest.approx(200, rel=0.1)
    assert replica.tokens_of(400, Workload.CHAT) == 100


def test_another_model_leaves_a_weak_guess() -> None:
    replica = Replica()
    for _ in range(40):
        replica.learn(ran())
    replica.forget()
    assert replica.doubt(CHAT) > 0.3
    for _ in range(12):
        replica.learn(ran(end_ms=220.0 + 49 * 40.0))
    assert replica.cost(CHAT).per_new_ms == pytest.approx(40.0, rel=0.2)


def test_no_part_of_the_cost_is_ever_negative() -> None:
    replica, draw = Replica(), random.Random(2)
    for _ in range(300):
        prompt = draw.randrange(1, 100)
        first = draw.choice((0.0, 1_000.0 / prompt, 5.0 * prompt))
        replica.learn(ran(prompt, 1, first_ms=first, end_ms=first))
        cost = replica.cost(CHAT)
        assert cost.fixed_ms >= 0
        assert cost.per_prompt_ms >= 0
        assert cost.per_new_ms >= 0
        assert 0 <= cost.noise <= 2

"""What tasks ask of engines, one and all."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.tasks import Priority, Workload
from orchestratord.demand import Demand, Sum, Tally, demand_of
from tests.unit.orchestratord.world import request


@pytest.mark.parametrize(
    ("changes", "bound", "hint"),
    [
        ({"max_tokens": 8}, 8, 0),
        ({"max_tokens": None}, 900, 0),
        ({"max_tokens": 8, "expected_tokens": 5}, 8, 5),
        ({"max_tokens": 8, "expected_tokens": 50}, 8, 8),
        ({"workload": Workload.EMBEDDING, "prompt": None, "inputs": ("a",), "max_tokens": None}, 0, 0),
    ],
)
def test_new_tokens_are_bounded_by_what_was_asked_for_or_by_the_context(
    changes: dict[str, Any], bound: int, hint: int
) -> None:
    demand = demand_of(request(**changes), 100.0, 1_000)
    assert (demand.bound, demand.hint, demand.prompt) == (bound, hint, 100.0)


def test_a_prompt_that_fills_the_context_leaves_room_for_one_token_at_least() -> None:
    assert demand_of(request(max_tokens=None), 5_000.0, 1_000).bound == 1


def test_alike_is_what_is_measured_together() -> None:
    plain = demand_of(request(max_tokens=100), 5.0, 4096).kind
    assert demand_of(request(max_tokens=120), 500.0, 4096).kind == plain
    others: list[dict[str, Any]] = [
        {"priority": Priority.BATCH},
        {"workload": Workload.CHAT},
        {"session_id": "s"},
        {"expected_tokens": 7},
        {"max_tokens": 1_000},
    ]
    kinds = {demand_of(request(**({"max_tokens": 100} | each)), 5.0, 4096).kind for each in others}
    assert len(kinds | {plain}) == 6


demands = st.builds(
    Demand,
    kind=st.sampled_from([demand_of(request(max_tokens=size), 1.0, 4096).kind for size in (1, 10, 100)]),
    prompt=st.floats(0, 1e6),
    bound=st.integers(1, 10**7),
    hint=st.integers(0, 100),
)


@given(st.lists(demands, max_size=30), st.randoms(use_true_random=False))
def test_the_sums_are_those_of_the_tasks_that_are_left(waiting: list[Demand], draw: Any) -> None:  # noqa: ANN401 - a Random
    tally = Tally()
    for each in waiting:
        tally.add(each)
    order = list(waiting)
    draw.shuffle(order)
    while order:
        tally.remove(order.pop())
        for kind in {each.kind for each in waiting}:
            left = [each for each in order if each.kind == kind]
            if not left:
                assert kind not in tally.sums
                continue
            held = tally.sums[kind]
            assert (held.count, held.bound, held.hint) == (
                len(left),
                sum(each.bound for each in left),
                sum(each.hint for each in left),
            )
            assert held.prompt == pytest.approx(sum(each.prompt for each in left), rel=1e-6, abs=1e-3)
    assert tally.sums == {}


def test_one_waiting_task_is_its_own_sum() -> None:
    tally, demand = Tally(), demand_of(request(max_tokens=8), 3.0, 4096)
    tally.add(demand)
    assert tally.sums == {demand.kind: Sum(1, 3.0, 8, 0)}

"""The numbers against a plain set, and what they cost: steps are counted, so no clock decides."""

import gc
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.depth import FullQueue
from orchestratord.arrivals import BLOCK, SPARE, Arrivals, Holds

NUMBERS = st.integers(0, 3 * BLOCK) | st.integers(0, 20) | st.sampled_from([BLOCK - 1, BLOCK, 1000 * BLOCK])


@given(st.lists(NUMBERS), NUMBERS)
def test_they_do_what_a_set_does(steps: list[int], other: int) -> None:
    arrivals, model = Arrivals(), set[int]()
    for number in steps:
        assert (number in arrivals) == (number in model)
        if number in model:
            arrivals.remove(number)
            model.remove(number)
        else:
            arrivals.add(number)
            model.add(number)
        assert len(arrivals) == len(model)
        assert list(arrivals) == sorted(model)
        assert arrivals.rank(other) == sum(each < other for each in model)
        if model:
            assert arrivals.first == min(model)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=120))
def test_the_hold_that_ends_first_is_one_of_those_that_are_there(steps: list[tuple[int, bool]]) -> None:
    arrivals, numbers = Arrivals(), itertools.count()
    holds, model = Holds(arrivals), dict[int, int]()
    for until, leaves in steps:
        if leaves and model:
            gone = random.Random(until).choice(sorted(model))
            del model[gone]
            arrivals.remove(gone)
        else:
            number = next(numbers)
            arrivals.add(number)
            holds.add(until, number)
            model[number] = until
        assert holds.first == min(((ends, each) for each, ends in model.items()), default=None)


def test_holds_of_those_who_went_do_not_pile_up() -> None:
    arrivals = Arrivals()
    holds = Holds(arrivals)
    arrivals.add(0)
    holds.add(0.0, 0)  # the first to end, so that those behind it are never looked at
    for number in range(1, 2_000):
        arrivals.add(number)
        holds.add(float(number), number)
        arrivals.remove(number)
        assert len(holds._heap) <= SPARE + 6  # noqa: SLF001 - it shows nowhere else
    assert holds.first == (0.0, 0)


# --- what the depth costs ---------------------------------------------------------------------------------------------


class Counted(int):
    """A number that counts how often it is compared or hashed, also where that happens within one step."""

    touched = 0

    def __lt__(self, other: int) -> bool:
        Counted.touched += 1
        return int(self) < int(other)

    def __gt__(self, other: int) -> bool:
        Counted.touched += 1
        return int(self) > int(other)

    def __hash__(self) -> int:
        Counted.touched += 1
        return hash(int(self))

    def __eq__(self, other: object) -> bool:
        Counted.touched += 1
        return int(self) == other

    def __add__(self, other: int) -> "Counted":
        return Counted(int(self) + other)


@contextmanager
def nobody_collects() -> Iterator[None]:
    """A garbage collection ends what other tests have left, and whatever runs then would be counted here."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def steps_of(operation: Callable[[], Any]) -> int:
    """How many lines it runs, and how often it touches an arrival's number."""
    lines, before = 0, Counted.touched

    def step(_: FrameType, event: str, __: object) -> Any:  # noqa: ANN401 - a trace function answers with itself
        nonlocal lines
        lines += event == "line"
        return step

    former = sys.gettrace()
    with nobody_collects():
        sys.settrace(step)
        try:
            operation()
        finally:
            sys.settrace(former)
    return lines + Counted.touched - before


def most_steps(depth: int) -> dict[str, int]:
    """The most that one of many operations takes with so many tasks waiting."""
    queue = FullQueue(depth, first=Counted(0))
    most = dict.fromkeys(("enqueue", "dequeue", "cancel", "position"), 0)
    for _ in range(200):
        for name in ("position", "cancel", "enqueue", "enqueue", "dequeue"):
            most[name] = max(most[name], steps_of(getattr(queue, name)()))
    assert abs(len(queue.backlog) - depth) <= 1
    return most


@pytest.mark.req("HP-09")
def test_an_operation_takes_as_many_steps_in_a_deep_queue_as_in_a_short_one() -> None:
    shallow, deep = most_steps(50), most_steps(20_000)
    for name, steps in deep.items():
        assert steps <= 1.2 * shallow[name] + 10, (name, shallow[name], steps)

"""How long ended tasks and receipts are kept."""

from hypothesis import given
from hypothesis import strategies as st

from orchestratord.retention import Bounds, Old, Totals, due

Item = tuple[int, int]
"""When it ended, and what it takes."""
items = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50)), max_size=20).map(sorted)
bounds_drawn = st.builds(
    Bounds, max_bytes=st.integers(1, 400), max_age_ms=st.integers(1, 100), tasks=st.integers(1, 12)
)


def totals_of(tasks: list[Item], receipts: list[Item]) -> Totals:
    return Totals(len(tasks), len(receipts), sum(size for _, size in [*tasks, *receipts]))


def let_go(
    tasks: list[Item], receipts: list[Item], bounds: Bounds, now_ms: int, at_once: int
) -> tuple[list[Item], list[Item]]:
    """As the keeper does it: a few rows at a time, until nothing is due."""
    gone, dropped, totals = 0, 0, totals_of(tasks, receipts)
    while True:
        old_tasks = [Old(str(n), *tasks[n]) for n in range(gone, len(tasks))][:at_once]
        old_receipts = [Old(n, *receipts[n]) for n in range(dropped, len(receipts))][:at_once]
        found = due(old_tasks, old_receipts, totals, bounds, now_ms)
        if not found.task_ids and found.receipts_below is None:
            return tasks[gone:], receipts[dropped:]
        assert list(found.task_ids) == [str(n) for n in range(gone, gone + len(found.task_ids))]
        gone += len(found.task_ids)
        dropped = dropped if found.receipts_below is None else found.receipts_below
        totals = found.left
        assert totals == totals_of(tasks[gone:], receipts[dropped:])


@given(items, items, bounds_drawn, st.integers(0, 250), st.integers(1, 7))
def test_what_is_left_keeps_every_bound_and_is_the_newest(
    tasks: list[Item], receipts: list[Item], bounds: Bounds, now_ms: int, at_once: int
) -> None:
    left_tasks, left_receipts = let_go(tasks, receipts, bounds, now_ms, at_once)
    left = totals_of(left_tasks, left_receipts)
    assert left.tasks <= bounds.tasks
    assert left.receipts >= min(1, len(receipts))  # the next one names the newest
    only_link = left.tasks == 0 and left.receipts == 1
    assert left.size <= bounds.max_bytes or only_link
    old = [ended for ended, _ in [*left_tasks, *left_receipts[:-1]] if now_ms - ended > bounds.max_age_ms]
    assert old == []


@given(items, items, bounds_drawn, st.integers(0, 250), st.integers(1, 7))
def test_how_many_are_looked_at_at_once_changes_nothing(
    tasks: list[Item], receipts: list[Item], bounds: Bounds, now_ms: int, few: int
) -> None:
    assert let_go(tasks, receipts, bounds, now_ms, few) == let_go(tasks, receipts, bounds, now_ms, 100)


@given(items, items, bounds_drawn, st.integers(0, 250))
def test_nothing_goes_that_may_stay(tasks: list[Item], receipts: list[Item], bounds: Bounds, now_ms: int) -> None:
    """Of what went, the last one was too old, or one too many, or did not fit with all that is left."""
    left_tasks, left_receipts = let_go(tasks, receipts, bounds, now_ms, 100)
    left = totals_of(left_tasks, left_receipts)
    gone_tasks, gone_receipts = tasks[: len(tasks) - left.tasks], receipts[: len(receipts) - left.receipts]
    for gone in filter(None, (gone_tasks, gone_receipts)):
        ended_ms, size = gone[-1]
        too_old = now_ms - ended_ms > bounds.max_age_ms
        too_many = gone is gone_tasks and left.tasks + 1 > bounds.tasks
        later = [
            each
            for each in (*gone_tasks, *gone_receipts)
            if each[0] > ended_ms or (each[0] == ended_ms and gone is gone_tasks and each in gone_receipts)
        ]
        too_large = left.size + size + sum(taken for _, taken in later) > bounds.max_bytes
        assert too_old or too_many or too_large


def test_nothing_goes_where_nothing_is() -> None:
    found = due([], [], Totals(), Bounds(tasks=1, max_bytes=1, max_age_ms=1), 10**12)
    assert (found.task_ids, found.receipts_below) == ((), None)

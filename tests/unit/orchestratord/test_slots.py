"""Which slot is handed out, step by step and whatever the order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.slots import SlotTable, Taken

ENGINE, OTHER = "one engine", "another one"


def use(table: SlotTable, owner: int | None, *, count: int = 2, start: int = 1) -> int:
    """Take a slot, give it back, and say which it was."""
    taken = table.take("p", ENGINE, start, count, owner)
    assert taken is not None
    table.give_back(taken)
    return taken.index


@pytest.mark.req("HP-07")
def test_a_session_gets_the_slot_that_has_its_cache() -> None:
    table = SlotTable()
    first, second = use(table, 1), use(table, 2)
    assert first != second
    assert [use(table, owner) for owner in (2, 1, 1, 2)] == [second, first, first, second]


def test_a_stranger_spares_the_cache_of_a_session() -> None:
    table = SlotTable()
    session = use(table, 1)
    assert all(use(table, None) != session for _ in range(3))
    assert table.holds("p", 1, 1)


def test_where_all_have_a_session_the_one_used_least_recently_goes() -> None:
    table = SlotTable()
    use(table, 1)
    second = use(table, 2)
    use(table, 1)
    assert use(table, None) == second
    assert not table.holds("p", 1, 2)
    assert table.holds("p", 1, 1)


def test_what_an_ended_session_had_goes_first() -> None:
    table = SlotTable()
    first = use(table, 1)
    use(table, 2)
    use(table, 1)
    table.forget(1)
    assert use(table, None) == first


def test_a_busy_slot_is_nobodys() -> None:
    table = SlotTable()
    held = [table.take("p", ENGINE, 1, 2, owner) for owner in (None, 7)]
    assert {taken.index for taken in held if taken is not None} == {0, 1}
    assert table.take("p", ENGINE, 1, 2, 7) is None
    assert table.take_own("p", 1, 7) is None


@pytest.mark.req("HP-07")
def test_another_start_of_the_engine_knows_nothing() -> None:
    table = SlotTable()
    held = table.take("p", ENGINE, 1, 2, 1)
    assert held is not None
    assert not table.holds("p", 2, 1)
    fresh = [table.take("p", OTHER, 2, 2, None) for _ in range(2)]
    assert None not in fresh
    table.give_back(held)  # of the former start: it frees nothing
    assert table.take("p", OTHER, 2, 2, None) is None
    assert not table.holds("p", 1, 1)


@pytest.mark.req("HP-07")
def test_an_engine_that_lived_on_is_busy_as_before_and_its_caches_are_not_trusted() -> None:
    table = SlotTable()
    use(table, 1)
    held = table.take("p", ENGINE, 1, 2, 2)
    assert held is not None
    taken = table.take("p", ENGINE, 2, 2, None)  # it was in doubt, and was asked anew
    assert taken is not None
    assert taken.index != held.index
    assert table.take("p", ENGINE, 2, 2, None) is None
    assert not any(table.holds("p", 2, owner) for owner in (1, 2))
    table.give_back(held)
    assert table.take("p", ENGINE, 2, 2, None) == held


def test_a_session_that_goes_on_elsewhere_leaves_nothing_behind() -> None:
    table = SlotTable()
    use(table, 1)
    assert table.take("q", OTHER, 1, 1, 1) == Taken("q", OTHER, 0)
    assert table.holds("q", 1, 1)


def test_the_number_of_slots_is_what_the_engine_says_now() -> None:
    table = SlotTable()
    use(table, None, count=1)
    assert {use(table, owner, count=3) for owner in (1, 2, 3)} == {0, 1, 2}
    assert use(table, 9, count=1) == 0


def test_its_own_slot_is_taken_to_free_it() -> None:
    table = SlotTable()
    index = use(table, 1)
    assert table.take_own("p", 1, 1) == Taken("p", ENGINE, index)
    assert table.take_own("p", 2, 1) is None
    assert table.take_own("q", 1, 1) is None
    assert table.take("p", ENGINE, 1, 2, None) != Taken("p", ENGINE, index)


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "give", "forget", "doubt", "replace"]), st.integers(0, 4), st.integers(1, 3)),
    max_size=60,
)


@given(STEPS)
def test_no_slot_is_given_twice_and_a_cache_has_one_place(steps: list[tuple[str, int, int]]) -> None:
    table, engine, start, held = SlotTable(), 1, 1, list[Taken]()
    for step, number, count in steps:
        owner = number or None
        if step == "take":
            busy = {taken.index for taken in held if taken.engine == engine}
            taken = table.take("p", engine, start, count, owner)
            if taken is None:
                assert busy >= set(range(count))
                continue
            assert taken.index < count
            assert taken.index not in busy
            held.append(taken)
            assert owner is None or table.holds("p", start, owner)
        elif step == "give" and held:
            table.give_back(held.pop(number % len(held)))
        elif step == "forget":
            table.forget(number)
            assert not table.holds("p", start, number)
        elif step in {"doubt", "replace"}:
            engine, start = engine + (step == "replace"), start + 1
            assert not any(table.holds("p", start, each) for each in range(1, 5))

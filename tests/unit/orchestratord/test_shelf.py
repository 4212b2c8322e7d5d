"""What stays on the shelf of artifacts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.shelf import BLOCK_BYTES, Shelf, taken

NAMES = st.sampled_from("abcdef")
STEPS = st.lists(st.tuples(NAMES, st.integers(0, 40_000), st.integers(0, 50)), max_size=40)


@pytest.mark.req("HP-21")
@given(STEPS, st.integers(1, 100_000), st.integers(1, 200))
def test_the_bounds_hold_after_every_sweep_and_only_the_oldest_goes(
    steps: list[tuple[str, int, int]], most: int, age: int
) -> None:
    shelf, now, stored = Shelf(most, age), 0, dict[str, int]()
    for name, length, later in steps:
        now += later
        shelf.put(name, length, now)
        stored.pop(name, None)
        stored[name] = now
        gone = shelf.due(now)
        assert gone == list(stored)[: len(gone)]
        for each in gone:
            shelf.drop(each)
            del stored[each]
        assert shelf.total_bytes <= most
        assert all(now - moment <= age for moment in stored.values())
        assert {each for each in NAMES_ALL if each in shelf} == set(stored)


NAMES_ALL = "abcdef"


def test_a_file_counts_as_what_it_takes() -> None:
    assert (taken(0), taken(1), taken(BLOCK_BYTES), taken(BLOCK_BYTES + 1)) == (4096, 4096, 4096, 8192)


def test_what_is_stored_again_is_the_newest() -> None:
    shelf = Shelf(2 * BLOCK_BYTES, 1_000)
    for name in ("a", "b", "a", "c"):
        shelf.put(name, 1, 0)
    assert shelf.due(0) == ["b"]


def test_what_was_left_by_an_earlier_run_is_older_than_what_was_put_since() -> None:
    shelf = Shelf(2 * BLOCK_BYTES, 1_000)
    shelf.put("new", 10, 50)
    shelf.found([("late", 10, 20), ("early", 10, 10), ("new", 10, 5)])
    assert shelf.total_bytes == 3 * BLOCK_BYTES
    assert shelf.due(50) == ["early"]

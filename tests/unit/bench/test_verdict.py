"""The verdict over a flood's book: it finds what must not be."""

import pytest

from bench.flood.verdict import Reader, Verdict
from bench.flood.watched import Note

UP = [
    Note(0.0, "pool", pool_id, usable=True, accepts=True, slots=1, engine=engine, how="model")
    for pool_id, engine in (("a", 1), ("b", 2))
]
BOTH = ("a", "b")


def offer(at: float, task_id: str, priority: str = "batch", **more: object) -> Note:
    return Note(at, "offer", task_id, priority=priority, **{"pools": BOTH, **more})  # type: ignore[arg-type]


def start(at: float, task_id: str, pool: str) -> list[Note]:
    engine = 1 if pool == "a" else 2
    return [
        Note(at, "gone", task_id),
        Note(at, "take", pool, engine=engine, hold=int(task_id[1:])),
        Note(at, "start", task_id, pool=pool),
    ]


def end(at: float, task_id: str, pool: str) -> list[Note]:
    engine = 1 if pool == "a" else 2
    return [Note(at, "free", pool, engine=engine, hold=int(task_id[1:])), Note(at, "end", task_id, how="done")]


def verdict(*notes: Note) -> Verdict:
    return Reader("model", share=0).read([*UP, *notes])


def test_a_well_kept_book_leaves_nothing_to_complain_about() -> None:
    found = verdict(
        offer(1, "t1"),
        *start(1, "t1", "a"),
        offer(2, "t2"),
        *start(2, "t2", "b"),
        offer(3, "t3"),
        Note(3, "pumped", ""),
        *end(5, "t1", "a"),
        *start(5, "t3", "a"),
        Note(5, "pumped", ""),
        *end(6, "t2", "b"),
        *end(7, "t3", "a"),
    )
    assert (found.offered, found.ends.total(), found.occupancy, found.longest_run) == (3, 3, 1.0, 4.0)
    assert found.wanted_slot_s == 4.0  # both slots, while t3 waited
    assert not [*found.passed, *found.left_idle, *found.overfull, *found.never_ended, *found.ended_twice]


def test_a_slot_that_was_left_free_is_found() -> None:
    found = verdict(offer(1, "t1"), Note(1, "pumped", ""), *start(3, "t1", "a"), *end(4, "t1", "a"))
    assert found.left_idle == ["a", "b"]
    assert (found.idle_slot_s, found.wanted_slot_s) == (4.0, 4.0)  # it could have had either


def test_a_slot_is_not_free_for_a_turn_that_is_held_for_another() -> None:
    held = offer(1, "t1", pool="a", until=5.0)
    found = verdict(offer(0.5, "t0"), *start(0.5, "t0", "a"), held, Note(1, "pumped", ""), Note(4.9, "pumped", ""))
    assert found.left_idle == []
    assert verdict(offer(0, "t0"), *start(0, "t0", "a"), held, Note(5.1, "pumped", "")).left_idle == ["b"]


def test_no_slot_is_free_for_a_turn_before_the_earlier_one_is_over() -> None:
    parked = offer(1, "t1", how="parked")
    assert verdict(parked, Note(2, "pumped", "")).left_idle == []
    found = verdict(parked, Note(2, "unpark", "t1"), Note(2, "pumped", ""))
    assert (found.left_idle, found.parked) == (["a", "b"], 1)


@pytest.mark.parametrize(("first", "second"), [("batch", "batch"), ("interactive", "interactive")])
def test_a_task_that_passed_an_earlier_one_is_found(first: str, second: str) -> None:
    found = verdict(offer(1, "t1", first), offer(2, "t2", second), *start(3, "t2", "a"))
    assert found.passed == [("t2", "t1")]


def test_a_batch_task_that_passed_an_interactive_one_is_found() -> None:
    passed = verdict(offer(1, "t1"), offer(2, "t2", "interactive"), *start(3, "t1", "a")).shared["a"]
    assert (passed.certain, passed.batch_certain) == (1, 1)
    elsewhere = verdict(offer(1, "t1"), offer(2, "t2", "interactive", pools=("b",)), *start(3, "t1", "a")).shared["a"]
    assert (elsewhere.possible, elsewhere.batch_possible) == (0, 0)


def test_more_than_the_slots_and_wrong_ends_are_found() -> None:
    found = verdict(
        *(offer(1, f"t{number}") for number in range(3)),
        *start(2, "t0", "a"),
        *start(2, "t1", "a"),
        *end(3, "t0", "a"),
        end(3, "t0", "a")[-1],
    )
    assert found.overfull == ["a"]
    assert found.ended_twice == ["t0"]
    assert found.never_ended == ["t1", "t2"]

"""Turns that wait in the queue for an earlier one: nobody gets them, and they keep their place."""

from __future__ import annotations

from contracts.config import FullPolicy, Queue
from contracts.tasks import Priority
from orchestratord.backlog import Backlog, Full, Queued
from orchestratord.dispatch import next_assignment, next_expiry
from orchestratord.placement import Replica

INTERACTIVE = Priority.INTERACTIVE


def backlog(capacity: int = 4, policy: FullPolicy = FullPolicy.REJECT) -> Backlog:
    return Backlog({pool: Queue(capacity=capacity, full_policy=policy) for pool in "ab"})


def replicas(free: int = 1) -> list[Replica]:
    return [Replica(pool_id=each, replica_id=f"{each}-0", usable=True, free_slots=free, active=0) for each in "ab"]


def started(queue: Backlog, now: float = 0.0) -> str | None:
    found = next_assignment(queue, replicas(), now)
    return None if found is None else f"{found.task_id}@{found.replica.pool_id}"


def test_nobody_gets_a_parked_turn_and_it_keeps_no_slot_from_others() -> None:
    queue = backlog()
    assert queue.offer("t1", INTERACTIVE, "ab", parked=True) == Queued(position=0, charged_to="a")
    queue.offer("t2", INTERACTIVE, "ab")
    assert started(queue) == "t2@a"
    assert started(queue, now=1e12) is None
    assert next_expiry(queue, replicas()) is None


def test_it_goes_by_its_old_number_once_it_may() -> None:
    queue = backlog()
    queue.offer("t1", INTERACTIVE, "ab", parked=True)
    queue.offer("t2", INTERACTIVE, "ab")
    queue.unpark("t1", None, None)
    assert [started(queue), started(queue)] == ["t1@a", "t2@a"]


def test_it_may_be_held_for_its_home_then() -> None:
    queue = backlog()
    queue.offer("t1", INTERACTIVE, "ab", parked=True)
    queue.unpark("t1", "b", 100.0)
    only_a = replicas()[:1]
    assert next_assignment(queue, only_a, 99.0) is None
    assert next_expiry(queue, only_a) == 100.0
    assert started(queue, 99.0) == "t1@b"


def test_a_home_that_may_not_run_it_is_none() -> None:
    queue = backlog()
    queue.offer("t1", INTERACTIVE, "a", parked=True)
    queue.unpark("t1", "b", 100.0)
    assert started(queue) == "t1@a"


def test_it_counts_for_the_bound_and_can_be_taken_out_evicted_and_stranded() -> None:
    queue = backlog(capacity=1, policy=FullPolicy.DROP_LRU)
    queue.offer("t1", INTERACTIVE, "a", parked=True)
    assert queue.unserved("b") == ["t1"]
    assert queue.waiting_for("a") == ["t1"]
    assert queue.offer("t2", INTERACTIVE, "a") == Queued(position=0, charged_to="a", evicted="t1")
    assert queue.offer("t3", INTERACTIVE, "b", parked=True) == Queued(position=0, charged_to="b")
    assert queue.remove("t3")
    assert len(queue) == 1


def test_it_stays_parked_when_a_pool_is_withdrawn() -> None:
    queue = backlog()
    queue.offer("t1", INTERACTIVE, "ab", parked=True)
    assert queue.withdraw("a", ["t1"]) == []
    assert started(queue) is None
    queue.unpark("t1", None, None)
    assert started(queue) == "t1@b"


def test_a_full_queue_has_no_place_for_it() -> None:
    queue = backlog(capacity=1)
    queue.offer("t1", INTERACTIVE, "a")
    assert isinstance(queue.offer("t2", INTERACTIVE, "a", parked=True), Full)

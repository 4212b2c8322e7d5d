"""Random lives of a whole scheduler, backlog and dispatch together, on a simulated clock."""

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from contracts.config import FullPolicy, Queue
from contracts.tasks import Placement, Priority
from orchestratord.backlog import Backlog, Full
from orchestratord.dispatch import next_assignment, next_expiry
from orchestratord.placement import Replica, choose

QUEUES = {"a": Queue(capacity=4), "b": Queue(capacity=3, full_policy=FullPolicy.DROP_LRU), "c": Queue(capacity=5)}
SLOTS = {"a": 1, "b": 2, "c": 3}
POOL = st.sampled_from(sorted(QUEUES))
POOLS = st.sets(POOL, min_size=1).map(frozenset)


class Arrival(msgspec.Struct, frozen=True):
    """A task that was admitted. ``takes`` so long on any replica."""

    number: int
    priority: Priority
    pools: frozenset[str]
    takes: int

    @property
    def turn(self) -> tuple[bool, int]:
        return self.priority is Priority.BATCH, self.number


@dataclass
class Engine:
    """One simulated replica."""

    pool_id: str
    usable: bool = True
    vram: int = 0


class Scheduler(RuleBasedStateMachine):
    """Arrivals, the passing of time, dying and returning replicas, cancels and drains, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(QUEUES)
        self.engines = {pool: Engine(pool) for pool in QUEUES}
        self.now = 0
        self.arrived: dict[str, Arrival] = {}
        self.running: dict[str, tuple[str, int]] = {}  # task -> (pool, when it will be done)
        self.ends: dict[str, list[str]] = {}

    # --- what the shell would do ---

    def replicas(self) -> list[Replica]:
        return [
            Replica(
                pool_id=engine.pool_id,
                replica_id=f"{engine.pool_id}-0",
                usable=engine.usable,
                free_slots=SLOTS[engine.pool_id] - self.active(engine.pool_id),
                active=self.active(engine.pool_id),
                vram_free_bytes=engine.vram,
            )
            for engine in self.engines.values()
        ]

    def active(self, pool: str) -> int:
        return sum(where == pool for where, _ in self.running.values())

    def end(self, task_id: str, how: str) -> None:
        self.ends.setdefault(task_id, []).append(how)

    def waiting(self) -> dict[str, Arrival]:
        gone = {*self.running, *self.ends}
        return {task_id: task for task_id, task in self.arrived.items() if task_id not in gone}

    def pump(self) -> None:
        """Start all that can start, and check every assignment against the rules."""
        while True:
            replicas, waiting = self.replicas(), self.waiting()
            free = {each.pool_id for each in replicas if each.usable and each.free_slots}
            eligible = [task_id for task_id, task in waiting.items() if task.pools & free]
            assignment = next_assignment(self.backlog, replicas, self.now)
            if assignment is None:
                assert not eligible, f"{eligible} wait while {free} are free"
                return
            task_id, chosen = assignment.task_id, assignment.replica
            task = self.arrived[task_id]
            assert task_id == min(eligible, key=lambda each: waiting[each].turn), "not the first of those eligible"
            assert task_id not in self.backlog
            assert chosen == choose(replicas, Placement(), task.pools)
            self.running[task_id] = (chosen.pool_id, self.now + task.takes)

    # --- what happens ---

    @rule(priority=st.sampled_from(Priority), pools=POOLS, takes=st.integers(1, 9))
    def arrive(self, priority: Priority, pools: frozenset[str], takes: int) -> None:
        task_id = f"t{len(self.arrived)}"
        answer = self.backlog.offer(task_id, priority, pools)
        if isinstance(answer, Full):
            return
        self.arrived[task_id] = Arrival(len(self.arrived), priority, pools, takes)
        if answer.evicted is not None:
            self.end(answer.evicted, "evicted")
        self.pump()

    @rule(by=st.integers(1, 12))
    def time_passes(self, by: int) -> None:
        until = self.now + by
        while due := sorted((done, task_id) for task_id, (_, done) in self.running.items() if done <= until):
            self.now, task_id = due[0]
            del self.running[task_id]
            self.end(task_id, "done")
            self.pump()
        self.now = until

    @rule(pool=POOL)
    def an_engine_dies(self, pool: str) -> None:
        """What ran there is lost; what waits, waits on."""
        self.engines[pool].usable = False
        for task_id in [task_id for task_id, (where, _) in self.running.items() if where == pool]:
            del self.running[task_id]
            self.end(task_id, "reset")
        self.pump()

    @rule(pool=POOL)
    def an_engine_drains(self, pool: str) -> None:
        """What runs there goes on; nothing new comes, and what only it could run is told so."""
        self.engines[pool].usable = False
        for task_id in self.backlog.unserved([each for each in self.engines if each != pool]):
            self.backlog.remove(task_id)
            self.end(task_id, "drained")
        self.pump()

    @rule(pool=POOL, vram=st.integers(0, 2))
    def an_engine_returns(self, pool: str, vram: int) -> None:
        self.engines[pool].usable = True
        self.engines[pool].vram = vram
        self.pump()

    @precondition(lambda self: len(self.ends) < len(self.arrived))
    @rule(choice=st.integers(min_value=0))
    def a_client_cancels(self, choice: int) -> None:
        alive = [task_id for task_id in self.arrived if task_id not in self.ends]
        task_id = alive[choice % len(alive)]
        assert self.backlog.remove(task_id) != (task_id in self.running)
        self.running.pop(task_id, None)
        self.end(task_id, "canceled")
        self.pump()

    # --- what always holds ---

    @invariant()
    def never_more_active_than_slots(self) -> None:
        assert all(self.active(pool) <= slots for pool, slots in SLOTS.items())

    @invariant()
    def nobody_is_lost_or_ends_twice(self) -> None:
        assert len(self.backlog) == len(self.waiting())
        assert all(len(how) == 1 for how in self.ends.values())

    def teardown(self) -> None:
        """With every engine back, everything that was admitted comes to its one end."""
        for engine in self.engines.values():
            engine.usable = True
        self.pump()
        self.time_passes(by=10 * (len(self.arrived) + 1))
        assert self.ends.keys() == self.arrived.keys()
        assert all(len(how) == 1 for how in self.ends.values())
        assert len(self.backlog) == 0


@pytest.mark.req("HP-01", "HP-06", "HP-08")
def test_random_lives_of_a_scheduler() -> None:
    run_state_machine_as_test(Scheduler, settings=settings(deadline=None, max_examples=100, stateful_step_count=40))


def test_nothing_is_taken_while_no_slot_is_free() -> None:
    backlog = Backlog(QUEUES)
    backlog.offer("t", Priority.INTERACTIVE, {"a"})
    busy = Replica(pool_id="a", replica_id="a-0", usable=True, free_slots=0, active=1)
    assert next_assignment(backlog, [busy], 0) is None
    assert "t" in backlog


@pytest.mark.req("HP-08")
def test_a_later_task_passes_one_that_no_free_slot_could_serve() -> None:
    backlog = Backlog(QUEUES)
    backlog.offer("for-a", Priority.INTERACTIVE, {"a"})
    backlog.offer("for-b", Priority.BATCH, {"b"})
    replicas = [
        Replica(pool_id="a", replica_id="a-0", usable=False, free_slots=1, active=0),
        Replica(pool_id="b", replica_id="b-0", usable=True, free_slots=1, active=0),
    ]
    assignment = next_assignment(backlog, replicas, 0)
    assert assignment is not None
    assert (assignment.task_id, assignment.replica.pool_id) == ("for-b", "b")
    assert next_assignment(backlog, replicas, 0) is None


@pytest.mark.req("HP-06")
def test_the_tasks_own_preference_decides_among_free_replicas() -> None:
    backlog = Backlog(QUEUES)
    backlog.offer("t", Priority.INTERACTIVE, {"a", "b"}, Placement(prefer=("b",)))
    replicas = [
        Replica(pool_id=pool, replica_id=f"{pool}-0", usable=True, free_slots=1, active=0, vram_free_bytes=vram)
        for pool, vram in (("a", 24), ("b", 12))
    ]
    assignment = next_assignment(backlog, replicas, 0)
    assert assignment is not None
    assert assignment.replica.pool_id == "b"


# --- a turn that is held for its home ---------------------------------------------------------------------------------


def two(free_a: int, free_b: int, *, a_usable: bool = True) -> list[Replica]:
    """Two replicas with so many free slots."""
    return [
        Replica(pool_id="a", replica_id="a-0", usable=a_usable, free_slots=free_a, active=0),
        Replica(pool_id="b", replica_id="b-0", usable=True, free_slots=free_b, active=0, vram_free_bytes=1),
    ]


def assigned(backlog: Backlog, replicas: list[Replica], now_ms: float) -> tuple[str, str] | None:
    found = next_assignment(backlog, replicas, now_ms)
    return None if found is None else (found.task_id, found.replica.pool_id)


@pytest.mark.req("HP-07", "HP-08")
def test_a_turn_waits_for_its_home_and_is_passed_there_by_others_but_not_for_longer_than_it_is_held() -> None:
    backlog = Backlog(QUEUES)
    backlog.offer("turn", Priority.INTERACTIVE, {"a", "b"}, home="a", hold_until_ms=100)
    backlog.offer("other", Priority.BATCH, {"a", "b"})
    assert assigned(backlog, two(0, 1), 0) == ("other", "b")
    assert assigned(backlog, two(0, 1), 99) is None
    assert next_expiry(backlog, two(0, 1)) == 100
    assert next_expiry(backlog, two(0, 0)) is None  # nothing could start then
    assert assigned(backlog, two(0, 1), 100) == ("turn", "b")


@pytest.mark.req("HP-07")
def test_a_turn_goes_home_where_its_home_is_free() -> None:
    backlog = Backlog(QUEUES)
    for number, until in enumerate((None, 0, 100)):
        backlog.offer(
            f"turn{number}", Priority.BATCH, {"a", "b"}, Placement(prefer=("b",)), home="a", hold_until_ms=until
        )
        assert assigned(backlog, two(1, 1), 1) == (f"turn{number}", "a")


@pytest.mark.req("HP-07", "HP-08")
def test_nobody_waits_for_a_home_that_is_gone() -> None:
    backlog = Backlog(QUEUES)
    backlog.offer("turn", Priority.INTERACTIVE, {"a", "b"}, home="a", hold_until_ms=100)
    assert assigned(backlog, two(1, 1, a_usable=False), 0) == ("turn", "b")


@pytest.mark.req("HP-01")
def test_a_start_that_is_owed_to_batch_is_taken_where_it_is_owed() -> None:
    queues = {"a": Queue(capacity=9), "b": Queue(capacity=9, batch_share=0.5)}
    backlog = Backlog(queues)
    for number in range(3):
        backlog.offer(f"i{number}", Priority.INTERACTIVE, {"a", "b"})
    backlog.offer("batch", Priority.BATCH, {"a", "b"})
    assert assigned(backlog, two(0, 1), 0) == ("i0", "b")
    assert assigned(backlog, two(1, 0), 0) == ("i1", "a")
    assert assigned(backlog, two(0, 1), 0) == ("batch", "b")
    assert assigned(backlog, two(0, 1), 0) == ("i2", "b")

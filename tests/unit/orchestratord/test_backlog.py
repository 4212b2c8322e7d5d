"""The backlog against a plain list that does the same things the slow way."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from contracts.config import FullPolicy, Queue
from contracts.tasks import Placement, Priority
from orchestratord.backlog import Backlog, Entry, Full, Queued

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH
QUEUES = {
    "a": Queue(capacity=3),
    "b": Queue(capacity=2, full_policy=FullPolicy.DROP_LRU),
    "c": Queue(capacity=4, full_policy=FullPolicy.DROP_LRU),
    "d": Queue(capacity=1),
}
POOLS = st.sets(st.sampled_from(sorted(QUEUES)), min_size=1)


class Waiting(msgspec.Struct, frozen=True):
    """One task of the model. ``number``: of its arrival."""

    task_id: str
    number: int
    priority: Priority
    pools: frozenset[str]
    charged_to: str | None
    home: str | None = None
    held_until: float | None = None
    parked: bool = False

    @property
    def turn(self) -> tuple[bool, int]:
        return self.priority is BATCH, self.number

    @property
    def open_to(self) -> frozenset[str]:
        if self.parked:
            return frozenset()
        return self.pools if self.held_until is None else self.pools & {self.home}

    def may_run_on(self, pools: frozenset[str]) -> bool:
        return bool(self.pools & pools)

    def may_start_on(self, pools: frozenset[str]) -> bool:
        return bool(self.open_to & pools)


class BacklogMachine(RuleBasedStateMachine):
    """Every rule does the same to the backlog and to a list, and compares the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(QUEUES)
        self.model: list[Waiting] = []
        self.started: list[Entry] = []
        self.arrivals = 0
        self.now = 0

    # --- the model ---

    def depth(self, pool: str) -> int:
        return sum(task.charged_to == pool for task in self.model)

    def ahead(self, priority: Priority, pools: frozenset[str]) -> int:
        newest = (priority is BATCH, self.arrivals + 1)
        return sum(task.turn < newest and task.may_run_on(pools) for task in self.model)

    def roomiest(self, pools: frozenset[str]) -> str | None:
        rooms = sorted((self.depth(pool) - QUEUES[pool].capacity, pool) for pool in pools)
        return rooms[0][1] if rooms[0][0] < 0 else None

    def victim(self, priority: Priority, pools: frozenset[str]) -> Waiting | None:
        """The oldest batch task in a queue that drops; an interactive one only for an interactive one."""
        dropping = {pool for pool in pools if QUEUES[pool].full_policy is FullPolicy.DROP_LRU}
        within = sorted((task for task in self.model if task.charged_to in dropping), key=lambda task: task.number)
        batch = [task for task in within if task.priority is BATCH]
        candidates = batch or ([] if priority is BATCH else within)
        return candidates[0] if candidates else None

    # --- the rules ---

    @rule(
        priority=st.sampled_from(Priority),
        pools=POOLS,
        home=st.none() | st.sampled_from(sorted(QUEUES)),
        wait=st.none() | st.integers(0, 3),
        parked=st.sampled_from([False, False, True]),
    )
    def offer(self, priority: Priority, pools: set[str], home: str | None, wait: int | None, *, parked: bool) -> None:
        wanted = frozenset(pools)
        charged_to, evicted = self.roomiest(wanted), None
        if charged_to is None:
            evicted = self.victim(priority, wanted)
            charged_to = None if evicted is None else evicted.charged_to
        task_id = f"t{self.arrivals + 1}"
        if evicted is not None:
            self.model.remove(evicted)
        position = self.ahead(priority, wanted)
        if evicted is None:
            assert self.backlog.ahead_of_new(priority, wanted) == position
        until = None if wait is None else self.now + wait
        answer = self.backlog.offer(task_id, priority, wanted, home=home, hold_until_ms=until, parked=parked)
        if charged_to is None:
            assert isinstance(answer, Full)
            assert answer.pool_id in wanted
            assert answer.policy is QUEUES[answer.pool_id].full_policy
            return
        self.arrivals += 1
        if home not in wanted:
            home = until = None
        until = None if wanted == {home} or parked else until
        self.model.append(Waiting(task_id, self.arrivals, priority, wanted, charged_to, home, until, parked))
        assert answer == Queued(position=position, charged_to=charged_to, evicted=evicted.task_id if evicted else None)

    @precondition(lambda self: self.model)
    @rule(choice=st.integers(min_value=0))
    def remove(self, choice: int) -> None:
        task = self.model.pop(choice % len(self.model))
        assert self.backlog.remove(task.task_id)
        assert not self.backlog.remove(task.task_id)

    @rule()
    def remove_a_stranger(self) -> None:
        assert not self.backlog.remove("stranger")

    @rule(pools=POOLS, priority=st.none() | st.sampled_from(Priority), take=st.booleans())
    def head(self, pools: set[str], priority: Priority | None, take: bool) -> None:
        open_pools = frozenset(pools)
        wanted = [task for task in self.model if priority in {None, task.priority}]
        eligible = sorted((task for task in wanted if task.may_start_on(open_pools)), key=lambda task: task.turn)
        found = self.backlog.head(open_pools, priority)
        assert (found.task_id if found else None) == (eligible[0].task_id if eligible else None)
        if found is not None and take:
            assert self.backlog.take_turn(found, min(open_pools & eligible[0].open_to)) is found
            self.model.remove(eligible[0])
            self.started.append(found)

    @precondition(lambda self: any(task.parked for task in self.model))
    @rule(choice=st.integers(min_value=0), home=st.none() | st.sampled_from(sorted(QUEUES)), wait=st.integers(0, 3))
    def unpark(self, choice: int, home: str | None, wait: int) -> None:
        parked = [number for number, task in enumerate(self.model) if task.parked]
        number = parked[choice % len(parked)]
        task, until = self.model[number], self.now + wait
        self.backlog.unpark(task.task_id, home, until)
        home = home if home in task.pools else None
        held = None if home is None or task.pools == {home} else until
        self.model[number] = msgspec.structs.replace(task, home=home, held_until=held, parked=False)

    @precondition(lambda self: self.started)
    @rule(choice=st.integers(min_value=0), without=st.sets(st.sampled_from(sorted(QUEUES))))
    def give_back(self, choice: int, without: set[str]) -> None:
        entry = self.started.pop(choice % len(self.started))
        left = entry.lane.pools - without
        assert self.backlog.give_back(entry, without) == bool(left)
        if left:
            home = entry.home if entry.home in left else None
            self.model.append(Waiting(entry.task_id, entry.number, entry.lane.priority, left, None, home))
            self.model.sort(key=lambda task: task.number)

    @rule(by=st.integers(0, 2), unusable=st.sets(st.sampled_from(sorted(QUEUES)), max_size=1))
    def let_go(self, by: int, unusable: set[str]) -> None:
        self.now += by
        self.backlog.let_go(self.now, unusable)
        for number, task in enumerate(self.model):
            over = task.held_until is not None and (task.held_until <= self.now or task.home in unusable)
            if over:
                self.model[number] = msgspec.structs.replace(task, held_until=None)

    @rule(pools=POOLS)
    def unserved(self, pools: set[str]) -> None:
        stranded = [task.task_id for task in self.model if not task.may_run_on(frozenset(pools))]
        found = self.backlog.unserved(pools)
        assert sorted(found) == sorted(stranded)

    @rule(pool=st.sampled_from(sorted(QUEUES)), keep=st.sets(st.integers(0, 12)))
    def withdraw(self, pool: str, keep: set[int]) -> None:
        waiting = [task for task in self.model if pool in task.pools]
        assert sorted(self.backlog.waiting_for(pool)) == sorted(task.task_id for task in waiting)
        misled = [task for number, task in enumerate(waiting) if number not in keep]
        stranded = self.backlog.withdraw(pool, [task.task_id for task in misled])
        assert stranded == [task.task_id for task in misled if task.pools == {pool}]
        moved = {task.task_id for task in misled} - set(stranded)
        for number, task in enumerate(self.model):
            if task.task_id in moved:
                left = msgspec.structs.replace(task, pools=task.pools - {pool})
                if task.home == pool:
                    left = msgspec.structs.replace(left, home=None, held_until=None)
                elif left.pools == {task.home}:
                    left = msgspec.structs.replace(left, held_until=None)
                self.model[number] = left

    @rule(pool=st.sampled_from(sorted(QUEUES)), keep=st.sets(st.integers(0, 12)))
    def extend(self, pool: str, keep: set[int]) -> None:
        barred = [task for task in self.model if pool not in task.pools]
        assert sorted(self.backlog.barred_from(pool)) == sorted(task.task_id for task in barred)
        joining = {task.task_id for number, task in enumerate(barred) if number not in keep}
        self.backlog.extend(pool, sorted(joining))
        for number, task in enumerate(self.model):
            if task.task_id in joining:
                self.model[number] = msgspec.structs.replace(task, pools=task.pools | {pool})

    @rule(pools=POOLS)
    def next_expiry(self, pools: set[str]) -> None:
        kept = [task for task in self.model if task.held_until is not None and (task.pools - task.open_to) & pools]
        ends = [task.held_until for task in kept if task.held_until is not None]
        assert self.backlog.next_expiry(pools) == min(ends, default=None)

    # --- what always holds ---

    @invariant()
    def bounds_hold(self) -> None:
        for pool, queue in QUEUES.items():
            assert self.backlog.depth(pool) <= queue.capacity == self.backlog.capacity(pool)
            assert self.backlog.depth(pool) == self.depth(pool)
            assert sum(self.backlog.depth(pool, priority) for priority in Priority) == self.backlog.depth(pool)
        assert len(self.backlog) == len(self.model)
        returned = sum(task.charged_to is None for task in self.model)
        assert sum(self.backlog.depth(pool) for pool in QUEUES) == len(self.backlog) - returned

    @invariant()
    def positions_are_the_naive_count(self) -> None:
        naive = {
            task.task_id: sum(other.turn < task.turn and other.may_run_on(task.pools) for other in self.model)
            for task in self.model
        }
        assert {task.task_id: self.backlog.position(task.task_id) for task in self.model} == naive

    @invariant()
    def members_are_the_same(self) -> None:
        assert all(task.task_id in self.backlog for task in self.model)
        assert all(self.backlog.pools_of(task.task_id) == task.pools for task in self.model)
        assert "stranger" not in self.backlog

    @invariant()
    def no_lane_is_left_empty(self) -> None:
        lanes = Counter((task.priority, task.pools, task.open_to) for task in self.model)
        found = self.backlog._lanes  # noqa: SLF001 - a leak shows nowhere else
        assert {key: len(lane.numbers) for key, lane in found.items()} == lanes


@pytest.mark.req("HP-01", "HP-02", "HP-08")
def test_the_backlog_does_what_the_list_does() -> None:
    run_state_machine_as_test(
        BacklogMachine, settings=settings(deadline=None, max_examples=150, stateful_step_count=40)
    )


def backlog(capacity: int = 2, policy: FullPolicy = FullPolicy.REJECT) -> Backlog:
    return Backlog({"p": Queue(capacity=capacity, full_policy=policy)})


def order(waiting: Backlog) -> list[str]:
    """Take everything out, in turn."""
    taken = []
    while (head := waiting.head({"p"})) is not None:
        taken.append(head.task_id)
        waiting.remove(head.task_id)
    return taken


@pytest.mark.req("HP-01")
def test_interactive_goes_before_batch_and_each_is_fifo() -> None:
    waiting = backlog(capacity=6)
    for task_id, priority in [("b1", BATCH), ("i1", INTERACTIVE), ("b2", BATCH), ("i2", INTERACTIVE)]:
        waiting.offer(task_id, priority, {"p"})
    assert order(waiting) == ["i1", "i2", "b1", "b2"]


@pytest.mark.req("HP-02")
def test_a_full_queue_refuses_and_names_its_policy() -> None:
    waiting = backlog()
    assert waiting.offer("t1", BATCH, {"p"}) == Queued(position=0, charged_to="p")
    assert waiting.offer("t2", INTERACTIVE, {"p"}) == Queued(position=0, charged_to="p")
    assert waiting.offer("t3", INTERACTIVE, {"p"}) == Full(pool_id="p", policy=FullPolicy.REJECT)
    assert len(waiting) == 2


@pytest.mark.req("HP-02")
@pytest.mark.parametrize(
    ("waiting_first", "newcomer", "evicted"),
    [
        ((BATCH, BATCH), BATCH, "t0"),
        ((BATCH, BATCH), INTERACTIVE, "t0"),
        ((INTERACTIVE, BATCH), BATCH, "t1"),
        ((INTERACTIVE, BATCH), INTERACTIVE, "t1"),
        ((INTERACTIVE, INTERACTIVE), INTERACTIVE, "t0"),
        ((INTERACTIVE, INTERACTIVE), BATCH, None),
    ],
)
def test_drop_lru_evicts_the_oldest_batch_task_first(
    waiting_first: tuple[Priority, Priority], newcomer: Priority, evicted: str | None
) -> None:
    waiting = backlog(policy=FullPolicy.DROP_LRU)
    for number, priority in enumerate(waiting_first):
        waiting.offer(f"t{number}", priority, {"p"})
    answer = waiting.offer("new", newcomer, {"p"})
    if evicted is None:
        assert answer == Full(pool_id="p", policy=FullPolicy.DROP_LRU)
    else:
        assert isinstance(answer, Queued)
        assert answer.evicted == evicted
        assert evicted not in waiting
        assert "new" in waiting


def test_a_task_is_charged_to_the_roomiest_of_its_pools() -> None:
    waiting = Backlog({"small": Queue(capacity=1), "large": Queue(capacity=2)})
    charged = [waiting.offer(f"t{n}", BATCH, {"small", "large"}) for n in range(4)]
    assert [each.charged_to for each in charged if isinstance(each, Queued)] == ["large", "large", "small"]
    assert isinstance(charged[3], Full)


def test_the_wish_travels_with_the_task() -> None:
    waiting = backlog()
    wish = Placement(prefer=("p",))
    waiting.offer("t", BATCH, {"p"}, wish)
    head = waiting.head({"p"})
    assert head is not None
    assert head.wish is wish


@pytest.mark.req("HP-01")
def test_a_task_that_a_pool_may_no_longer_run_keeps_its_turn() -> None:
    waiting = Backlog({"p": Queue(capacity=9), "q": Queue(capacity=9)})
    for task_id, pools in [("t1", {"p", "q"}), ("t2", {"p"}), ("t3", {"p", "q"}), ("t4", {"q"})]:
        waiting.offer(task_id, BATCH, pools)
    assert waiting.waiting_for("q") == ["t1", "t3", "t4"]
    assert waiting.withdraw("q", ["t1", "t3", "t4"]) == ["t4"]
    assert waiting.waiting_for("q") == ["t4"]
    assert order(waiting) == ["t1", "t2", "t3"]


# --- a task that comes back -------------------------------------------------------------------------------------------


@pytest.mark.req("HP-01")
def test_a_task_that_comes_back_stands_where_it_stood() -> None:
    waiting = Backlog({"p": Queue(capacity=9), "q": Queue(capacity=9)})
    for number in (1, 2, 3):
        waiting.offer(f"t{number}", BATCH, {"p", "q"})
    taken = [waiting.take_turn(head, "p") for _ in range(2) if (head := waiting.head({"p"}))]
    assert [waiting.give_back(entry, {"p"}) for entry in reversed(taken)] == [True, True]
    assert [waiting.position(task_id) for task_id in ("t1", "t2", "t3")] == [0, 1, 2]
    assert [waiting.pools_of(task_id) for task_id in ("t1", "t3")] == [{"q"}, {"p", "q"}]
    assert not waiting.give_back(taken[0], {"p", "q"})


@pytest.mark.req("HP-02")
def test_a_task_that_comes_back_takes_no_place_and_gives_way_to_nobody() -> None:
    waiting = backlog(capacity=1, policy=FullPolicy.DROP_LRU)
    waiting.offer("first", BATCH, {"p"})
    head = waiting.head({"p"})
    assert head is not None
    taken = waiting.take_turn(head, "p")
    waiting.offer("second", BATCH, {"p"})
    waiting.give_back(taken, without=())
    assert waiting.depth("p") == 1
    assert waiting.offer("third", BATCH, {"p"}) == Queued(position=1, charged_to="p", evicted="second")
    assert order(waiting) == ["first", "third"]


# --- batch's share ----------------------------------------------------------------------------------------------------


def starts(waiting: Backlog, pool_id: str) -> list[Priority]:
    """Start everything on one pool, in turn."""
    taken = []
    while (head := waiting.head({pool_id})) is not None:
        taken.append(waiting.take_turn(head, pool_id).lane.priority)
    return taken


@pytest.mark.req("HP-01")
@given(st.integers(0, 90), st.integers(1, 40), st.integers(1, 40))
def test_of_any_starts_in_a_row_batch_gets_its_share_rounded_down_and_not_much_more(
    percent: int, interactive: int, batch: int
) -> None:
    waiting = Backlog({"p": Queue(capacity=99, batch_share=percent / 100)})
    for number in range(interactive):
        waiting.offer(f"i{number}", INTERACTIVE, {"p"})
    for number in range(batch):
        waiting.offer(f"b{number}", BATCH, {"p"})
    taken = starts(waiting, "p")
    contested = 0
    while INTERACTIVE in taken[contested:] and BATCH in taken[contested:]:
        contested += 1
    for start in range(contested):
        for end in range(start, contested + 1):
            given = taken[start:end].count(BATCH)
            assert (end - start) * percent // 100 <= given <= (end - start) * percent // 100 + 1
    if not percent:
        assert taken == [INTERACTIVE] * interactive + [BATCH] * batch


@pytest.mark.req("HP-01")
def test_each_priority_is_fifo_whatever_batch_is_owed() -> None:
    waiting = Backlog({"p": Queue(capacity=99, batch_share=0.25)})
    for number in range(6):
        waiting.offer(f"i{number}", INTERACTIVE, {"p"})
    for number in range(2):
        waiting.offer(f"b{number}", BATCH, {"p"})
    taken = []
    while (head := waiting.head({"p"})) is not None:
        taken.append(waiting.take_turn(head, "p").task_id)
    assert taken == ["i0", "i1", "i2", "b0", "i3", "i4", "i5", "b1"]


def test_a_share_is_owed_only_where_both_wait() -> None:
    waiting = Backlog({"p": Queue(capacity=9, batch_share=0.5), "q": Queue(capacity=9, batch_share=0.5)})
    for number in range(4):
        waiting.offer(f"i{number}", INTERACTIVE, {"p"})
    waiting.offer("b", BATCH, {"q"})
    assert starts(waiting, "p") == [INTERACTIVE] * 4
    assert starts(waiting, "q") == [BATCH]

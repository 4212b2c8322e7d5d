"""The tasks that wait: bounded, two priorities, FIFO within each, every operation at most O(log n) in their number.

Decides the order in which tasks are offered to replicas, who is charged for a place in a queue, who gives way when
a queue is full, and when a batch task goes before an interactive one. Never decides which replica a task gets
(``placement``), never reads a clock, and never touches a task that runs.

A task waits in the *lane* of its priority and of the set of pools that may run it, so that it is bound to a pool only
when a slot is free. There are as many lanes as there are different sets of pools: a handful. A turn of a conversation
may be *held* for its home, the pool that has its cache: for so long it stands in a lane of that home, where other pools
do not see it. While an earlier turn of the same conversation is not over it is *parked*, where no pool sees it. For the
bound, each task is *charged* to one of its pools, the one with most room; wherever it runs in the end, that place is
given back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice

import msgspec

from contracts.config import FullPolicy, Queue
from contracts.tasks import Placement, Priority
from orchestratord.arrivals import Arrivals, Holds
from orchestratord.demand import UNKNOWN, Demand, Tally


class Entry(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One waiting task. ``number`` grows with every arrival: a smaller one came earlier."""

    task_id: str
    number: int
    lane: Lane
    charged_to: str | None
    """The pool whose queue it has a place in; None once it had started and came back."""
    wish: Placement
    demand: Demand = UNKNOWN
    """What it will ask of an engine, for predictions."""
    home: str | None = None
    """The pool that has what this task would otherwise have to compute again."""
    hold_until_ms: float | None = None
    """Until then no other pool gets it; None when it is not held, or no more."""
    parked: bool = False
    """An earlier turn of its conversation is not over: no pool gets it."""


class Lane(msgspec.Struct, frozen=True, eq=False):
    """The waiting tasks of one priority that the same pools may run, by their numbers."""

    priority: Priority
    pools: frozenset[str]
    """The pools that may run them."""
    open_to: frozenset[str]
    """Those of them that may do so now: the home alone, while its tasks are held; none, while they are parked."""
    elsewhere: frozenset[str]
    """The rest of them."""
    numbers: Arrivals
    """Who waits here."""
    holds: Holds
    """Until when they are held, where they are."""
    tally: Tally
    """What they ask for together."""


class Queued(msgspec.Struct, frozen=True):
    """The task waits; ``position`` tasks are before it. ``evicted`` had to give way to it."""

    position: int
    charged_to: str
    evicted: str | None = None


class Full(msgspec.Struct, frozen=True):
    """No queue of the task's pools has room, and nobody gives way."""

    pool_id: str
    policy: FullPolicy


ANYWHERE = Placement()
WHOLE_START = 1_000_000
"""A batch share is counted in millionths of a start, so that adding them up is exact."""
_RANK = {Priority.INTERACTIVE: 0, Priority.BATCH: 1}


def _turn(entry: Entry) -> tuple[int, int]:
    return _RANK[entry.lane.priority], entry.number


class Backlog:
    """All waiting tasks of this orchestrator."""

    def __init__(self, queues: Mapping[str, Queue], arrivals: int = 0) -> None:
        self._queues = dict(queues)
        self._charged = {(pool, priority): Arrivals() for pool in queues for priority in Priority}
        self._lanes: dict[tuple[Priority, frozenset[str], frozenset[str]], Lane] = {}
        self._entries: dict[str, Entry] = {}
        self._numbered: dict[int, Entry] = {}
        self._arrivals = arrivals
        self._owed = dict.fromkeys(queues, 0)
        """What each pool owes to batch, in millionths of a start; always less than one start."""

    def rebound(self, queues: Mapping[str, Queue]) -> None:
        """The same pools have other queues from now on; who waits keeps their place, also beyond a lower bound."""
        self._queues = dict(queues)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._entries

    # --- coming and going ---------------------------------------------------------------------------------------------

    def offer(
        self,
        task_id: str,
        priority: Priority,
        pools: Collection[str],
        wish: Placement = ANYWHERE,
        *,
        demand: Demand = UNKNOWN,
        home: str | None = None,
        hold_until_ms: float | None = None,
        parked: bool = False,
    ) -> Queued | Full:
        """Queue a task that any of ``pools`` may run, or say why not. ``pools`` must be known and not empty.

        With a ``home`` among them it is held for that one until ``hold_until_ms``, and prefers it later on. One that is
        ``parked`` has its place in the queue, and nobody gets it before ``unpark``.
        """
        may_run = frozenset(pools)
        place = self.place(priority, may_run)
        if isinstance(place, Full):
            return place
        if place.evicted is not None:
            self.remove(place.evicted)
        home = home if home in may_run else None
        lane = self._lane(priority, may_run, home if hold_until_ms is not None else None, parked=parked)
        until = hold_until_ms if lane.elsewhere and not parked else None
        self._arrive(task_id, lane, place.charged_to, wish, demand=demand, home=home, until=until, parked=parked)
        return place

    def take_up(
        self,
        task_id: str,
        priority: Priority,
        pools: Collection[str],
        wish: Placement = ANYWHERE,
        *,
        demand: Demand = UNKNOWN,
        parked: bool = False,
    ) -> Queued:
        """Queue a task that was let in before a restart, as ``offer`` does, whatever the bounds are now.

        It was promised its turn: beyond the bound it is charged to none, and nobody gives way to it.
        """
        may_run = frozenset(pools)
        place = self.place(priority, may_run)
        free = isinstance(place, Queued) and place.evicted is None
        charged_to = place.charged_to if isinstance(place, Queued) and free else None
        position = self.ahead_of_new(priority, may_run)
        lane = self._lane(priority, may_run, parked=parked)
        self._arrive(task_id, lane, charged_to, wish, demand=demand, parked=parked)
        return Queued(position=position, charged_to=charged_to or min(may_run))

    def unpark(self, task_id: str, home: str | None, hold_until_ms: float | None) -> None:
        """Its earlier turn is over: a parked task waits like any other from now on, by the number it has."""
        entry = msgspec.structs.replace(self._entries[task_id], parked=False)
        home = home if home in entry.lane.pools else None
        self._move(entry, entry.lane.pools, home=home, hold_until_ms=hold_until_ms)

    def place(self, priority: Priority, pools: frozenset[str]) -> Queued | Full:
        """What ``offer`` would answer now; nothing changes."""
        charged_to, evicted = self._roomiest(pools), None
        if charged_to is None:
            charged_to, evicted = self._give_way(priority, pools)
        if charged_to is None:
            pool_id = min(pools)
            return Full(pool_id=pool_id, policy=self._queues[pool_id].full_policy)
        position = self.ahead_of_new(priority, pools)
        gone = self._entries[evicted].lane if evicted is not None else None
        if gone is not None and gone in self._before(priority, pools):
            position -= 1  # the one that gives way is not before it any more
        return Queued(position=position, charged_to=charged_to, evicted=evicted)

    def give_back(self, entry: Entry, without: Collection[str]) -> bool:
        """Queue a task again that was taken out and never ran, for its pools but ``without``; False when none is left.

        It has the number it had, and so goes before all that came after it. It had its place in a queue and is
        charged to none again, so it is never evicted, and there are never more of these than slots.
        """
        left = entry.lane.pools.difference(without)
        if not left:
            return False
        lane = self._lane(entry.lane.priority, left)
        home = entry.home if entry.home in left else None
        self._enter(msgspec.structs.replace(entry, lane=lane, charged_to=None, home=home, hold_until_ms=None))
        return True

    def remove(self, task_id: str) -> bool:
        """Take a task out, wherever it stands; False when it does not wait here."""
        entry = self._entries.pop(task_id, None)
        if entry is None:
            return False
        if entry.charged_to is not None:
            self._charged[entry.charged_to, entry.lane.priority].remove(entry.number)
        self._leave(entry)
        return True

    # --- whose turn it is ---------------------------------------------------------------------------------------------

    def head(self, pools: Collection[str], priority: Priority | None = None) -> Entry | None:
        """The task that goes first among those that any of ``pools`` may run now; it stays in the queue."""
        heads = [
            self._numbered[lane.numbers.first]
            for lane in self._lanes.values()
            if priority in {None, lane.priority} and not lane.open_to.isdisjoint(pools)
        ]
        return min(heads, key=_turn, default=None)

    def take_turn(self, first: Entry, pool_id: str) -> Entry:
        """Take out the task that gets this start of a pool: ``first``, or the batch task that is owed one.

        While both priorities wait for a pool, every start adds its ``batch_share`` to what it owes to batch, and a
        whole start owed is given. So of any n such starts in a row at least n times the share, rounded down, are
        batch's.
        """
        share = round(self._queues[pool_id].batch_share * WHOLE_START)
        taken = first
        if share and first.lane.priority is Priority.INTERACTIVE:
            batch = self.head((pool_id,), Priority.BATCH)
            if batch is not None:
                self._owed[pool_id] += share
                if self._owed[pool_id] >= WHOLE_START:
                    self._owed[pool_id] -= WHOLE_START
                    taken = batch
        self.remove(taken.task_id)
        return taken

    def let_go(self, now_ms: float, unusable: Collection[str] = ()) -> None:
        """End the holds whose time is over, and those for a home that is ``unusable``. Nobody loses their turn."""
        for lane in [each for each in self._lanes.values() if each.elsewhere]:
            void = not lane.open_to.isdisjoint(unusable)
            while (held := lane.holds.first) is not None and (void or held[0] <= now_ms):
                entry = self._numbered[held[1]]
                self._move(entry, lane.pools, home=entry.home, hold_until_ms=None)

    def next_expiry(self, pools: Collection[str]) -> float | None:
        """When the first hold ends that keeps one of ``pools`` from a task; None when there is none."""
        kept = [lane for lane in self._lanes.values() if not lane.elsewhere.isdisjoint(pools)]
        return min((held[0] for lane in kept if (held := lane.holds.first) is not None), default=None)

    # --- what others need to know -------------------------------------------------------------------------------------

    @property
    def lanes(self) -> Collection[Lane]:
        """All lanes in which tasks wait, for predictions."""
        return self._lanes.values()

    def entry(self, task_id: str) -> Entry:
        """A waiting task."""
        return self._entries[task_id]

    def waiting_in(self, lane: Lane) -> Iterator[str]:
        """The tasks of a lane, oldest first."""
        return (self._numbered[number].task_id for number in lane.numbers)

    def oldest(self, lane: Lane, count: int) -> list[Entry]:
        """The first tasks of a lane."""
        return [self._numbered[number] for number in islice(lane.numbers, count)]

    def pools_of(self, task_id: str) -> frozenset[str]:
        """The pools that may run a waiting task."""
        return self._entries[task_id].lane.pools

    def depth(self, pool_id: str, priority: Priority | None = None) -> int:
        """How many tasks are charged to a pool's queue."""
        if priority is not None:
            return len(self._charged[pool_id, priority])
        return len(self._charged[pool_id, Priority.INTERACTIVE]) + len(self._charged[pool_id, Priority.BATCH])

    def capacity(self, pool_id: str) -> int:
        """The bound of a pool's queue."""
        return self._queues[pool_id].capacity

    def ahead_of_new(self, priority: Priority, pools: frozenset[str]) -> int:
        """How many waiting tasks would go before one that arrived now."""
        return sum(len(lane.numbers) for lane in self._before(priority, pools))

    def position(self, task_id: str) -> int:
        """How many tasks go before a waiting one, interactive ones first."""
        entry = self._entries[task_id]
        priority, number, ahead = entry.lane.priority, entry.number, 0
        for lane in self._before(priority, entry.lane.pools):
            ahead += lane.numbers.rank(number) if lane.priority is priority else len(lane.numbers)
        return ahead

    def waiting_for(self, pool_id: str) -> list[str]:
        """The tasks that this pool may run."""
        lanes = [lane for lane in self._lanes.values() if pool_id in lane.pools]
        return [self._numbered[number].task_id for lane in lanes for number in lane.numbers]

    def unserved(self, open_pools: Collection[str]) -> list[str]:
        """The tasks that none of ``open_pools`` may run, oldest first within a lane."""
        lanes = [lane for lane in self._lanes.values() if lane.pools.isdisjoint(open_pools)]
        return [self._numbered[number].task_id for lane in lanes for number in lane.numbers]

    def withdraw(self, pool_id: str, task_ids: Collection[str]) -> list[str]:
        """Let ``pool_id`` no longer run these tasks; answers with those that no other pool may run, left as they are.

        Nobody loses their turn, and every task keeps the place in the queue that it is charged for.
        """
        stranded = []
        for entry in [self._entries[task_id] for task_id in task_ids]:
            left = entry.lane.pools - {pool_id}
            if not left:
                stranded.append(entry.task_id)
            elif entry.home == pool_id:
                self._move(entry, left, home=None, hold_until_ms=None)
            else:
                self._move(entry, left, home=entry.home, hold_until_ms=entry.hold_until_ms)
        return stranded

    def barred_from(self, pool_id: str) -> list[str]:
        """The tasks that this pool may not run."""
        lanes = [lane for lane in self._lanes.values() if pool_id not in lane.pools]
        return [self._numbered[number].task_id for lane in lanes for number in lane.numbers]

    def extend(self, pool_id: str, task_ids: Collection[str]) -> None:
        """Let ``pool_id`` run these tasks too; nobody loses their turn, nor the place that they are charged for."""
        for entry in [self._entries[task_id] for task_id in task_ids]:
            self._move(entry, entry.lane.pools | {pool_id}, home=entry.home, hold_until_ms=entry.hold_until_ms)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _arrive(
        self,
        task_id: str,
        lane: Lane,
        charged_to: str | None,
        wish: Placement,
        *,
        demand: Demand,
        parked: bool,
        home: str | None = None,
        until: float | None = None,
    ) -> None:
        self._arrivals += 1
        entry = Entry(
            task_id=task_id,
            number=self._arrivals,
            lane=lane,
            charged_to=charged_to,
            wish=wish,
            demand=demand,
            home=home,
            hold_until_ms=until,
            parked=parked,
        )
        self._enter(entry)

    def _enter(self, entry: Entry) -> None:
        """Put an entry where it says that it stands."""
        lane = entry.lane
        if entry.charged_to is not None and entry.task_id not in self._entries:
            self._charged[entry.charged_to, lane.priority].add(entry.number)
        self._entries[entry.task_id] = self._numbered[entry.number] = entry
        lane.numbers.add(entry.number)
        lane.tally.add(entry.demand)
        if entry.hold_until_ms is not None:
            lane.holds.add(entry.hold_until_ms, entry.number)

    def _leave(self, entry: Entry) -> None:
        """Take an entry out of its lane, and the lane away with its last entry."""
        lane = entry.lane
        del self._numbered[entry.number]
        lane.numbers.remove(entry.number)
        lane.tally.remove(entry.demand)
        if not lane.numbers:
            del self._lanes[lane.priority, lane.pools, lane.open_to]

    def _move(self, entry: Entry, pools: frozenset[str], home: str | None, hold_until_ms: float | None) -> None:
        """Let an entry wait in another lane, by its number."""
        self._leave(entry)
        held_for = home if hold_until_ms is not None else None
        lane = self._lane(entry.lane.priority, pools, held_for, parked=entry.parked)
        until = hold_until_ms if lane.elsewhere and not entry.parked else None
        self._enter(msgspec.structs.replace(entry, lane=lane, home=home, hold_until_ms=until))

    def _lane(
        self, priority: Priority, pools: frozenset[str], held_for: str | None = None, *, parked: bool = False
    ) -> Lane:
        """Where such tasks wait. Those of one pool are held for nothing: their lane has no ``elsewhere``."""
        open_to = frozenset[str]() if parked else pools if held_for is None else frozenset({held_for})
        lane = self._lanes.get((priority, pools, open_to))
        if lane is None:
            numbers = Arrivals()
            lane = Lane(
                priority=priority,
                pools=pools,
                open_to=open_to,
                elsewhere=pools - open_to,
                numbers=numbers,
                holds=Holds(numbers),
                tally=Tally(),
            )
            self._lanes[priority, pools, open_to] = lane
        return lane

    def _before(self, priority: Priority, pools: frozenset[str]) -> Iterator[Lane]:
        """The lanes with tasks that may go before one of this priority, for the sake of these pools."""
        rank = _RANK[priority]
        lanes = self._lanes.values()
        return (lane for lane in lanes if _RANK[lane.priority] <= rank and not lane.pools.isdisjoint(pools))

    def _room(self, pool_id: str) -> int:
        return self._queues[pool_id].capacity - self.depth(pool_id)

    def _roomiest(self, pools: Collection[str]) -> str | None:
        best = max(sorted(pools), key=self._room) if len(pools) > 1 else next(iter(pools))
        return best if self._room(best) > 0 else None

    def _give_way(self, priority: Priority, pools: Collection[str]) -> tuple[str | None, str | None]:
        """The pool under drop-lru whose oldest task gives way, batch first; batch displaces batch only."""
        droppable = [pool for pool in sorted(pools) if self._queues[pool].full_policy is FullPolicy.DROP_LRU]
        ranks = (Priority.BATCH, Priority.INTERACTIVE) if priority is Priority.INTERACTIVE else (Priority.BATCH,)
        for rank in ranks:
            oldest = [self._charged[pool, rank].first for pool in droppable if self._charged[pool, rank]]
            if oldest:
                victim = self._numbered[min(oldest)]
                return victim.charged_to, victim.task_id
        return None, None

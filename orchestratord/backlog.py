"""The tasks that wait: bounded, two priorities, FIFO within each, every operation O(1) in the number of tasks.

Decides the order in which tasks are offered to replicas, who is charged for a place in a queue, and who gives way when
a queue is full. Never decides which replica a task gets (``placement``) and never touches a task that runs.

A task waits in the *lane* of its priority and of the set of pools that may run it, so that it is bound to a pool only
when a slot is free. There are as many lanes as there are different sets of pools: a handful. For the bound, each task
is *charged* to one of its pools, the one with most room; wherever it runs in the end, that place is given back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping

import msgspec

from contracts.config import FullPolicy, Queue
from contracts.tasks import Placement, Priority


class Entry(msgspec.Struct, frozen=True, eq=False):
    """One waiting task. ``number`` grows with every arrival: a smaller one came earlier."""

    task_id: str
    number: int
    lane: Lane
    charged_to: str
    wish: Placement


class Lane(msgspec.Struct, frozen=True, eq=False):
    """The waiting tasks of one priority that the same pools may run, oldest first."""

    priority: Priority
    pools: frozenset[str]
    entries: OrderedDict[str, Entry]


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
_RANK = {Priority.INTERACTIVE: 0, Priority.BATCH: 1}


def _turn(entry: Entry) -> tuple[int, int]:
    return _RANK[entry.lane.priority], entry.number


class Backlog:
    """All waiting tasks of this orchestrator."""

    def __init__(self, queues: Mapping[str, Queue]) -> None:
        self._queues = dict(queues)
        self._charged = {(pool, priority): OrderedDict[str, Entry]() for pool in queues for priority in Priority}
        self._lanes: dict[tuple[Priority, frozenset[str]], Lane] = {}
        self._entries: dict[str, Entry] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._entries

    def offer(
        self, task_id: str, priority: Priority, pools: Collection[str], wish: Placement = ANYWHERE
    ) -> Queued | Full:
        """Queue a task that any of ``pools`` may run, or say why not. ``pools`` must be known and not empty."""
        charged_to, evicted = self._roomiest(pools), None
        if charged_to is None:
            charged_to, evicted = self._give_way(priority, pools)
        if charged_to is None:
            pool_id = min(pools)
            return Full(pool_id=pool_id, policy=self._queues[pool_id].full_policy)
        if evicted is not None:
            self.remove(evicted)
        position = self._ahead(priority, frozenset(pools))
        self._arrivals += 1
        lane = self._lane(priority, frozenset(pools))
        entry = Entry(task_id=task_id, number=self._arrivals, lane=lane, charged_to=charged_to, wish=wish)
        self._entries[task_id] = lane.entries[task_id] = entry
        self._charged[charged_to, priority][task_id] = entry
        return Queued(position=position, charged_to=charged_to, evicted=evicted)

    def remove(self, task_id: str) -> bool:
        """Take a task out, wherever it stands; False when it does not wait here."""
        entry = self._entries.pop(task_id, None)
        if entry is None:
            return False
        del self._charged[entry.charged_to, entry.lane.priority][task_id]
        self._leave(entry)
        return True

    def head(self, pools: Collection[str]) -> Entry | None:
        """The task that goes first among those that any of ``pools`` may run; it stays in the queue."""
        heads = [next(iter(lane.entries.values())) for lane in self._lanes.values() if not lane.pools.isdisjoint(pools)]
        return min(heads, key=_turn, default=None)

    def pools_of(self, task_id: str) -> frozenset[str]:
        """The pools that may run a waiting task."""
        return self._entries[task_id].lane.pools

    def depth(self, pool_id: str, priority: Priority | None = None) -> int:
        """How many tasks are charged to a pool's queue."""
        priorities = Priority if priority is None else (priority,)
        return sum(len(self._charged[pool_id, each]) for each in priorities)

    def capacity(self, pool_id: str) -> int:
        """The bound of a pool's queue."""
        return self._queues[pool_id].capacity

    def ahead_of_new(self, priority: Priority, pools: Collection[str]) -> int:
        """How many waiting tasks would go before one that arrived now."""
        return self._ahead(priority, frozenset(pools))

    def positions(self) -> Iterator[tuple[str, int]]:
        """Every waiting task with the number of tasks that go before it; walks them all, so it is for reports."""
        passed: dict[frozenset[str], int] = {}
        for entry in sorted(self._entries.values(), key=_turn):
            pools = entry.lane.pools
            yield entry.task_id, sum(count for other, count in passed.items() if not other.isdisjoint(pools))
            passed[pools] = passed.get(pools, 0) + 1

    def waiting_for(self, pool_id: str) -> list[str]:
        """The tasks that this pool may run."""
        return [task_id for lane in self._lanes.values() if pool_id in lane.pools for task_id in lane.entries]

    def withdraw(self, pool_id: str, task_ids: Collection[str]) -> list[str]:
        """Let ``pool_id`` no longer run these tasks; answers with those that no other pool may run, left as they are.

        Nobody loses their turn, and every task keeps the place in the queue that it is charged for.
        """
        stranded = []
        joined: dict[int, Lane] = {}
        for entry in [self._entries[task_id] for task_id in task_ids]:
            left = entry.lane.pools - {pool_id}
            if not left:
                stranded.append(entry.task_id)
                continue
            lane = self._lane(entry.lane.priority, left)
            self._leave(entry)
            moved = msgspec.structs.replace(entry, lane=lane)
            self._entries[entry.task_id] = lane.entries[entry.task_id] = moved
            self._charged[entry.charged_to, lane.priority][entry.task_id] = moved
            joined[id(lane)] = lane
        for lane in joined.values():
            for entry in sorted(lane.entries.values(), key=_turn):
                lane.entries.move_to_end(entry.task_id)
        return stranded

    def unserved(self, open_pools: Collection[str]) -> list[str]:
        """The tasks that none of ``open_pools`` may run, oldest first within a lane."""
        stranded = [lane for lane in self._lanes.values() if lane.pools.isdisjoint(open_pools)]
        return [task_id for lane in stranded for task_id in lane.entries]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _leave(self, entry: Entry) -> None:
        """Take an entry out of its lane, and the lane away with its last entry."""
        del entry.lane.entries[entry.task_id]
        if not entry.lane.entries:
            del self._lanes[entry.lane.priority, entry.lane.pools]

    def _room(self, pool_id: str) -> int:
        return self._queues[pool_id].capacity - self.depth(pool_id)

    def _roomiest(self, pools: Collection[str]) -> str | None:
        best = max(sorted(pools), key=self._room)
        return best if self._room(best) > 0 else None

    def _give_way(self, priority: Priority, pools: Collection[str]) -> tuple[str | None, str | None]:
        """The pool under drop-lru whose oldest task gives way, batch first; batch displaces batch only."""
        droppable = [pool for pool in sorted(pools) if self._queues[pool].full_policy is FullPolicy.DROP_LRU]
        ranks = (Priority.BATCH, Priority.INTERACTIVE) if priority is Priority.INTERACTIVE else (Priority.BATCH,)
        for rank in ranks:
            oldest = [next(iter(self._charged[pool, rank].values())) for pool in droppable if self._charged[pool, rank]]
            if oldest:
                victim = min(oldest, key=lambda entry: entry.number)
                return victim.charged_to, victim.task_id
        return None, None

    def _ahead(self, priority: Priority, pools: frozenset[str]) -> int:
        rank = _RANK[priority]
        lanes = (lane for lane in self._lanes.values() if _RANK[lane.priority] <= rank)
        return sum(len(lane.entries) for lane in lanes if not lane.pools.isdisjoint(pools))

    def _lane(self, priority: Priority, pools: frozenset[str]) -> Lane:
        fresh = Lane(priority=priority, pools=pools, entries=OrderedDict())
        return self._lanes.setdefault((priority, pools), fresh)

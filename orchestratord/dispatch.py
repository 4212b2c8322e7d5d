"""The next task to start, and where.

Decides by late binding: a task is bound to a replica only when that replica has a free slot, so nobody waits behind a
busy GPU while another idles. Work conserving: while a usable slot is free and an eligible task waits, there is a next
assignment; FIFO among the tasks that the same slot could serve. The one exception is a turn that is held for its home:
for that time other replicas do not see it, and others pass it there. Never starts anything itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchestratord.backlog import Backlog, Entry
from orchestratord.placement import Replica, choose


class Assignment(msgspec.Struct, frozen=True):
    """This task runs there now. ``entry`` is what ``Backlog.give_back`` takes, should nothing come of it."""

    entry: Entry
    replica: Replica

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.entry.task_id


def next_assignment(backlog: Backlog, replicas: Sequence[Replica], now_ms: float) -> Assignment | None:
    """Take the next task out of the backlog and bind it, or None when nothing can start.

    ``now_ms``: on the clock of the ``hold_until_ms`` that tasks were offered with.
    """
    backlog.let_go(now_ms, [replica.pool_id for replica in replicas if not replica.usable])
    free = [replica for replica in replicas if replica.has_free_slot]
    first = backlog.head([replica.pool_id for replica in free]) if free else None
    if first is None:
        return None
    replica = choose(free, first.wish, first.lane.open_to, first.home)
    if replica is None:  # pragma: no cover - head() only answers with tasks that a free pool may run
        message = f"{first.task_id} is eligible for a free pool, yet no replica fits it"
        raise AssertionError(message)
    return Assignment(entry=backlog.take_turn(first, replica.pool_id), replica=replica)


def next_expiry(backlog: Backlog, replicas: Sequence[Replica]) -> float | None:
    """When something can start though nothing else happens: the end of a hold that keeps a task from a free slot."""
    return backlog.next_expiry([replica.pool_id for replica in replicas if replica.has_free_slot])

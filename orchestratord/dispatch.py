"""The next task to start, and where.

Decides by late binding: a task is bound to a replica only when that replica has a free slot, so nobody waits behind a
busy GPU while another idles. Work conserving: while a usable slot is free and an eligible task waits, there is a next
assignment; FIFO among the tasks that the same slot could serve. Never starts anything itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from orchestratord.backlog import Backlog
from orchestratord.placement import Replica, choose


class Assignment(msgspec.Struct, frozen=True):
    """This task runs there now."""

    task_id: str
    replica: Replica


def next_assignment(backlog: Backlog, replicas: Sequence[Replica]) -> Assignment | None:
    """Take the next task out of the backlog and bind it, or None when nothing can start."""
    free = {replica.pool_id for replica in replicas if replica.has_free_slot}
    entry = backlog.head(free) if free else None
    if entry is None:
        return None
    replica = choose(replicas, entry.wish, entry.lane.pools)
    if replica is None:  # pragma: no cover - head() only answers with tasks that a free pool may run
        message = f"{entry.task_id} is eligible for a free pool, yet no replica fits it"
        raise AssertionError(message)
    backlog.remove(entry.task_id)
    return Assignment(task_id=entry.task_id, replica=replica)

"""What of ended tasks and of receipts is let go, and when.

Decides by age, by the number of tasks and by the bytes of all together; the oldest goes first, whichever it is. The
newest receipt is never let go, since the next one names it. Values in, values out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

Name = TypeVar("Name", str, int)


class Old(msgspec.Struct, Generic[Name], frozen=True):
    """A task by its id, or a receipt by its number: when it ended, in Unix milliseconds, and its bytes."""

    name: Name
    ended_ms: int
    size: int


class Totals(msgspec.Struct, frozen=True):
    """What ended tasks and receipts take together."""

    tasks: int = 0
    receipts: int = 0
    size: int = 0


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much is kept: ``tasks`` at most, ``max_bytes`` of all together, and nothing older than ``max_age_ms``."""

    tasks: int
    max_bytes: int
    max_age_ms: int

    def passed_by(self, totals: Totals) -> bool:
        """Whether it is too much, whatever its age."""
        return totals.tasks > self.tasks or totals.size > self.max_bytes


class Due(msgspec.Struct, frozen=True):
    """What goes now, and what is left."""

    task_ids: tuple[str, ...]
    receipts_below: int | None
    """Receipts with lower numbers go; None where none does."""
    left: Totals


def due(tasks: Sequence[Old[str]], receipts: Sequence[Old[int]], totals: Totals, bounds: Bounds, now_ms: int) -> Due:
    """``tasks`` and ``receipts``: the oldest of each, oldest first; of longer rows the rest is looked at next time."""
    left, below = totals, None
    gone: list[str] = []
    old_tasks = list(reversed(tasks))
    old_receipts = list(reversed(receipts))
    while old_tasks or (old_receipts and left.receipts > 1):
        more_tasks = not old_tasks and left.tasks > 0
        more_receipts = not old_receipts and left.receipts > 1 and not left.tasks > bounds.tasks
        if (gone or below is not None) and (more_tasks or more_receipts):
            break  # what follows in the longer row may be older than what is left of the other
        task = old_tasks[-1] if old_tasks else None
        receipt = old_receipts[-1] if old_receipts and left.receipts > 1 else None
        # Too many tasks is no reason to let a receipt go.
        crowded = left.tasks > bounds.tasks and task is not None
        oldest_ms = min(each.ended_ms for each in (task, receipt) if each is not None)
        if not (crowded or left.size > bounds.max_bytes or now_ms - oldest_ms > bounds.max_age_ms):
            break
        if task is not None and (crowded or receipt is None or task.ended_ms <= receipt.ended_ms):
            old_tasks.pop()
            gone.append(task.name)
            left = Totals(left.tasks - 1, left.receipts, left.size - task.size)
        elif receipt is not None:
            old_receipts.pop()
            below = receipt.name + 1
            left = Totals(left.tasks, left.receipts - 1, left.size - receipt.size)
    return Due(tuple(gone), below, left)

"""Which log lines are about one task.

Decides by what a line carries: the task's id or its correlation id, as a field of its own, never as a word in a text.
Values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MARK = "  correlation_ids="
"""What stands before the ids at the end of a line of a pool's file."""


def of_the_daemons(
    lines: Iterable[Mapping[str, object]], task_id: str, correlation_id: str
) -> list[Mapping[str, object]]:
    """The lines of the daemons' log that are about a task, and the engine's that they hand on."""
    return [line for line in lines if _is_of(line, task_id, correlation_id)]


def of_the_engine(lines: Iterable[str], pool_id: str, correlation_id: str) -> list[Mapping[str, object]]:
    """The lines of a pool's file that the engine wrote while it worked for a task."""
    found: list[Mapping[str, object]] = []
    for line in lines:
        text, mark, ids = line.rpartition(MARK)
        if mark and correlation_id in ids.split(","):
            found.append({"service": "engine", "pool_id": pool_id, "message": text})
    return found


def _is_of(line: Mapping[str, object], task_id: str, correlation_id: str) -> bool:
    ids = line.get("correlation_ids")
    return (
        line.get("task_id") == task_id
        or line.get("correlation_id") == correlation_id
        or (isinstance(ids, list | tuple) and correlation_id in ids)
    )

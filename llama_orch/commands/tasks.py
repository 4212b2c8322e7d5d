"""``llama-orch tasks``: what was asked lately and what became of it."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated

import typer

from contracts.tasks import TaskList, TaskState, TaskStatus
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.output import Output
from llama_orch.session import Session, find_session

COLUMNS = ("TASK", "STATE", "PRIORITY", "POOL", "CREATED", "QUEUED MS", "TOKENS", "TOKENS/S", "END")


def tasks(
    *,
    state: Annotated[TaskState | None, typer.Option(help="Only tasks in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List recent tasks, newest first."""
    found = asyncio.run(_ask(find_session(config, url), state, limit))
    out = Output(as_json=as_json)
    out.data(found)
    out.table(COLUMNS, [_row(task) for task in found.tasks], "no tasks")


async def _ask(session: Session, state: TaskState | None, limit: int) -> TaskList:
    async with session.client() as client:
        return await client.tasks(state, limit)


def _row(task: TaskStatus) -> tuple[object, ...]:
    created = datetime.fromtimestamp(task.created_ms / 1000).astimezone().strftime("%H:%M:%S")
    speed = None
    if task.tokens_out and task.decode_time_ms:
        speed = round(1000 * task.tokens_out / task.decode_time_ms)
    state = f"{task.state} ({task.queue_position})" if task.queue_position is not None else str(task.state)
    ended = task.error_code or task.finish_reason
    return task.task_id, state, task.priority, task.pool_id, created, task.queue_time_ms, task.tokens_out, speed, ended

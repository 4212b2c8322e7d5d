"""``llama-orch cancel``: stop tasks. Canceling twice is no mistake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from contracts.tasks import TaskState, TaskStatus
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.errors import ApiError
from llama_orch.output import Output
from llama_orch.session import Session, find_session


def cancel(
    task_ids: Annotated[list[str], typer.Argument(metavar="TASK...", help="As `llama-orch tasks` shows them.")],
    *,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Cancel tasks; no token follows. One that had finished stays as it is."""
    canceled, finished, refused = asyncio.run(_cancel(find_session(config, url), task_ids))
    out = Output(as_json=as_json)
    last = {"error": refused[-1].as_json()} if refused else {}
    out.data({"canceled": canceled, "finished": finished, "refused": [each.as_json() for each in refused]} | last)
    for task_id in canceled:
        out.line(f"canceled {task_id}")
    for task in finished:
        out.line(f"{task.task_id} had finished already: {task.error_code or task.finish_reason or task.state}")
    if not as_json:
        for error in refused:
            out.note(f"llama-orch: {error.render()}")
    return refused[-1].exit_code if refused else 0


async def _cancel(session: Session, task_ids: Sequence[str]) -> tuple[list[str], list[TaskStatus], list[ApiError]]:
    """Every task is tried, whatever becomes of the one before."""
    canceled: list[str] = []
    finished: list[TaskStatus] = []
    refused: list[ApiError] = []
    async with session.client() as client:
        for task_id in task_ids:
            try:
                await client.cancel(task_id)
                # Asked afterwards: until the cancel it might still have finished.
                task = await client.task(task_id)
            except ApiError as error:
                refused.append(error)
                continue
            if task.state in {TaskState.DONE, TaskState.FAILED}:
                finished.append(task)
            else:
                canceled.append(task_id)
    return canceled, finished, refused

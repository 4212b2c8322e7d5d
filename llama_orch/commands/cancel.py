"""``llama-orch cancel``: stop tasks. Canceling twice is no mistake."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.output import Output
from llama_orch.session import Session, find_session


def cancel(
    task_ids: Annotated[list[str], typer.Argument(metavar="TASK...", help="As `llama-orch tasks` shows them.")],
    *,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel tasks; no token follows."""
    asyncio.run(_cancel(find_session(config, url), task_ids))
    out = Output(as_json=as_json)
    out.data({"canceled": task_ids})
    for task_id in task_ids:
        out.line(f"canceled {task_id}")


async def _cancel(session: Session, task_ids: Sequence[str]) -> None:
    async with session.client() as client:
        for task_id in task_ids:
            await client.cancel(task_id)

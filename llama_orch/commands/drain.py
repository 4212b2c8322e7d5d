"""``llama-orch drain``: let a pool finish what runs, then stop its engine. Decides nothing but the words."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from contracts.pools import PoolHealth, PoolState
from llama_orch.client import ApiClient
from llama_orch.commands.options import ConfigOption, DeadlineOption, JsonOption, UrlOption
from llama_orch.commands.wait import WaitOption, until_ended
from llama_orch.output import Output
from llama_orch.session import find_session
from llama_orch.waiting import drain_ended


def drain(
    pool: Annotated[str, typer.Argument(metavar="POOL", help="As `llama-orch pools` shows it.")],
    *,
    deadline: DeadlineOption = 30,
    wait: WaitOption = False,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a pool finish its running tasks, then stop its engine. `llama-orch reload` starts it again."""
    asyncio.run(_drain(find_session(config, url).client(), Output(as_json=as_json), pool, deadline, wait=wait))


async def _drain(api: ApiClient, out: Output, pool_id: str, deadline_s: float, *, wait: bool) -> None:
    async with api as client:
        asked = await client.drain(pool_id, round(1000 * deadline_s))
        if not wait:
            out.line(drain_text(asked, deadline_s))
            out.data(asked)
            return
        if out.notes_are_read:
            out.note(drain_text(asked, deadline_s))
        ended = await until_ended(client, pool_id, drain_ended)
        out.line(ended.text)
        out.data(await client.pool_health(pool_id))


def drain_text(pool: PoolHealth, deadline_s: float) -> str:
    """What becomes of a pool that was asked to drain."""
    name, active, queued = pool.pool_id, pool.metrics.active, pool.metrics.queue_depth
    tasks = "1 task runs" if active == 1 else f"{active} tasks run"
    if pool.state is PoolState.STOPPED:
        text = f"{name} is stopped"
    elif active:
        text = f"{name} drains: {tasks}, and may do so for {deadline_s:g} s; then its engine is stopped"
    else:
        text = f"{name} stops now: nothing runs on it"
    return f"{text}; {queued} queued" if queued else text

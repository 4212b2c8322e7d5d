"""``llama-orch reload``: give a pool another model, or start it again. Decides the default: the model that it has."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated

import typer

from contracts.pools import PoolHealth
from daemon_core.errors import EXIT_USAGE, StartupError
from llama_orch.client import ApiClient
from llama_orch.commands.options import ConfigOption, DeadlineOption, JsonOption, UrlOption
from llama_orch.commands.wait import WaitOption, until_ended
from llama_orch.output import Output
from llama_orch.session import find_session
from llama_orch.waiting import reload_ended


def reload(
    pool: Annotated[str, typer.Argument(metavar="POOL", help="As `llama-orch pools` shows it.")],
    *,
    model: Annotated[str | None, typer.Option(help="The new model (default: the one that the pool has).")] = None,
    deadline: DeadlineOption = 30,
    wait: WaitOption = False,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a pool another model, or start one again that is drained or broken. The old model serves until then."""
    api, out = find_session(config, url).client(), Output(as_json=as_json)
    asyncio.run(_reload(api, out, pool, model, deadline, wait=wait))


async def _reload(
    api: ApiClient, out: Output, pool_id: str, model: str | None, deadline_s: float, *, wait: bool
) -> None:
    async with api as client:
        before = await client.pool_health(pool_id)
        model_ref = model or before.model_ref
        if model_ref is None:
            raise StartupError(f"the model of {pool_id} is not known", "name it with --model", EXIT_USAGE)
        asked = await client.reload(pool_id, model_ref, round(1000 * deadline_s))
        if not wait:
            out.line(reload_text(before, model_ref))
            out.data(asked)
            return
        if out.notes_are_read:
            out.note(reload_text(before, model_ref))
        ended = await until_ended(client, pool_id, partial(reload_ended, before, model_ref=model_ref))
        out.line(ended.text)
        out.data(await client.pool_health(pool_id))


def reload_text(before: PoolHealth, model_ref: str) -> str:
    """What becomes of a pool that was asked to reload."""
    name = before.pool_id
    if not before.ready:
        return f"{name} is {before.state}, and starts with {model_ref}"
    if before.model_ref == model_ref:
        return f"{name} gets a new engine with {model_ref}; the one that serves goes on until then"
    return f"{name} changes from {before.model_ref} to {model_ref}; should that fail, it keeps the old one"

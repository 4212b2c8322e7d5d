"""What commands that wait for a pool have in common. Decides how often they look."""

from __future__ import annotations

import asyncio
from typing import Annotated, Protocol

import typer

from contracts.pools import PoolHealth
from llama_orch.client import ApiClient
from llama_orch.errors import ApiError
from llama_orch.waiting import Ended

LOOK_S = 0.25
WaitOption = Annotated[bool, typer.Option("--wait", help="Return when it is done; Ctrl-C ends the waiting only.")]


class Judge(Protocol):
    """A function of ``llama_orch.waiting``."""

    def __call__(self, now: PoolHealth, *, looks: int) -> Ended | None:
        """How it ended, or None while it has not."""


async def until_ended(client: ApiClient, pool_id: str, judge: Judge) -> Ended:
    """Look at a pool until what was asked of it has come to a good end. Raises ApiError where that is a bad one."""
    looks = 1
    while (ended := judge(await client.pool_health(pool_id), looks=looks)) is None:
        await asyncio.sleep(LOOK_S)
        looks += 1
    if ended.good:
        return ended
    if ended.error is None:
        raise ApiError("CONFLICT", ended.text, hint="llama-orch pools shows it")
    raise ApiError(str(ended.error.cause).upper(), f"{ended.text}: {ended.error.message}", hint=ended.error.hint)

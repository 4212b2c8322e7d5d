"""A long list of tasks is made in steps, between which others have their turns."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from contracts.config import Config
from contracts.tasks import TaskList
from daemon_core.redaction import Redactor
from orchestratord.http.stream import Streams
from orchestratord.http.tasks import TaskRoutes
from tests.support.virtual_loop import pass_time
from tests.unit.orchestratord.world import HANG, STOPPED_WELL, Script, World, config, ended, pool, world

MANY = 700


def settings() -> Config:
    return config(pool(), keep_finished=2 * MANY)


async def listed(here: World, query: str) -> TaskList:
    routes = TaskRoutes(here.orchestrator, _no_streams(), Redactor())
    answer = await routes.list(make_mocked_request("GET", f"/v1/tasks?{query}"))
    return msgspec.json.decode(answer.body, type=TaskList)  # type: ignore[arg-type]


def _no_streams() -> Streams:
    return Any  # type: ignore[return-value] # a list opens none


@pytest.mark.req("HP-10")
async def test_others_have_their_turns_while_many_tasks_are_listed(tmp_path: Path) -> None:
    scripts = [Script(["ok", STOPPED_WELL])] * MANY
    async with world(*scripts, settings=settings(), tasks=tmp_path / "tasks.sqlite3") as here:
        for number in range(MANY):
            await ended(await here.submit(task_id=f"t{number}"))
        turns = 0
        async with asyncio.TaskGroup() as group:
            listing = group.create_task(listed(here, "limit=1000"))
            while not listing.done():
                await asyncio.sleep(0)
                turns += 1
        assert [task.task_id for task in listing.result().tasks] == [f"t{n}" for n in reversed(range(MANY))]
        assert turns > MANY // 32


@pytest.mark.req("HP-10")
async def test_what_ends_meanwhile_is_told_of_as_it_ended(tmp_path: Path) -> None:
    scripts = [*[Script(["ok", STOPPED_WELL])] * 200, Script([HANG])]
    async with world(*scripts, settings=settings(), tasks=tmp_path / "tasks.sqlite3") as here:
        for _ in range(200):
            await ended(await here.submit())
        await pass_time(1)
        runs = await here.submit(task_id="runs")
        async with asyncio.TaskGroup() as group:
            listing = group.create_task(listed(here, "limit=201"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            here.orchestrator.cancel(runs, "client")
        found = listing.result().tasks
        assert len(found) == 201
        assert (found[0].task_id, found[0].state) == ("runs", "canceled")

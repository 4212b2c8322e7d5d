"""A long request is looked at for secrets before it is written down, and nobody waits for that but who sent it."""

import asyncio
from typing import Any

import pytest

from contracts.errors import ErrorCode
from contracts.pools import PoolSnapshot
from contracts.tasks import Sampling
from daemon_core.steps import finished
from orchestratord.errors import ApiError
from orchestratord.kept import SHORT
from tests.support.virtual_loop import settle
from tests.unit.orchestratord.world import HANG, STOPPED_WELL, Script, World, ended, snapshot, world

WIDE = 10_000_000
CODE = 'api_key = config["api_key"]  # https://example.org/x\n' * 9_000
HOSTILE = "password api_key bearer a://b " * 20_000
SECRET = "hf_ABCDEFGHIJKLMNOPQRSTUV"


class Turns:
    """Somebody else in the loop, who counts his turns."""

    def __init__(self) -> None:
        self.taken = 0
        self._on = True

    async def take(self) -> None:
        while self._on:
            self.taken += 1
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._on = False


async def turns_during(submission: asyncio.Task[Any], group: asyncio.TaskGroup) -> int:
    others = Turns()
    group.create_task(others.take())
    await asyncio.wait([submission])
    others.stop()
    return others.taken


def wide(pool_id: str) -> PoolSnapshot:
    return snapshot(pool_id, ctx_max=WIDE)


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize(("prompt", "least"), [("Hi.", 0), ("api_key: x " * 300, 0), (CODE, 10), (HOSTILE, 30)])
async def test_others_have_their_turns_while_a_long_prompt_is_looked_at(prompt: str, least: int) -> None:
    async with world(Script([HANG]), snapshots=wide) as here, asyncio.TaskGroup() as group:
        submission = group.create_task(here.submit(prompt=prompt))
        taken = await turns_during(submission, group)
        assert taken >= least
        assert least or taken < 5
        here.orchestrator.cancel(submission.result(), "client")


@pytest.mark.req("ORCH-3811")
async def test_the_engine_gets_a_long_prompt_as_it_was_and_the_disk_without_its_secret() -> None:
    prompt = CODE + SECRET
    async with world(Script(["ok", STOPPED_WELL]), snapshots=wide) as here:
        task = await here.submit(prompt=prompt, task_id="t1")
        await ended(task)
        assert here.engines["p"].asked[0].prompt == prompt
        kept = here.keeper.task("t1")
        assert kept is not None
        assert len(kept.request.prompt or "") > SHORT
        assert SECRET not in (kept.request.prompt or "")
        assert kept.veil is not None
        assert await here.submit(prompt=prompt, task_id="t1") is task
        with pytest.raises(ApiError) as refused:
            await here.submit(prompt=prompt + ".", task_id="t1")
        assert refused.value.refusal.code is ErrorCode.CONFLICT


@pytest.mark.req("ORCH-3811")
async def test_of_twins_that_are_looked_at_together_one_comes_in() -> None:
    async with world(Script([HANG]), snapshots=wide) as here, asyncio.TaskGroup() as group:
        twins = [group.create_task(here.submit(prompt=HOSTILE, task_id="t1")) for _ in range(2)]
        await asyncio.wait(twins)
        assert twins[0].result() is twins[1].result()
        here.orchestrator.cancel(twins[0].result(), "client")


@pytest.mark.req("ORCH-3811")
async def test_a_long_prompt_that_no_pool_may_run_is_looked_at_no_further() -> None:
    async def refused(here: World) -> None:
        with pytest.raises(ApiError):
            await here.submit(prompt=HOSTILE, model_ref="another")

    async with world(Script([HANG]), snapshots=wide) as here, asyncio.TaskGroup() as group:
        assert await turns_during(group.create_task(refused(here)), group) < 10


@pytest.mark.req("ORCH-3811")
async def test_a_client_that_leaves_meanwhile_leaves_nothing_behind() -> None:
    async with world(Script([HANG]), snapshots=wide) as here, asyncio.TaskGroup() as group:
        leaving = group.create_task(here.submit(prompt=HOSTILE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        await settle()
        assert finished(here.orchestrator.select(None, 10)) == []


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize("prompt", ["api_key: x", CODE])
async def test_a_schema_that_is_too_deep_to_be_looked_at_is_refused(prompt: str) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(450):
        schema = {"type": "object", "properties": {"a": schema}}
    async with world(Script([HANG]), snapshots=wide) as here:
        with pytest.raises(ApiError) as refused:
            await here.submit(prompt=prompt, sampling=Sampling(json_schema=schema))
        refusal = refused.value.refusal
        assert (refusal.code, refusal.field) == (ErrorCode.INVALID_PARAMS, "sampling.json_schema")
        assert finished(here.orchestrator.select(None, 10)) == []

"""Clients that come back exactly when they are told to: a full queue has as many answers as it has askers."""

import asyncio
import random

import pytest

from adapters.base import Finished
from contracts.config import FullPolicy, Queue
from contracts.events import FinishReason
from contracts.tasks import Priority
from orchestratord.errors import ApiError
from tests.support.virtual_loop import pass_time
from tests.unit.orchestratord.frames import frames_of
from tests.unit.orchestratord.world import (
    CALLER,
    HANG,
    Pause,
    Script,
    ScriptedAdapter,
    World,
    config,
    ended,
    pool,
    request,
    world,
)

CLIENTS, BEFORE = 100, 40
FINISHED = Finished(reason=FinishReason.STOP, tokens_in=3, tokens_out=2)


def varying(seed: int) -> tuple[ScriptedAdapter, float]:
    """An engine whose tasks take half a second to three, about one in the mean, and how long all of them take."""
    dice = random.Random(seed)
    spans = [0.5 + min(2.5, dice.expovariate(2.0)) for _ in range(BEFORE + CLIENTS)]
    scripts = (Script([Pause(span / 2), "a", Pause(span / 2), "b", FINISHED]) for span in spans)
    return ScriptedAdapter(*scripts), sum(spans[BEFORE:])


async def told(here: World, *, only_asks: bool = False) -> int:
    """When a client that is refused may come back."""
    with pytest.raises(ApiError) as caught:
        _ = await here.orchestrator.foretell(request(), CALLER) if only_asks else await here.submit()
    assert caught.value.refusal.retry_after_ms is not None
    return caught.value.refusal.retry_after_ms


async def insist(here: World, tries: list[int]) -> None:
    """Ask, and ask again at the very moment that the refusal names, until the task is done."""
    refused, task = 0, None
    while task is None:
        try:
            task = await here.submit()
        except ApiError as error:
            refused += 1
            await pass_time((error.refusal.retry_after_ms or 0) / 1000)
    tries.append(refused)
    await ended(task)


@pytest.mark.req("HP-04", "HP-16")
@pytest.mark.parametrize("seed", range(5))
async def test_a_hundred_that_obey_are_served_without_a_crowd_at_the_door(seed: int) -> None:
    tries: list[int] = []
    engine, busy_s = varying(seed)
    async with world(engines={"p": engine}) as here:
        for _ in range(BEFORE):
            await ended(await here.submit())
        begun = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(insist(here, tries))
        took_s = asyncio.get_running_loop().time() - begun
    assert sum(tries) <= 1.5 * CLIENTS
    assert max(tries) <= 3
    assert took_s <= 1.25 * busy_s, "nor does the engine wait for those who were sent away for too long"


async def test_each_is_told_of_the_next_place_and_a_place_that_came_of_none() -> None:
    second = Script([Pause(0.5), "a", Pause(0.5), "b", FINISHED])
    engine = ScriptedAdapter(otherwise=second)
    async with world(engines={"p": engine}, settings=config(pool(queue=Queue(capacity=2)))) as here:
        for _ in range(BEFORE):
            await ended(await here.submit())
        for _ in range(3):
            await here.submit()
        moments = [await told(here) for _ in range(4)]
        assert moments == pytest.approx([1_000, 2_000, 3_000, 4_000], rel=0.1)
        await pass_time(2.5)
        await here.submit()
        await here.submit()
        assert await told(here) == pytest.approx(2_500, rel=0.2)


async def test_who_only_asks_keeps_no_place_from_anybody() -> None:
    async with world(Script([HANG]), settings=config(pool(queue=Queue(capacity=1)))) as here:
        await here.submit()
        await here.submit()
        asked = [await told(here, only_asks=True) for _ in range(5)]
        assert {*asked} == {await told(here)}


@pytest.mark.req("HP-02")
async def test_those_that_gave_way_are_not_all_told_the_same() -> None:
    settings = config(pool(queue=Queue(capacity=2, full_policy=FullPolicy.DROP_LRU)))
    async with world(Script([HANG]), settings=settings) as here:
        await here.submit()
        waiting = [await here.submit(priority=Priority.BATCH) for _ in range(2)]
        for _ in range(2):
            await here.submit()
        first, second = [frames_of(await ended(task))[-1].data["retry_after_ms"] for task in waiting]
        assert second > first

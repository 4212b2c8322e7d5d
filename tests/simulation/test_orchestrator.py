"""The real orchestrator and runner under everything at once, thousands of tasks on a clock that jumps."""

import asyncio
import random
from collections import Counter

import pytest

from tests.simulation.house import PLAYED
from tests.simulation.workshop import Workshop, installation
from tests.support.virtual_loop import pass_time
from tests.unit.orchestratord.world import world

TASKS = 1_000


@pytest.mark.req("HP-01", "HP-02", "HP-06", "HP-08", "HP-10", "HP-11", "HP-17")
@pytest.mark.parametrize("seed", range(6))
async def test_nothing_is_lost_doubled_or_left_idle(seed: int) -> None:
    chance = random.Random(seed)
    async with world(settings=installation(chance), ready=False) as here:
        shop = Workshop(here, chance)
        await pass_time(1)
        async with asyncio.TaskGroup() as group:
            for number in range(TASKS):
                group.create_task(shop.client())
                if number % 20 == 19:
                    group.create_task(shop.bad_luck())
                await pass_time(chance.choice((0.0, 0.0, 0.01, 0.05)))
        for pool_id in here.engines:
            shop.start(pool_id)
        await pass_time(120)
        ends = Counter(shop.ended_once(task) for task in shop.tasks)
        assert ends["INTERNAL"] == 0  # what an engine of the workshop asserts comes out as that
        assert all(here.orchestrator.runner.active(pool_id) == 0 for pool_id in here.engines)
        assert len(here.orchestrator.backlog) == 0
        assert ends.total() + shop.refused.total() == TASKS
        assert here.metric("tasks_enqueued_total") == ends.total()
        PLAYED.update(f"real end: {how}" for how in ends.elements())

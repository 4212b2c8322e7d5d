"""An answer ends at ``max_tokens``, also where its engine goes on."""

import asyncio
import logging

import pytest

from adapters.base import Batch, Finished, Generation
from contracts.config import Mode
from contracts.events import FinishReason
from orchestratord.relay import Cut, Limits, relay
from tests.support.virtual_loop import LoopClock
from tests.unit.orchestratord.frames import events_of, frames_of, text_of
from tests.unit.orchestratord.test_task import started
from tests.unit.orchestratord.world import (
    STOPPED_WELL,
    Pause,
    Script,
    ScriptedAdapter,
    Step,
    config,
    ended,
    pool,
    snapshot,
    world,
)

LIMITS = Limits(wall_ms=10_000, idle_ms=1_000)
LENGTH = Finished(reason=FinishReason.LENGTH, tokens_in=3, tokens_out=3, decode_ms=5.0)


async def relayed(limit: int | None, *steps: Step) -> tuple[object, str]:
    task, engine = started(), ScriptedAdapter(Script(list(steps)))
    outcome = await relay(task, engine, Generation(prompt="p", max_tokens=limit), LIMITS, LoopClock())
    assert (engine.open, engine.closed) == (0, 1)
    return outcome, text_of(task.log.read(0))


@pytest.mark.req("HP-05")
@pytest.mark.parametrize(
    "steps",
    [
        ["a", "b", "c", "d", "e"],
        [["a", "b"], ["c", "d"], "e"],
        [["a", "b", "c", "d", "e"]],
        [["a", "b", "c"], ["d"], "e"],
        ["a", ["b", "c"], [], Batch(["d"]), STOPPED_WELL],
    ],
)
async def test_what_an_engine_says_beyond_the_limit_is_not_passed_on(steps: list[Step]) -> None:
    outcome, text = await relayed(3, *steps)
    assert outcome == Cut(reason=FinishReason.LENGTH, goes_on=True)
    assert text == "abc"


@pytest.mark.req("HP-05")
async def test_one_that_ends_in_the_same_read_works_on_nothing_any_more() -> None:
    outcome, text = await relayed(1, Batch(["a", "b"], STOPPED_WELL))
    assert outcome == Cut(reason=FinishReason.LENGTH, tokens_in=3, goes_on=False)
    assert text == "a"


@pytest.mark.req("HP-05")
@pytest.mark.parametrize("limit", [3, 4, None])
async def test_an_engine_that_keeps_the_limit_ends_by_itself(limit: int | None) -> None:
    assert await relayed(limit, "a", ["b", "c"], [], LENGTH) == (LENGTH, "abc")


@pytest.mark.req("HP-05", "HP-08")
async def test_the_task_ends_with_length_and_the_pool_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    pools = [pool("p"), pool("q")]
    engines = {each.id: ScriptedAdapter(otherwise=Script(["a", Pause(0.1)] * 50)) for each in pools}
    for each in engines.values():
        each.tells_busy = False
    foreign = {each.id: snapshot(each.id, provisioning_mode=Mode.EXTERNAL) for each in pools}
    with caplog.at_level(logging.WARNING, "orchestratord.tasks"):
        async with world(settings=config(*pools), engines=engines, snapshots=foreign.__getitem__) as here:
            tasks = [await here.submit(max_tokens=5) for _ in range(6)]
            streams = await asyncio.gather(*map(ended, tasks))
            assert [each.open for each in engines.values()] == [0, 0]
    for stream in streams:
        assert events_of(stream) == ["started", *["token"] * 5, "end"]
        end = frames_of(stream)[-1].data
        assert (end["finish_reason"], end["tokens_out"]) == ("length", 5)
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"the engine of pool {name} does not stop at max_tokens: what it says beyond is not passed on" for name in "pq"
    ]


@pytest.mark.req("HP-08")
async def test_the_slot_of_an_engine_that_goes_on_is_taken_until_it_lets_go() -> None:
    engine = ScriptedAdapter(Script(["a", Pause(0.1)] * 50), Script(["b", STOPPED_WELL]))
    engine.lingers = 3.0
    async with world(engines={"p": engine}) as here:
        first, second = await here.submit(max_tokens=2), await here.submit()
        await ended(first)
        assert here.orchestrator.runner.active("p") == 1
        await ended(second)
        assert second.status.queue_time_ms is not None
        assert second.status.queue_time_ms >= 3_000
        assert engine.most_open == 1

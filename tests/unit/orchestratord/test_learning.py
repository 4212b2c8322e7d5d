"""What a running engine says of itself, where pool-managerd did not prepare it."""

import pytest

from adapters.base import EngineError, Failure, Props
from contracts.pools import PoolState
from tests.support.virtual_loop import settle
from tests.unit.orchestratord.world import ScriptedAdapter, snapshot, world


@pytest.mark.req("ORCH-3812")
@pytest.mark.parametrize("prepared", [None, "unknown"])
async def test_an_engine_of_unknown_version_is_asked_once(prepared: str | None) -> None:
    engine = ScriptedAdapter()
    engine.says = Props(engine_version="b4711")
    async with world(engines={"p": engine}, snapshots=lambda pool: snapshot(pool, engine_version=prepared)) as made:
        await settle()
        made.orchestrator.report(snapshot("p", engine_version=prepared, revision=9))
        await settle()
        assert made.pools["p"].engine_version == "b4711"
        assert engine.introductions == 1


async def test_a_prepared_engine_is_not_asked() -> None:
    engine = ScriptedAdapter()
    async with world(engines={"p": engine}) as made:
        await settle()
        assert (engine.introductions, made.pools["p"].engine_version) == (0, "b1")


async def test_an_engine_that_does_not_say_serves_all_the_same() -> None:
    engine = ScriptedAdapter()
    engine.says = EngineError(Failure.BROKEN, "no such route")
    async with world(engines={"p": engine}, snapshots=lambda pool: snapshot(pool, engine_version=None)) as made:
        await settle()
        assert made.pools["p"].engine_version is None
        assert made.pools["p"].usable


async def test_a_pool_on_its_way_has_no_free_slot_to_predict_with() -> None:
    async with world(snapshots=lambda pool: snapshot(pool, PoolState.STARTING)) as made:
        task = await made.submit()
        assert task.accepted.predicted_start_ms > 0

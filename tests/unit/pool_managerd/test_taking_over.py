import asyncio

import pytest

from contracts.pools import PoolState
from pool_managerd.taking_over import PATIENCE_S, TakingOver
from tests.support.virtual_loop import START_S, VirtualTimeLoop


def waited_s(taking_over: TakingOver) -> float:
    """How long one waits who asks now and hears nothing more."""

    async def wait() -> float:
        await taking_over.settled()
        return asyncio.get_running_loop().time() - START_S

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(wait())


@pytest.mark.req("PM-07")
def test_it_is_open_until_somebody_has_looked() -> None:
    assert waited_s(TakingOver()) == PATIENCE_S
    looked = TakingOver()
    looked.begin(())
    assert waited_s(looked) == 0


@pytest.mark.req("PM-07")
@pytest.mark.parametrize("state", PoolState)
def test_a_pool_on_its_way_up_has_said_nothing_and_any_other_state_is_an_answer(state: PoolState) -> None:
    taking_over = TakingOver()
    taking_over.begin(("gpu0",))
    taking_over.is_now("gpu0", state)
    on_the_way = {"stopped", "staging_model", "ensuring_engine", "starting", "probing"}
    assert waited_s(taking_over) == (PATIENCE_S if str(state) in on_the_way else 0)


def test_every_pool_must_have_said_and_strangers_do_not_count() -> None:
    taking_over = TakingOver()
    taking_over.settle("gpu0")  # before anybody has looked
    taking_over.begin(("gpu0", "gpu1"))
    taking_over.settle("gpu1")
    taking_over.settle("gpu7")
    assert waited_s(taking_over) == PATIENCE_S
    taking_over.settle("gpu0")
    taking_over.settle("gpu0")
    assert waited_s(taking_over) == 0

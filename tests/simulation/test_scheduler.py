"""Random lives of an installation around the real backlog and dispatch: nothing but engines and time is made up."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.config import FullPolicy, Queue
from contracts.tasks import Priority
from tests.simulation.house import (
    Arrive,
    Cancel,
    Crash,
    Drain,
    House,
    PoolScript,
    Recover,
    Reload,
    Step,
    Suspect,
)

POOL_IDS = ("a", "b", "c")
MODELS = ("small", "large")

pool_ids = st.sampled_from(POOL_IDS)
models = st.sampled_from(MODELS)
queues = st.builds(
    Queue,
    capacity=st.integers(1, 6),
    full_policy=st.sampled_from(FullPolicy),
    batch_share=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
)
installations = st.fixed_dictionaries(
    {
        pool_id: st.builds(
            PoolScript, model=st.sampled_from(["small", "small", "large"]), slots=st.integers(1, 3), queue=queues
        )
        for pool_id in POOL_IDS
    }
)
few = st.sampled_from([*[frozenset[str]()] * 6, *(frozenset({pool_id}) for pool_id in POOL_IDS)])
arrivals = st.builds(
    Arrive,
    priority=st.sampled_from(Priority),
    model=st.sampled_from(["small", "small", "small", "large"]),
    only=few,
    avoid=few,
    prefer=st.lists(pool_ids, max_size=2, unique=True).map(tuple),
    home=st.none() | pool_ids,
    wait=st.integers(0, 12),
    first_token=st.integers(0, 8),
    takes=st.integers(1, 12),
    deadline=st.none() | st.integers(1, 30),
)
upsets = st.one_of(
    st.builds(Crash, pool_ids),
    st.builds(Suspect, pool_ids),
    st.builds(Drain, pool_ids),
    st.builds(Reload, pool_ids, models),
    *[st.builds(Recover, pool_ids, vram=st.integers(0, 2))] * 4,
    st.builds(Cancel, st.integers(0, 40), closing=st.integers(0, 3)),
)
steps = st.tuples(arrivals | arrivals | arrivals | upsets, st.integers(0, 5))
scripts = st.lists(steps, max_size=20) | st.lists(steps, min_size=30, max_size=80)


@pytest.mark.req("HP-01", "HP-02", "HP-06", "HP-08")
@settings(deadline=None, max_examples=400)
@given(installations, scripts)
def test_random_lives(pools: dict[str, PoolScript], script: list[tuple[Step, int]]) -> None:
    house = House(pools)
    for step, after in script:
        house.play(step, after)
    house.come_to_an_end()


def drawn(chance: random.Random) -> tuple[Step, int]:
    """One step of a long life."""
    pool_id = chance.choice(POOL_IDS)
    step: Step
    if chance.random() < 0.9:
        step = Arrive(
            priority=chance.choice(list(Priority)),
            model=chance.choices(MODELS, (4, 1))[0],
            only=frozenset({pool_id}) if chance.random() < 0.1 else frozenset(),
            avoid=frozenset({chance.choice(POOL_IDS)}) if chance.random() < 0.1 else frozenset(),
            prefer=(chance.choice(POOL_IDS),) if chance.random() < 0.2 else (),
            home=chance.choice(POOL_IDS) if chance.random() < 0.4 else None,
            wait=chance.choice((0, 3, 20)),
            first_token=chance.randrange(8),
            takes=chance.randrange(1, 12),
            deadline=chance.randrange(5, 60) if chance.random() < 0.1 else None,
        )
    else:
        happenings: list[Step] = [
            Crash(pool_id),
            Suspect(pool_id),
            Drain(pool_id),
            Reload(pool_id, chance.choices(MODELS, (2, 1))[0]),
            *(Recover(each, vram=chance.randrange(3)) for each in POOL_IDS * 3),
            *(Reload(each, "small") for each in POOL_IDS[:2]),
            Cancel(chance.randrange(1000), closing=chance.randrange(4)),
            Cancel(chance.randrange(1000)),
        ]
        step = chance.choice(happenings)
    return step, chance.choice((0, 0, 1, 2, 4, 6))


@pytest.mark.req("HP-01", "HP-02", "HP-06", "HP-08")
@pytest.mark.parametrize("seed", range(12))
def test_a_long_life(seed: int) -> None:
    """Queues deep enough for all of them to matter, shares and policies of every kind."""
    chance = random.Random(seed)
    house = House(
        {
            pool_id: PoolScript(
                model="large" if pool_id == "c" else "small",
                slots=chance.randrange(1, 4),
                queue=Queue(
                    capacity=chance.choice((3, 10, 40)),
                    full_policy=chance.choice(list(FullPolicy)),
                    batch_share=chance.choice((0.0, 0.2, 0.7)),
                ),
            )
            for pool_id in POOL_IDS
        }
    )
    for _ in range(2_000):
        house.play(*drawn(chance))
    house.come_to_an_end()


@pytest.mark.req("HP-01", "HP-08")
@given(st.integers(1, 3), st.lists(st.integers(1, 30), min_size=4, max_size=40), st.data())
def test_under_a_flood_of_batch_an_interactive_task_waits_for_one_running_task_at_most(
    slots: int, lengths: list[int], data: st.DataObject
) -> None:
    house = House(
        {"a": PoolScript("small", slots, Queue(capacity=99)), "b": PoolScript("small", 1, Queue(capacity=99))}
    )
    for takes in lengths:
        house.play(Arrive(Priority.BATCH, "small", takes=takes), 0)
    for _ in range(3):
        house.pass_time(data.draw(st.integers(0, 40)))
        longest = max((task.wants.takes for task in house.tasks.values() if task.where is not None), default=0)
        house.play(Arrive(Priority.INTERACTIVE, "small"), 0)
        asked = next(reversed(house.tasks.values()))
        house.pass_time(longest)
        assert asked.first_started is not None
        assert asked.first_started - asked.came <= longest
    house.come_to_an_end()

"""Which replica: only ready ones with a free slot, then preference, VRAM, active slots, id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.tasks import Placement
from orchestratord.placement import Replica, choose

GIB = 1 << 30
POOLS = ("a", "b", "c", "d")


def replica(pool_id: str, *, usable: bool = True, slots: int = 2, active: int = 0, vram: int = GIB) -> Replica:
    return Replica(
        pool_id=pool_id,
        replica_id=f"{pool_id}-0",
        usable=usable,
        free_slots=slots - active,
        active=active,
        vram_free_bytes=vram,
    )


@pytest.mark.req("HP-06")
@pytest.mark.parametrize(
    ("candidates", "wish", "chosen"),
    [
        ([replica("a", vram=12 * GIB), replica("b", vram=24 * GIB)], Placement(), "b"),
        ([replica("a", active=1), replica("b")], Placement(), "b"),
        ([replica("b"), replica("a")], Placement(), "a"),
        ([replica("a", usable=False, vram=24 * GIB), replica("b")], Placement(), "b"),
        ([replica("a", active=2, vram=24 * GIB), replica("b")], Placement(), "b"),
        ([replica("a", vram=24 * GIB), replica("b")], Placement(prefer=("b",)), "b"),
        ([replica("a"), replica("b"), replica("c")], Placement(prefer=("c", "b")), "c"),
        ([replica("a"), replica("c", active=2)], Placement(prefer=("c",)), "a"),
        ([replica("a", usable=False), replica("b", active=2)], Placement(), None),
        ([], Placement(), None),
    ],
    ids=["vram", "active", "id", "unready", "full", "prefer", "prefer-order", "prefer-full", "none", "empty"],
)
def test_the_order(candidates: list[Replica], wish: Placement, chosen: str | None) -> None:
    found = choose(candidates, wish, POOLS)
    assert (found.pool_id if found else None) == chosen


@pytest.mark.req("HP-06")
def test_a_pin_is_never_traded_for_a_better_replica() -> None:
    candidates = [replica("a", active=2), replica("b", vram=24 * GIB)]
    assert choose(candidates, Placement(), {"a"}) is None


replicas = st.lists(
    st.builds(
        replica,
        st.sampled_from(POOLS),
        usable=st.booleans(),
        slots=st.integers(1, 3),
        active=st.integers(0, 4),
        vram=st.integers(0, 3),
    ),
    unique_by=lambda each: each.pool_id,
)
wishes = st.builds(Placement, prefer=st.lists(st.sampled_from(POOLS), unique=True).map(tuple))


@pytest.mark.req("HP-06")
@given(replicas, wishes, st.sets(st.sampled_from(POOLS)))
def test_the_choice_beats_every_other_and_ignores_the_order_of_the_candidates(
    candidates: list[Replica], wish: Placement, pools: set[str]
) -> None:
    chosen = choose(candidates, wish, pools)
    able = [each for each in candidates if each.usable and each.free_slots > 0 and each.pool_id in pools]
    assert choose(candidates[::-1], wish, pools) == chosen
    assert (chosen is None) == (not able)
    if chosen is None:
        return
    assert chosen in able
    preferred = [pool for pool in wish.prefer if pool in {each.pool_id for each in able}]
    if preferred:
        assert chosen.pool_id == preferred[0]
        return
    assert chosen.vram_free_bytes == max(each.vram_free_bytes for each in able)
    roomiest = [each for each in able if each.vram_free_bytes == chosen.vram_free_bytes]
    assert chosen.active == min(each.active for each in roomiest)
    calmest = [each for each in roomiest if each.active == chosen.active]
    assert chosen.replica_id == min(each.replica_id for each in calmest)

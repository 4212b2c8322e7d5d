"""More work than two replicas can do, engines that die, drains, reloads: nothing is lost, doubled or idle.

``python -m bench.flood`` is the same with ten thousand tasks. No time is asserted: what is asserted are the notes of
orchestratord itself, in their order, and what the clients read.
"""

from pathlib import Path

import pytest

from bench.flood.__main__ import Outcome, play, said
from bench.flood.houses import real, stand_in
from tests.support.tiny_gguf import write_tiny_gguf


def well_ended(outcome: Outcome, tasks: int) -> None:
    """Every task was let in, ended once, and meanwhile engines did die and pools were away."""
    print("\n".join(said("flood", outcome)))  # noqa: T201 - what a failure needs, and -rP shows
    assert outcome.complaints() == []
    assert outcome.seen.total == tasks
    assert outcome.deeds["killed"]
    assert outcome.deeds.total() > outcome.deeds["killed"]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.req("HP-01", "HP-08", "HP-10", "HP-11", "HP-17", "HP-19", "PM-04")
async def test_a_flood_over_two_real_engines_that_are_killed(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "model.gguf", layers=4, dim=256)
    made = real(tmp_path / "house", model, slots=2)
    outcome = await play(made, tasks=250, at_once=24, seed=1, every_s=0.8, longest=40)
    well_ended(outcome, tasks=250)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.req("HP-01", "HP-08", "HP-10", "HP-11", "HP-17", "HP-19", "PM-04")
async def test_a_flood_over_two_fast_engines_that_are_killed(tmp_path: Path) -> None:
    made = stand_in(tmp_path / "house", slots=8, token_delay_ms=2.0, batch_share=0.2)
    outcome = await play(made, tasks=500, at_once=64, seed=2, every_s=1.0, longest=60)
    well_ended(outcome, tasks=500)

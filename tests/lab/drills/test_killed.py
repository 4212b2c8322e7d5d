"""Drills: a part is killed while it works. Every part in turn, on one host, with a stream running."""

import pytest

from tests.lab.drills.conftest import Play, judge
from tests.lab.drills.drill import Drill, Played

PREPARED = """
configure
prepare
start
"""


def killed_front(played: Played) -> None:
    resumed = played.resumed("stream")
    assert resumed.error is not None
    assert (resumed.error.code, resumed.error.retriable) == ("WORKER_RESET", True)


DRILLS = (
    Drill(
        name="orchestratord-killed",
        done="kill -9",
        client="x",
        journal=("orchestratord.service: Main process exited",),
        left="x",
        script=r"""
ask stream 4000
flows stream
kill -KILL "$(main_pid orchestratord)"
eventually 20 restarts orchestratord 1
eventually 20 answers
rest stream
date +%s.%N > $here/t
""",
        prove=killed_front,
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play) -> dict[str, Played]:
    return drills(DRILLS, prepared=PREPARED)


@pytest.mark.parametrize("drill", DRILLS, ids=lambda drill: drill.name)
def test_killed(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)
    print(played[drill.name])

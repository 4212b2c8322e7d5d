"""Drills: a part hangs: it is there, and does nothing (SIGSTOP). Every part in turn, on one host, with a stream running."""

import pytest

from tests.lab.drills.conftest import Play, each, judge
from tests.lab.drills.drill import Drill, Played

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

PREPARED = """
idle_ms=1500 watchdog=2
configure
prepare
start
"""


DRILLS = (
    Drill(
        name="engine-hung",
        done="x",
        client="x",
        journal=(),
        left="x",
        script=r"""
ask stream 4000
flows stream
engine=$(engines)
kill -STOP $engine
date +%s.%N > $here/t1
wait
date +%s.%N > $here/t2
ask again 20
eventually 30 grep "event: end" $here/again || true
date +%s.%N > $here/t3
health > $here/health
echo $engine, $(engines) > $here/engines
kill -KILL $engine || true
eventually 30 pool_is_ready
""",
    ),
    Drill(
        name="orchestratord-hung",
        done="x",
        client="x",
        journal=(),
        left="x",
        script=r"""
ask stream 4000
flows stream
engine=$(engines)
kill -STOP $(main_pid orchestratord)
date +%s.%N > $here/t1
eventually 20 restarts orchestratord 1
date +%s.%N > $here/t2
wait
eventually 20 answers
rest stream
echo $engine, $(engines) > $here/engines
""",
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play) -> dict[str, Played]:
    return drills(DRILLS, prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_hung(drill: Drill, played: dict[str, Played]) -> None:
    print(played[drill.name])
    judge(drill, played)

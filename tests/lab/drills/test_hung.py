"""Drills: a part hangs: it is there, and does nothing (SIGSTOP). Every part in turn, with a stream running."""

import pytest

from tests.lab.drills.conftest import Play, each, judge
from tests.lab.drills.drill import OR, Drill, Played

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

PREPARED = """
idle_ms=1500 watchdog=2
configure
prepare
start
"""


def front(played: Played) -> None:
    resumed = played.resumed("stream")
    assert resumed.error is not None
    assert (resumed.error.code, resumed.error.retriable) == ("WORKER_RESET", True)


def manager(played: Played) -> None:
    assert played.stream("stream").end is not None


def engine(played: Played) -> None:
    broken = played.stream("stream")
    assert broken.error is not None
    assert (broken.error.code, broken.error.retriable) == ("DECODE_TIMEOUT", True)
    assert played.stream("waiting").end is not None


DRILLS = (
    Drill(
        name="orchestratord-hung",
        done="`orchestratord` hangs while a stream runs. The watchdog has 2 s here, and 30 s in the unit.",
        client="The stream stands still, until the watchdog fires and the connection breaks. Read on with "
        "`Last-Event-ID`, the task says `WORKER_RESET`, retriable.",
        journal=(
            "orchestratord.service: Watchdog timeout (limit 2s)!",
            "orchestratord.service: Failed with result 'watchdog'.",
            "ended: WORKER_RESET: orchestratord ended while this task ran",
        ),
        left="The engine and the pool manager are the same as before.",
        script=r"""
engine=$(engines) manager=$(main_pid pool-managerd)
ask stream 4000
flows stream
kill -STOP "$(main_pid orchestratord)"
eventually 20 restarts orchestratord 1
eventually 20 answers
wait
rest stream
[ "$(engines) $(main_pid pool-managerd)" = "$engine $manager" ]
""",
        prove=front,
        req=("OP-01", "HP-17"),
    ),
    Drill(
        name="pool-managerd-hung",
        done="`pool-managerd` hangs while a stream runs.",
        client="Nothing: the stream goes on to its `end`.",
        journal=(
            "pool-managerd.service: Watchdog timeout (limit 2s)!",
            "taking over the engine that runs on port",
        ),
        left="The watchdog replaces the manager, and the next one takes the engine over: the same process serves.",
        script=r"""
engine=$(engines) front=$(main_pid orchestratord)
ask stream 900
flows stream
kill -STOP "$(main_pid pool-managerd)"
eventually 20 restarts pool-managerd 1
eventually 20 pool_is_ready
wait
[ "$(engines) $(main_pid orchestratord)" = "$engine $front" ]
""",
        prove=manager,
        req=("OP-01", "PM-07"),
    ),
    Drill(
        name="engine-hung",
        done="The engine hangs while a stream runs and another task waits. `timeouts.idle_ms` of the pool is 1.5 s "
        "here.",
        client="`DECODE_TIMEOUT`, retriable, after `timeouts.idle_ms`. The task that waits is told how its start is "
        "put off, and runs when the engine has been replaced.",
        journal=(
            "ended: DECODE_TIMEOUT: the engine was given up after 1500 ms (idle limit)",
            "it works on in every slot for tasks that have ended; pool-managerd is asked to start it anew"
            + OR
            + "the engine was ready and is not healthy any more: no answer within 2 s, 3 times in a row",
            "pool gpu0 is ready",
        ),
        left="The engine that hung is ended: nothing holds its memory. The daemons are the same as before.",
        script=r"""
before="$(main_pid orchestratord) $(main_pid pool-managerd)"
engine=$(engines)
ask stream 4000
flows stream
ask waiting 20
kill -STOP $engine
wait
[ "$(engines | wc -l)" = 1 ] && [ "$(engines)" != "$engine" ]
[ "$(main_pid orchestratord) $(main_pid pool-managerd)" = "$before" ]
""",
        prove=engine,
        req=("HP-17", "PM-01"),
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play) -> dict[str, Played]:
    return drills(DRILLS, prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_hung(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

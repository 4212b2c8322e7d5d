"""Drills: a part hangs: it is there, and does nothing (SIGSTOP). Every part in turn, with a stream running."""

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import OR, Drill, Played, broken, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
watchdog=8
configure
prepare
start
"""


def front(played: Played) -> None:
    broken(played.resumed("stream"), "WORKER_RESET")


def manager(played: Played) -> None:
    well(played.stream("stream"))
    well(played.stream("afterwards"))


def engine(played: Played) -> None:
    broken(played.stream("stream"), "DECODE_TIMEOUT")
    waiting = well(played.stream("waiting"))
    assert "metrics" in waiting.names[: waiting.names.index("started")]


DRILLS = (
    Drill(
        name="orchestratord-hung",
        done="`orchestratord` hangs while a stream runs. The watchdog has 8 s here, and 30 s in the unit.",
        client="The stream stands still, until the watchdog fires and the connection breaks. Read on with "
        "`Last-Event-ID`, the task says `WORKER_RESET`, retriable.",
        journal=(
            "orchestratord.service: Watchdog timeout (limit 8s)!",
            "orchestratord.service: Failed with result 'watchdog'.",
            "ended: WORKER_RESET: orchestratord ended while this task ran",
        ),
        left="The engine and the pool manager are the same as before.",
        script=r"""
grep -qx WatchdogSec=30 "$CHECKOUT/systemd/orchestratord.service"
both="$(engines) $(main_pid pool-managerd)" before=$(property orchestratord NRestarts)
halt
ask stream 300
hold stream
kill -STOP "$(main_pid orchestratord)"
eventually 60 restarts orchestratord $((before + 1))
wait
let_go
eventually 30 answers
rest stream
same "engine and pool manager" "$(engines) $(main_pid pool-managerd)" "$both"
""",
        prove=front,
        req=("OP-01", "HP-17"),
    ),
    Drill(
        name="pool-managerd-hung",
        done="`pool-managerd` hangs while a stream runs. The watchdog has 8 s here, and 30 s in the unit.",
        client="Nothing: the stream goes on to its `end`.",
        journal=(
            "pool-managerd.service: Watchdog timeout (limit 8s)!",
            "taking over the engine that runs on port",
        ),
        left="The watchdog replaces the manager, and the next one takes the engine over: the same process serves.",
        script=r"""
grep -qx WatchdogSec=30 "$CHECKOUT/systemd/pool-managerd.service"
both="$(engines) $(main_pid orchestratord)" before=$(property pool-managerd NRestarts)
halt
ask stream 300
hold stream
kill -STOP "$(main_pid pool-managerd)"
let_go
wait
eventually 60 restarts pool-managerd $((before + 1))
eventually 30 pool_is_ready
ask afterwards 5
wait
same "engine and orchestratord" "$(engines) $(main_pid orchestratord)" "$both"
""",
        prove=manager,
        req=("OP-01", "PM-07"),
    ),
    Drill(
        name="engine-hung",
        done="The engine hangs while a stream runs and another task waits. `timeouts.idle_ms` of the pool is 5 s here.",
        client="`DECODE_TIMEOUT`, retriable, after `timeouts.idle_ms`. The task that waits is told how its start is "
        "put off, and runs when the engine has been replaced.",
        journal=(
            "ended: DECODE_TIMEOUT: the engine was given up after 5000 ms (idle limit)",
            "it works on in every slot for tasks that have ended; pool-managerd is asked to start it anew"
            + OR
            + "the engine was ready and is not healthy any more: no answer within 2 s, 3 times in a row",
            "pool gpu0 is ready",
        ),
        left="The engine that hung is ended: nothing holds its memory. The daemons are the same as before.",
        script=r"""
idle_ms=5000 configure
systemctl --user reload orchestratord
eventually 30 said 'nothing waits for a restart'
daemons="$(main_pid orchestratord) $(main_pid pool-managerd)"
engine=$(engines)
ask stream 8000 # no gate: the idle limit is not to be reached before the engine hangs
flows stream
ask waiting 20
waits waiting
kill -STOP "$engine"
wait
same "number of engines" "$(engines | wc -l)" 1
not kill -0 "$engine"
same "daemons" "$(main_pid orchestratord) $(main_pid pool-managerd)" "$daemons"
""",
        prove=engine,
        req=("HP-17", "PM-01"),
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play, request: pytest.FixtureRequest) -> dict[str, Played]:
    return drills(chosen(DRILLS, request), prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_hung(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

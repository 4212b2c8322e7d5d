"""Drills: a part is killed while it works. Every part in turn, on one host, with a stream running."""

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import OR, Drill, Played, broken, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
configure
prepare
start
"""


def front(played: Played) -> None:
    broken(played.resumed("stream"), "WORKER_RESET")
    well(played.resumed("strict"))
    assert played.resumed("strict").text == played.stream("undisturbed").text
    well(played.stream("behind"))
    assert played.ended() == ["stream", "strict", "behind", "undisturbed"]
    assert [each["interrupted"] for each in played.receipts()[-4:]] == [True, True, False, False]


def manager(played: Played) -> None:
    well(played.stream("stream"))
    well(played.stream("meanwhile"))
    well(played.stream("afterwards"))


def engine(played: Played) -> None:
    broken(played.stream("stream"), "WORKER_RESET")
    well(played.stream("waiting"))
    assert played.json("health")["restarts"] == played.json("health.before")["restarts"] + 1


DRILLS = (
    Drill(
        name="orchestratord-killed",
        done="`kill -9` of `orchestratord` while a stream runs and two tasks wait, of which the first asks for "
        "`strict` determinism. When that one runs, once more.",
        client="The connections break without an `end`. Read on with `Last-Event-ID`, the first task says "
        "`WORKER_RESET`, retriable. Those that waited keep their places and run; the strict one, cut off itself, goes "
        "on behind its last token, byte for byte what an undisturbed run says.",
        journal=(
            "orchestratord.service: Main process exited, code=killed, status=9/KILL",
            "ended: WORKER_RESET: orchestratord ended while this task ran",
            "3 tasks of the former run taken up: 2 wait again",
        ),
        left="The engine and the pool manager are the same as before. Each task has one receipt; those of the two that "
        "were cut off say `interrupted`.",
        script=r"""
both="$(engines) $(main_pid pool-managerd)"
halt
ask stream 300
hold stream
ask strict 300 '"determinism": "strict", "on_disconnect": "continue"'
waits strict
ask behind 5 '"on_disconnect": "continue"'
waits behind
kill -KILL "$(main_pid orchestratord)"
wait
eventually 30 answers
rest stream
read_task strict
hold strict
kill -KILL "$(main_pid orchestratord)"
wait
eventually 30 answers
let_go
rest strict
read_task behind
ask undisturbed 300 '"determinism": "strict"'
wait
receipt undisturbed
same "engine and pool manager" "$(engines) $(main_pid pool-managerd)" "$both"
""",
        prove=front,
        req=("OP-01", "HP-12", "HP-17", "HP-19", "HP-21"),
    ),
    Drill(
        name="pool-managerd-killed",
        done="`kill -9` of `pool-managerd` while a stream runs. It is not started again before that stream has ended.",
        client="Nothing: the stream goes on to its `end`, and a task that comes meanwhile is served.",
        journal=(
            "pool-managerd.service: Main process exited, code=killed, status=9/KILL",
            "gpu0: a former manager left an engine running",
            "taking over the engine that runs on port",
        ),
        left="The engine goes on in a scope of its own, and the next manager takes it over: the same process serves. "
        "`orchestratord` is the same as before.",
        script=r"""
both="$(engines) $(main_pid orchestratord)" manager=$(main_pid pool-managerd)
halt
ask stream 300
hold stream
keep_away pool-managerd
kill -KILL "$manager"
missed() { api /v1/pools | grep -q '"managed":false'; }
eventually 30 missed
ask meanwhile 20
waits meanwhile
let_go
wait
away pool-managerd
come_back pool-managerd
eventually 30 replaced pool-managerd "$manager"
eventually 30 pool_is_ready
ask afterwards 5
wait
same "engine and orchestratord" "$(engines) $(main_pid orchestratord)" "$both"
""",
        prove=manager,
        req=("OP-01", "PM-07"),
    ),
    Drill(
        name="engine-killed",
        done="`kill -9` of the engine while a stream runs and another task waits.",
        client="The stream ends at once with `WORKER_RESET`, retriable. The task that waits runs when the engine is "
        "back.",
        journal=(
            "pool gpu0 is failed: the engine was ended by SIGKILL while it served, and nobody asked it to"
            + OR
            + "pool gpu0 is failed: the engine has ended while it served, and nobody asked it to",
            "failure 1 of 100, again in",
            "pool gpu0 is ready",
        ),
        left="One engine runs, another one than before; the pool counts one restart. The daemons are the same as "
        "before.",
        script=r"""
daemons="$(main_pid orchestratord) $(main_pid pool-managerd)"
health > $here/health.before
halt
ask stream 300
hold stream
ask waiting 20
waits waiting
kill -KILL $(engines)
let_go
wait
eventually 30 pool_is_ready
health > $here/health
same "number of engines" "$(engines | wc -l)" 1
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
def test_killed(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

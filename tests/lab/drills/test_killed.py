"""Drills: a part is killed while it works. Every part in turn, on one host, with a stream running."""

import pytest

from tests.lab.drills.conftest import Play, each, judge
from tests.lab.drills.drill import Drill, Played

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

PREPARED = """
configure
prepare
start
"""


def front(played: Played) -> None:
    resumed = played.resumed("stream")
    assert resumed.error is not None
    assert (resumed.error.code, resumed.error.retriable) == ("WORKER_RESET", True)
    assert played.resumed("strict").end is not None
    assert played.resumed("strict").text == played.stream("undisturbed").text
    receipts = [each["content"] for each in played.json("receipts")["receipts"]]
    assert [each["number"] for each in receipts] == [1, 2, 3]
    assert [each["interrupted"] for each in receipts] == [True, True, False]


def manager(played: Played) -> None:
    assert played.stream("stream").end is not None
    assert played.stream("meanwhile").end is not None


def engine(played: Played) -> None:
    broken = played.stream("stream")
    assert broken.error is not None
    assert (broken.error.code, broken.error.retriable) == ("WORKER_RESET", True)
    assert played.stream("waiting").end is not None
    assert played.json("health")["restarts"] == 1


DRILLS = (
    Drill(
        name="orchestratord-killed",
        done="`kill -9` of `orchestratord` while a stream runs and another task waits, which asks for `strict` "
        "determinism. When that one runs, once more.",
        client="The connections break without an `end`. Read on with `Last-Event-ID`, the first task says "
        "`WORKER_RESET`, retriable. The one that waited keeps its place and runs; cut off itself, it goes on behind "
        "its last token, byte for byte what an undisturbed run says.",
        journal=(
            "orchestratord.service: Main process exited, code=killed, status=9/KILL",
            "ended: WORKER_RESET: orchestratord ended while this task ran",
            "tasks of the former run taken up",
        ),
        left="The engine and the pool manager are the same as before. Each task has one receipt; those of the two that "
        "were cut off say `interrupted`.",
        script=r"""
engine=$(engines) manager=$(main_pid pool-managerd)
ask stream 4000
flows stream
ask strict 400 '"determinism": "strict", "on_disconnect": "continue"'
task=$(queued)
kill -KILL "$(main_pid orchestratord)"
wait
eventually 20 answers
rest stream
read_task $task strict
flows strict 3
kill -KILL "$(main_pid orchestratord)"
wait
eventually 20 answers
rest strict
ask undisturbed 400 '"determinism": "strict"'
wait
receipt() { api '/v1/receipts?after=0' | tee $here/receipts | grep -q '"number":3'; }
eventually 10 receipt
[ "$(engines) $(main_pid pool-managerd)" = "$engine $manager" ]
""",
        prove=front,
        req=("OP-01", "HP-12", "HP-17", "HP-19", "HP-21"),
    ),
    Drill(
        name="pool-managerd-killed",
        done="`kill -9` of `pool-managerd` while a stream runs.",
        client="Nothing: the stream goes on to its `end`, and a task that comes meanwhile is served.",
        journal=(
            "pool-managerd.service: Main process exited, code=killed, status=9/KILL",
            "gpu0: a former manager left an engine running",
            "taking over the engine that runs on port",
        ),
        left="The engine goes on in a scope of its own, and the next manager takes it over: the same process serves. "
        "`orchestratord` is the same as before.",
        script=r"""
engine=$(engines) front=$(main_pid orchestratord)
ask stream 300
flows stream
ask meanwhile 20
before=$(property pool-managerd NRestarts)
kill -KILL "$(main_pid pool-managerd)"
eventually 20 restarts pool-managerd $((before + 1))
eventually 20 pool_is_ready
wait
[ "$(engines) $(main_pid orchestratord)" = "$engine $front" ]
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
            "pool gpu0 is failed: the engine has ended while it served, and nobody asked it to",
            "failure 1 of 100, again in",
            "pool gpu0 is ready",
        ),
        left="One engine runs, another one than before; the pool counts one restart. The daemons are the same as "
        "before.",
        script=r"""
before="$(main_pid orchestratord) $(main_pid pool-managerd)"
ask stream 4000
flows stream
ask waiting 20
queued
kill -KILL $(engines)
wait
eventually 10 pool_is_ready
health > $here/health
[ "$(engines | wc -l)" = 1 ]
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
def test_killed(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

"""Drills: the network goes, between client and host, and between the daemons and their engine. One host with a LAN."""

import pytest

from tests.lab.drills.conftest import Play, each, judge
from tests.lab.drills.drill import Drill, Played

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

PREPARED = """
idle_ms=1500
configure 'server: {bind: "0.0.0.0:8080"}'
prepare
start
url=http://10.77.0.1:8080
from="nsenter --user --net --preserve-credentials --target $(cat /run/lab/client)"
"""


def pulled(played: Played) -> None:
    assert played.stream("stream").end is not None
    assert played.stream("stream").text == played.stream("stream.joined").text


def vanished(played: Played) -> None:
    assert played.resumed("stream").end is not None
    assert len(played.cut("stream").tokens) < 400


def loopback(played: Played) -> None:
    error = played.stream("stream").error
    assert error is not None
    assert (error.code, error.retriable) == ("DECODE_TIMEOUT", True)
    assert played.stream("again").end is not None
    assert played.json("health")["restarts"] == 0


DRILLS = (
    Drill(
        name="cable-pulled",
        done="The cable between a client on the LAN and the host is pulled while a stream runs, and put back a moment "
        "later.",
        client="The stream stands still, and goes on in the same connection: nothing is missing, nothing is there "
        "twice. Another reader, on the host itself, notices nothing.",
        journal=("ended: length",),
        left="The task runs all the while and ends as usual.",
        script=r"""
ask stream 700
flows stream
join stream
hand cable-out
size=$(wc -c < $here/stream)
flows stream.joined 400
[ "$(wc -c < $here/stream)" = $size ]
hand cable-in
wait
""",
        prove=pulled,
        req=("HP-19", "OP-02"),
    ),
    Drill(
        name="client-vanished",
        done="The cable is pulled and the client ends: nobody on the host is told. It comes back when the task is "
        "over.",
        client="It reads on behind its last token with `Last-Event-ID`, up to the `end`: nothing is missing.",
        journal=("ended: length",),
        left="The task is not taken for one without listeners, for nobody has said goodbye: it runs to its end and is "
        "kept.",
        script=r"""
ask stream 600
flows stream
hand cable-out
kill -KILL $!
wait
url=http://127.0.0.1:8080
over() { api "/v1/tasks/$(task_of stream)" | grep -q '"state":"done"'; }
eventually 20 over
hand cable-in
url=http://10.77.0.1:8080
rest stream
""",
        prove=vanished,
        req=("HP-19",),
    ),
    Drill(
        name="loopback-cut",
        done="The loopback interface goes down while a stream runs: the daemons reach their engine no more. It comes "
        "back when the client has its answer.",
        client="`DECODE_TIMEOUT`, retriable, after the pool's `timeouts.idle_ms`. The next task is served.",
        journal=("ended: DECODE_TIMEOUT: the engine was given up after 1500 ms (idle limit)", "the slot of task"),
        left="The engine was not ended for what the network did. Its slot is free again when it says so.",
        script=r"""
ask stream 4000
flows stream
engine=$(engines)
hand loopback-down
wait
hand loopback-up
ask again 20
wait
[ "$(engines)" = "$engine" ]
health > $here/health
""",
        prove=loopback,
        req=("HP-17", "HP-11"),
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play) -> dict[str, Played]:
    return drills(DRILLS, prepared=PREPARED, lan=True)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_network(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

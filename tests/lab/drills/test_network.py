"""Drills: the network goes, between client and host, and between the daemons and their engine. One host with a LAN."""

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import Drill, Played, broken, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
configure 'server: {bind: "0.0.0.0:8080", slow_reader_ms: 120000}'
prepare
start
url=http://10.77.0.1:8080
from="nsenter --user --net --preserve-credentials --target $(cat /run/lab/client)"
"""


def pulled(played: Played) -> None:
    well(played.stream("stream"))
    assert played.stream("stream").text == played.stream("stream.joined").text


def vanished(played: Played) -> None:
    well(played.resumed("stream"))


def loopback(played: Played) -> None:
    broken(played.stream("stream"), "DECODE_TIMEOUT")
    well(played.stream("again"))
    assert played.json("health")["restarts"] == played.json("health.before")["restarts"]


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
halt
ask stream 800 # more than the kernel takes for a reader who is away
hold stream
read_task stream stream.joined
hold stream.joined
hand cable-out
let_go
eventually 150 has_tokens stream.joined 800
same "tokens behind the cut" "$(grep -c '^event: token' $here/stream)" $PASS
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
halt
ask stream 300
hold stream
hand cable-out
kill -KILL $!
wait
let_go
url=http://127.0.0.1:8080
eventually 120 in_state stream done
hand cable-in
url=http://10.77.0.1:8080
eventually 30 $from curl --silent --fail --max-time 1 "$url/healthz"
rest stream
""",
        prove=vanished,
        req=("HP-19",),
    ),
    Drill(
        name="loopback-cut",
        done="The loopback interface goes down while a stream runs: the daemons reach their engine no more. It comes "
        "back when the client has its answer.",
        client="`DECODE_TIMEOUT`, retriable, after the pool's `timeouts.idle_ms` (1 s here). The next task is served.",
        journal=("ended: DECODE_TIMEOUT: the engine was given up after 1000 ms (idle limit)", "the slot of task"),
        left="The engine was not ended for what the network did. Its slot is free again when it says so.",
        script=r"""
idle_ms=1000 configure 'server: {bind: "0.0.0.0:8080", slow_reader_ms: 120000}'
systemctl --user reload orchestratord
eventually 30 said 'nothing waits for a restart'
engine=$(engines)
health > $here/health.before
ask stream 8000
flows stream
hand loopback-down
wait
hand loopback-up
# The limit was for the cut: what comes now may take its time.
configure 'server: {bind: "0.0.0.0:8080", slow_reader_ms: 120000}'
systemctl --user reload orchestratord
eventually 30 said_times 2 'nothing waits for a restart'
ask again 20
wait
same engine "$(engines)" "$engine"
health > $here/health
""",
        prove=loopback,
        req=("HP-17", "HP-11"),
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play, request: pytest.FixtureRequest) -> dict[str, Played]:
    return drills(chosen(DRILLS, request), prepared=PREPARED, lan=True)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_network(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

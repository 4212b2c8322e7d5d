"""Drills: what an operator does on purpose while work goes on: restarts and a stop. One host."""

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import Drill, Played, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
configure 'server: {drain_ms: 90000}'
prepare
start
"""


def front(played: Played) -> None:
    well(played.stream("short"))
    well(played.resumed("strict"))
    assert played.resumed("strict").text == played.stream("undisturbed").text
    assert played.files["refusals"].split() == []
    assert played.files["between"].endswith('{"status": "ok"}')


def manager(played: Played) -> None:
    well(played.stream("stream"))


def stopped(played: Played) -> None:
    for name in ("short", "first", "second"):
        well(played.stream(name))
    assert played.ended() == ["short", "first", "second"]


DRILLS = (
    Drill(
        name="orchestratord-restarted",
        done="`systemctl --user restart orchestratord` while a task runs and a `strict` one waits, and again when that "
        "runs. The second time the operator does not wait for the drain, and signals again. Clients connect all the "
        "while.",
        client="The first task ends as usual before the restart, within `server.drain_ms`. The strict one goes on "
        "behind its last token afterwards, byte for byte. Nobody is refused a connection: who connects between two "
        "runs waits a moment and is served by the next one.",
        journal=(
            "SIGUSR2: stopping, to be started again",
            "1 running tasks have 90000 ms to end (server.drain_ms)",
            "1 tasks have not ended in time, and are cut off",
            "took over the socket of the last run: who has connected meanwhile is answered now",
        ),
        left="The engine and the pool manager are the same as before.",
        script=r"""
both="$(engines) $(main_pid pool-managerd)" front=$(main_pid orchestratord)
halt
ask short 300
hold short
ask strict 300 '"determinism": "strict", "on_disconnect": "continue"'
waits strict
while [ ! -e $here/.over ]; do
  curl --silent --output /dev/null --max-time 60 "$url/healthz" || echo "$?"
done > $here/refusals &
keep_away orchestratord
systemctl --user restart --no-block orchestratord
eventually 30 said '1 running tasks have 90000 ms to end'
let_go
eventually 30 away orchestratord
exec 5<> /dev/tcp/127.0.0.1/8080 # a connection between two runs
printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&5
halt
come_back orchestratord
cat <&5 > $here/between
eventually 30 replaced orchestratord "$front"
front=$(main_pid orchestratord)
read_task strict
hold strict
systemctl --user restart --no-block orchestratord
eventually 30 said_times 2 'SIGUSR2: stopping'
systemctl --user kill --kill-whom=main --signal=USR2 orchestratord # nobody wants to wait for the drain
eventually 30 replaced orchestratord "$front"
let_go
touch $here/.over
wait
rest strict
ask undisturbed 300 '"determinism": "strict"'
wait
same "engine and pool manager" "$(engines) $(main_pid pool-managerd)" "$both"
""",
        prove=front,
        req=("OP-01", "HP-12", "HP-19"),
    ),
    Drill(
        name="pool-managerd-restarted",
        done="`systemctl --user restart pool-managerd` while a stream runs.",
        client="Nothing: the stream goes on to its `end`.",
        journal=("SIGUSR2: stopping, to be started again", "taking over the engine that runs on port"),
        left="The engine goes on, and is taken over: the same process serves. `orchestratord` is the same as before.",
        script=r"""
both="$(engines) $(main_pid orchestratord)" manager=$(main_pid pool-managerd)
halt
ask stream 300
hold stream
systemctl --user restart pool-managerd
eventually 30 replaced pool-managerd "$manager"
eventually 30 pool_is_ready
let_go
wait
same "engine and orchestratord" "$(engines) $(main_pid orchestratord)" "$both"
""",
        prove=manager,
        req=("OP-01", "PM-07"),
    ),
    Drill(
        name="target-stopped",
        done="`systemctl --user stop llama-orch.target` while a task runs and two others wait; then the target is "
        "started again.",
        client="The task that runs ends as usual, within `server.drain_ms`. Those that wait keep their places and run "
        "after the start.",
        journal=("SIGTERM: stopping", "2 tasks of the former run taken up: 2 wait again"),
        left="Nothing of ours runs between stop and start, and no file of an engine is left.",
        script=r"""
halt
ask short 300
hold short
for name in first second; do
  ask $name 5 '"on_disconnect": "continue"'
  waits $name
done
systemctl --user stop --no-block llama-orch.target
eventually 30 said '1 running tasks have 90000 ms to end'
let_go
stop_product
wait
same "files of engines" "$(files_of_engines)" ""
start
read_task first
read_task second
wait
receipt second
""",
        prove=stopped,
        req=("OP-01", "HP-08"),
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play, request: pytest.FixtureRequest) -> dict[str, Played]:
    return drills(chosen(DRILLS, request), prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_restarts(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

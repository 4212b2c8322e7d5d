"""Drills: what an operator does on purpose while work goes on: restarts and a stop. One host."""

import pytest

from tests.lab.drills.conftest import Play, each, judge
from tests.lab.drills.drill import Drill, Played

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

PREPARED = """
configure 'server: {drain_ms: 2500}'
prepare
start
"""


def front(played: Played) -> None:
    assert played.stream("short").end is not None
    assert played.resumed("strict").end is not None
    assert played.resumed("strict").text == played.stream("undisturbed").text
    assert played.files["refusals"].split() == []


def manager(played: Played) -> None:
    assert played.stream("stream").end is not None


def stopped(played: Played) -> None:
    assert played.stream("short").end is not None
    assert played.stream("waiting").end is not None


DRILLS = (
    Drill(
        name="orchestratord-restarted",
        done="`systemctl --user restart orchestratord` while a short task runs and a long `strict` one waits, and "
        "again when the long one runs. `server.drain_ms` is 2500 here. Clients connect all the while.",
        client="The short task ends as usual before the restart. The long one goes on behind its last token "
        "afterwards, byte for byte. Nobody is refused a connection: who connects between two runs waits a moment and "
        "is served by the second.",
        journal=(
            "SIGUSR2: stopping, to be started again",
            "1 running tasks have 2500 ms to end (server.drain_ms)",
            "1 tasks have not ended in time, and are cut off",
            "took over the socket of the last run: who has connected meanwhile is answered now",
        ),
        left="The engine and the pool manager are the same as before.",
        script=r"""
engine=$(engines) manager=$(main_pid pool-managerd) front=$(main_pid orchestratord)
ask short 60
flows short
kill -STOP $engine # so that it runs until the drain has begun, however fast the machine is
ask strict 400 '"determinism": "strict", "on_disconnect": "continue"'
strict=$!
task=$(queued)
while [ ! -e $here/.over ]; do
  curl --silent --output /dev/null --max-time 20 "$url/healthz" || echo "$?"
done > $here/refusals &
systemctl --user restart --no-block orchestratord
eventually 20 said '1 running tasks have 2500 ms to end'
kill -CONT $engine
wait $strict || true
read_task $task strict
flows strict 20
kill -STOP $engine
another() { [ "$(main_pid orchestratord)" != "$front" ] && answers; }
eventually 20 another
front=$(main_pid orchestratord)
systemctl --user restart --no-block orchestratord
eventually 20 said '1 tasks have not ended in time, and are cut off'
eventually 20 another
kill -CONT $engine
touch $here/.over
wait
rest strict
ask undisturbed 400 '"determinism": "strict"'
wait
[ "$(engines) $(main_pid pool-managerd)" = "$engine $manager" ]
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
engine=$(engines) front=$(main_pid orchestratord) manager=$(main_pid pool-managerd)
ask stream 500
flows stream
systemctl --user restart pool-managerd
eventually 20 pool_is_ready
wait
[ "$(engines) $(main_pid orchestratord)" = "$engine $front" ]
[ "$(main_pid pool-managerd)" != "$manager" ]
""",
        prove=manager,
        req=("OP-01", "PM-07"),
    ),
    Drill(
        name="target-stopped",
        done="`systemctl --user stop llama-orch.target` while a task runs and another waits; then the target is "
        "started again.",
        client="The task that runs ends as usual, within `server.drain_ms`. The one that waits keeps its place and "
        "runs after the start.",
        journal=("SIGTERM: stopping", "1 tasks of the former run taken up: 1 wait again"),
        left="Nothing of ours runs between stop and start, and no file of an engine is left.",
        script=r"""
ask short 60
flows short
kill -STOP $(engines)
ask cut 20 '"on_disconnect": "continue"'
task=$(queued)
systemctl --user stop --no-block llama-orch.target
eventually 20 said '1 running tasks have 2500 ms to end'
kill -CONT $(engines)
stop_product
wait
[ -z "$(find "$XDG_RUNTIME_DIR/llama-orch/engines" ~/.local/state/llama-orch/handles -type f)" ]
start
read_task $task waiting
wait
""",
        prove=stopped,
        req=("OP-01", "HP-08"),
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play) -> dict[str, Played]:
    return drills(DRILLS, prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_restarts(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

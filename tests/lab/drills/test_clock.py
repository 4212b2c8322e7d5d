"""Drills: somebody sets the clock while tasks run and wait. One host; a library moves the daemons' wall clock."""

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import Drill, Played, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
# clock SECONDS: what the daemons take for the time is so far from what it is.
clock() {
  "$PYTHON" -I -S -c 'import struct, sys; sys.stdout.buffer.write(struct.pack("=q", int(sys.argv[1])))' "$1" |
    dd of="$HOME/clock" conv=notrunc status=none
}
clock 0
environment=("LD_PRELOAD=$CLOCK" "WALLCLOCK=$HOME/clock")
configure
prepare
start
"""
DAY_MS = 86_400_000
LIMIT_MS = 240_000
"""No client waits longer, see ask."""


def undisturbed(played: Played) -> None:
    for name, waited_ms in (("stream", 0), ("waiting", 1)):
        end = well(played.stream(name)).end
        assert end is not None
        assert waited_ms <= end.queue_time_ms < LIMIT_MS, f"{name} is said to have waited {end.queue_time_ms} ms"
        assert 0 <= end.decode_time_ms < LIMIT_MS, f"{name} is said to have run for {end.decode_time_ms} ms"
    assert played.files["restarts"].split() == ["0", "0"]


def forward(played: Played) -> None:
    undisturbed(played)
    assert 0 < played.json("session")["ttl_ms_remaining"] <= 600_000
    created = {each["task_id"].rpartition(".")[2]: each["created_ms"] for each in played.receipts()}
    assert created["late"] - created["turn"] > DAY_MS / 2


def back(played: Played) -> None:
    undisturbed(played)
    assert played.json("forecast")["predicted_start_ms"] < 60_000
    well(played.stream("late"))


DRILLS = (
    Drill(
        name="clock-forward",
        done="The clock is set forward by a day while a stream runs, and a turn of its session waits with a deadline "
        "of two minutes.",
        client="Nothing: the stream ends, the turn that waited runs before its deadline, the session lives. How long "
        "they waited and ran is told rightly.",
        journal=("ended: length",),
        left="No watchdog fires and nothing is started anew. Receipts of before and after stand in one chain, with the "
        "times that the clock had.",
        script=r"""
ask turn 5 '"session_id": "talk"'
wait
halt
ask stream 300 '"session_id": "talk"'
hold stream
ask waiting 5 '"session_id": "talk", "deadline_ms": 120000'
waits waiting
clock 86400
let_go
api /v1/sessions/talk > $here/session
wait
ask late 5
wait
receipt late
for daemon in orchestratord pool-managerd; do property $daemon NRestarts; done > $here/restarts
""",
        prove=forward,
    ),
    Drill(
        name="clock-back",
        done="The clock is set back by two days while a stream runs and a task waits with a deadline. Then the GPUs' "
        "driver fails and the engine dies, so that the pool waits for its next try; then both are well again.",
        client="Nothing of the clock: the tasks run in time, and how long they took is told rightly. "
        "While the pool waits for its next try, a new task is told when it will start, in seconds and not in days.",
        journal=("failure 1 of 100, again in", "pool gpu0 is ready"),
        left="No watchdog fires and nothing is started anew but the engine that died.",
        script=r"""
clock 0
halt
ask stream 300
hold stream
ask waiting 5 '"deadline_ms": 120000'
waits waiting
clock -172800
let_go
wait
gpus 9
kill -KILL $(engines)
eventually 30 said 'failure 1 of 100, again in'
refusal 4 | head -n 1 > $here/forecast
gpus
eventually 60 pool_is_ready
ask late 5
wait
for daemon in orchestratord pool-managerd; do property $daemon NRestarts; done > $here/restarts
""",
        prove=back,
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play, request: pytest.FixtureRequest) -> dict[str, Played]:
    return drills(chosen(DRILLS, request), prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_clock(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

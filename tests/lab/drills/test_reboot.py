"""Drills: the machine goes down and comes back. One host; its user lingers, and the target is enabled."""

import pytest

from tests.lab.drills.conftest import Play, each, judge
from tests.lab.drills.drill import Drill, Played

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

PREPARED = """
configure 'server: {drain_ms: 2500}'
prepare
systemctl --user --quiet enable llama-orch.target
start
"""


def rebooted(played: Played) -> None:
    assert played.stream("short").end is not None
    assert played.stream("waiting").end is not None


def cut(played: Played) -> None:
    broken = played.resumed("stream")
    assert broken.error is not None
    assert (broken.error.code, broken.error.retriable) == ("WORKER_RESET", True)
    assert played.stream("waiting").end is not None


DRILLS = (
    Drill(
        name="reboot",
        done="The machine is shut down in order while a task runs and another waits, and boots. The user lingers, and "
        "does not log in.",
        client="The task that runs ends as usual, within `server.drain_ms`. The one that waits keeps its place, and "
        "runs after the boot.",
        journal=("SIGTERM: stopping", "1 tasks of the former run taken up: 1 wait again", "pool gpu0 is ready"),
        left="No process outlives the shutdown, and no file of an engine.",
        script=r"""
ask short 60
flows short
kill -STOP $(engines)
ask cut 20 '"on_disconnect": "continue"'
task=$(queued)
hand linger
(eventually 20 said '1 running tasks have 2500 ms to end' && kill -CONT $(cat "$XDG_RUNTIME_DIR/llama-orch/gpu0.pid")) &
hand shut-down
wait
[ -z "$(ps -u lab -o cgroup:200= | grep user@ || true)" ]
[ -z "$(ls ~/.local/state/llama-orch/handles)" ]
hand boot
eventually 30 pool_is_ready
read_task $task waiting
wait
""",
        prove=rebooted,
    ),
    Drill(
        name="power-cut",
        done="The machine loses its power while a task runs and another waits, and boots.",
        client="The running task, read on with `Last-Event-ID`, says `WORKER_RESET`, retriable. The one that waited "
        "keeps its place, and runs.",
        journal=(
            "ended: WORKER_RESET: orchestratord ended while this task ran",
            "2 tasks of the former run taken up: 1 wait again",
            "pool gpu0 is ready",
        ),
        left="The handle of the engine that is gone with the former boot is not taken for one of now.",
        script=r"""
ask stream 4000
flows stream
ask cut 20 '"on_disconnect": "continue"'
task=$(queued)
hand power-cut
wait
hand boot
eventually 30 pool_is_ready
rest stream
read_task $task waiting
wait
[ "$(engines | wc -l)" = 1 ]
""",
        prove=cut,
        req=("OP-01", "HP-17", "HP-21", "PM-07"),
    ),
    Drill(
        name="boot-without-linger",
        done="The machine boots, and the user does not linger. Later they log in.",
        client="The port is closed until the user logs in; then tasks are served.",
        journal=("pool gpu0 is ready",),
        left="Nothing of ours runs before the log-in. `loginctl enable-linger` is what a machine needs that serves "
        "without one.",
        script=r"""
hand shut-down
hand no-linger
hand boot
if systemctl --user is-active llama-orch.target 2> /dev/null || answers; then exit 1; fi
nothing_of_ours
hand log-in
eventually 30 pool_is_ready
ask stream 20
wait
""",
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play) -> dict[str, Played]:
    return drills(DRILLS, prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_reboot(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

"""Drills: the machine goes down and comes back. One host; its user lingers, and the target is enabled."""

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import Drill, Played, broken, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
configure
prepare
systemctl --user --quiet enable llama-orch.target
start
"""


def rebooted(played: Played) -> None:
    for name in ("short", "first", "second"):
        well(played.stream(name))
    assert played.ended() == ["short", "first", "second"]


def cut(played: Played) -> None:
    broken(played.resumed("stream"), "WORKER_RESET")
    for name in ("first", "second"):
        well(played.stream(name))
    assert played.ended() == ["stream", "first", "second"]


def logged_in(played: Played) -> None:
    well(played.stream("stream"))


DRILLS = (
    Drill(
        name="reboot",
        done="The machine is shut down in order while a task runs and two others wait, and boots. The user lingers, "
        "and does not log in.",
        client="The task that runs ends as usual, within `server.drain_ms`. Those that wait keep their places, and run "
        "after the boot.",
        journal=("SIGTERM: stopping", "2 tasks of the former run taken up: 2 wait again", "pool gpu0 is ready"),
        left="No process outlives the shutdown, and no file of an engine.",
        script=r"""
halt
ask short 300
hold short
for name in first second; do
  ask $name 5 '"on_disconnect": "continue"'
  waits $name
done
hand linger
(eventually 30 said '1 running tasks have 20000 ms to end' && let_go) &
hand shut-down
wait
same "processes" "$(ps -u lab -o state=,cgroup:200= | grep -v '^Z' | grep user@ || true)" "" # zombies are none
same "files of engines" "$(files_of_engines)" ""
hand boot
eventually 60 pool_is_ready
read_task first
read_task second
wait
receipt second
""",
        prove=rebooted,
    ),
    Drill(
        name="power-cut",
        done="The machine loses its power while a task runs and two others wait, and boots.",
        client="The running task, read on with `Last-Event-ID`, says `WORKER_RESET`, retriable. Those that waited keep "
        "their places, and run.",
        journal=(
            "ended: WORKER_RESET: orchestratord ended while this task ran",
            "3 tasks of the former run taken up: 2 wait again",
            "forgetting its former engine",
            "pool gpu0 is ready",
        ),
        left="The handle of the engine that is gone with the former boot is not taken for one of now: one engine runs.",
        script=r"""
hand linger
halt
ask stream 300
hold stream
for name in first second; do
  ask $name 5 '"on_disconnect": "continue"'
  waits $name
done
hand power-cut
wait
let_go
[ -n "$(files_of_engines)" ]
hand boot
eventually 60 pool_is_ready
rest stream
read_task first
read_task second
wait
receipt second
same "number of engines" "$(engines | wc -l)" 1
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
not systemctl --user is-active llama-orch.target
not answers
same "processes" "$(ours)" ""
hand log-in
eventually 60 pool_is_ready
ask stream 20
wait
""",
        prove=logged_in,
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play, request: pytest.FixtureRequest) -> dict[str, Played]:
    return drills(chosen(DRILLS, request), prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_reboot(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

"""Drills: the GPUs or their driver are not there, or go while they are used. One host, with NVML's stand-in."""

import re

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import Drill, Played, broken, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
configure
prepare
"""


PAUSE = re.compile(r"failure (\d+) of 100, again in (\d+) ms")


def nothing_started(played: Played) -> None:
    """While the driver was away."""
    said = played.said()
    meanwhile = said[said.index("the driver goes") : said.index("the driver comes")]
    assert not any("-> starting)" in line for line in meanwhile)


def without(played: Played) -> None:
    assert played.files["active"].split() == ["active", "active"]
    health = played.json("health")
    assert (health["ready"], health["last_error"]["cause"]) == (False, "driver")
    assert "lsmod | grep nvidia" in health["last_error"]["hint"]
    pauses = {int(number): int(pause) for number, pause in PAUSE.findall("\n".join(played.said("pool-managerd")))}
    assert pauses[1] < pauses[4] / 2
    nothing_started(played)
    well(played.stream("patient"))


def gone(played: Played) -> None:
    well(played.stream("stream"))
    health = played.json("health")
    assert (health["ready"], health["last_error"]["cause"]) == (False, "driver")
    nothing_started(played)
    well(played.stream("patient"))


def lost(played: Played) -> None:
    broken(played.stream("stream"), "WORKER_RESET")
    health = played.json("health")
    assert (health["state"], health["last_error"]["cause"]) == ("quarantined", "gpu_lost")
    assert played.files["refused"].endswith("503\n")
    assert "fallen off the bus" in played.files["refused"]


DRILLS = (
    Drill(
        name="boot-without-gpu",
        done="The target is started while the NVIDIA driver is not loaded. Later it is.",
        client="Both daemons run, `/healthz` answers, and the pool's health says what is wrong and what mends it. A "
        "task is taken and waits. It runs when the driver is there, with nobody's help. Nothing is ever computed on "
        "the CPU.",
        journal=(
            "the NVIDIA driver does not work: Driver Not Loaded",
            "hint: nvidia-smi shows more; is the kernel module loaded",
            "failure 4 of 100, again in",
            "pool gpu0 is ready",
        ),
        left="The pool tries again, at growing intervals; the daemons are not started anew.",
        script=r"""
stop_product
mark 'the driver goes'
gpus 9
systemctl --user start llama-orch.target
answers
systemctl --user is-active orchestratord pool-managerd > $here/active
failed() { health | tee $here/health | grep -q '"last_error":{'; }
eventually 30 failed
ask patient 5
waits patient
eventually 30 said 'failure 4 of 100, again in'
same engines "$(scoped)" ""
mark 'the driver comes'
gpus
wait
eventually 30 said 'GPUs: all answer again' # or who looks now and then may miss the next failure
same "automatic restarts" "$(property orchestratord NRestarts) $(property pool-managerd NRestarts)" '0 0'
""",
        prove=without,
        req=("ORCH-3803", "PM-03", "OP-01"),
    ),
    Drill(
        name="driver-gone",
        done="The driver answers no more while an engine computes, as after an update of the driver without a reboot. "
        "Then the engine dies. Later the driver is well again.",
        client="What runs goes on: the engine has its own connection to the GPU. When it has died a task waits, and "
        "runs when the driver is back.",
        journal=(
            "GPUs: the NVIDIA driver does not work: Driver Not Loaded",
            "GPUs: all answer again",
            "pool gpu0 is ready",
        ),
        left="No engine is started while the driver is away, and none on the CPU.",
        script=r"""
start
halt
ask stream 300
hold stream
mark 'the driver goes'
gpus 9
eventually 30 said 'GPUs: the NVIDIA driver does not work'
let_go
wait
kill -KILL $(engines)
failed() { health | tee $here/health | grep -q '"ready":false.*"last_error":{"cause":"driver"'; }
eventually 30 failed
ask patient 5
waits patient
same engines "$(scoped)" ""
mark 'the driver comes'
gpus
wait
eventually 30 said 'GPUs: all answer again' # or who looks now and then may miss the next failure
""",
        prove=gone,
        req=("ORCH-3803", "PM-03", "PM-06"),
    ),
    Drill(
        name="gpu-lost",
        done="The GPU falls off the bus while an engine computes on it. Later it is back.",
        client="`WORKER_RESET` at once, retriable, for what had sent tokens. A new task is refused (503), with what "
        "happened to the GPU, until it is back.",
        journal=("has fallen off the bus", "GPUs: all answer again", "pool gpu0 is ready"),
        left="The pool is quarantined with its GPU, its engine is ended, and it comes back with the GPU by itself.",
        script=r"""
start
halt
ask stream 300
hold stream
lost=15 gpus
quarantined() { health | tee $here/health | grep -q '"state":"quarantined"'; }
eventually 30 quarantined
wait
let_go
refusal 4 > $here/refused
no_engines() { [ -z "$(engines)" ]; }
eventually 30 no_engines
gpus
eventually 60 pool_is_ready
refusal 4 | grep -q '^202'
""",
        prove=lost,
        req=("PM-03", "PM-06"),
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play, request: pytest.FixtureRequest) -> dict[str, Played]:
    return drills(chosen(DRILLS, request), prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_gpus(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

"""The way of a host, from an installed wheel to its second boot, in one go, as its operator and a client see it.

The client is another machine: it comes over a cable, with the token, and has nothing of the host.
"""

from math import ceil

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import Drill, Played, readable, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
install_wheel
PREFIX=$place
watchdog=8
configure 'server: {bind: "0.0.0.0:8080", drain_ms: 60000}'
prepare
rm -r ~/.config/systemd/user/*.service ~/.config/systemd/user/*.target ~/.config/systemd/user/*.slice
url=http://10.77.0.1:8080
from="nsenter --user --net --preserve-credentials --target $(cat /run/lab/client)"
"""


def accepted(played: Played) -> None:
    assert played.files["codes"].split() == ["401", "401", "401", "401", "200", "200"]
    for name in ("first", "adopted", "again"):
        well(played.stream(name))
    well(played.resumed("strict"))
    for daemon in ("orchestratord", "pool-managerd"):
        assert f"{daemon}\trunning" in played.files["units"]
        assert any("again; nothing waits for a restart" in message for message in played.said(daemon))
        listening, started = moments(played, daemon)
        assert listening <= started, f"{daemon} was said to run before it listened"


def moments(played: Played, daemon: str) -> tuple[int, int]:
    """When a daemon first listened, as it says itself, and when systemd took it for started: in milliseconds."""
    journal = [(readable(entry.get("MESSAGE")), entry) for entry in played.journal]
    listening = next(
        int(entry["LLAMA_ORCH_TIME_MS"])
        for message, entry in journal
        if message.startswith("listening on ") and entry.get("_SYSTEMD_USER_UNIT") == f"{daemon}.service"
    )
    started = next(
        ceil(int(entry["_SOURCE_REALTIME_TIMESTAMP"]) / 1000)
        for message, entry in journal
        if message.startswith(f"Started {daemon}.service")
    )
    return listening, started


ACCEPTANCE = Drill(
    name="whole-way",
    done="The wheel in an ordinary user's home, `llama-orch units install --enable`, start of the target, tasks from "
    "another machine with the token, a reload that shortens `server.drain_ms`, a restart of each daemon while a stream "
    "runs, questions to the journal, a hang of `orchestratord`, stop, and reboot of a user who lingers. The watchdog "
    "has 8 s here, and 30 s in the units.",
    client="The start returns when requests are answered. Without the token, or with a wrong one, it is 401. A stream "
    "goes on through a restart of `pool-managerd`, and a strict one goes on behind its last token after a restart of "
    "`orchestratord`. After the boot tasks are served with nobody logged in.",
    journal=(
        "again; nothing waits for a restart",
        "SIGUSR2: stopping, to be started again",
        "taking over the engine that runs on port",
        "1 running tasks have 1000 ms to end (server.drain_ms)",
        "orchestratord.service: Watchdog timeout (limit 8s)!",
        "SIGTERM: stopping",
    ),
    left="Entries are found by task, by pool, by the client's correlation id, and as the engine's own, with "
    "`journalctl` and with `llama-orch logs`. Between the stop and the boot nothing of ours runs.",
    script=r"""
orch() { "$PREFIX/bin/llama-orch" "$@"; }
orch units install --enable > $here/install
for daemon in orchestratord pool-managerd; do
  grep -qx WatchdogSec=30 ~/.config/systemd/user/$daemon.service # 8 s is this host's own setting
done
systemctl --user start llama-orch.target
$from curl --silent --fail "$url/healthz" > /dev/null # at once
eventually 30 pool_is_ready

# The client's side of the token, while a task runs.
halt
ask first 300
hold first
code() { $from curl --silent --output /dev/null --write-out '%{http_code}\n' "$@" >> $here/codes; }
code "$url/v1/pools"
code "$url/v1/pools" -H 'Authorization: Bearer something-else'
code "$url/v1/tasks" --data '{}'
code "$url/v1/tasks" --data '{}' -H 'Authorization: Bearer something-else'
code "$url/v1/pools" -H "Authorization: Bearer $token"
code "$url/healthz"
orch units status > $here/units
let_go
wait

# Reload: nobody is replaced, and both say that they have read it. A restart below shows that it holds.
before="$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)"
configure 'server: {bind: "0.0.0.0:8080", drain_ms: 1000}'
systemctl --user reload orchestratord pool-managerd
eventually 30 said_times 2 'again; nothing waits for a restart'
same "daemons and engine" "$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)" "$before"

# A restart of each daemon while a stream runs.
engine=$(engines)
halt
ask adopted 300
hold adopted
systemctl --user restart pool-managerd
eventually 30 pool_is_ready
let_go
wait
halt
ask strict 300 '"determinism": "strict", "on_disconnect": "continue"'
hold strict
front=$(main_pid orchestratord)
systemctl --user restart --no-block orchestratord
eventually 60 replaced orchestratord $front
let_go
eventually 30 pool_is_ready
wait
rest strict
same engine "$(engines)" "$engine"

# Questions to the journal: of both daemons, and of the engine.
task="$(task_of first)" front=_SYSTEMD_USER_UNIT=orchestratord.service back=_SYSTEMD_USER_UNIT=pool-managerd.service
for field in "TASK_ID=$task" "CORRELATION_ID=of-$task" POOL=gpu0; do
  eventually 30 found "task $task ended: length" "LLAMA_ORCH_$field" $front
done
eventually 30 found "task $task admitted at position 0" "LLAMA_ORCH_TASK_ID=$task"
eventually 30 found '(probing -> ready)' LLAMA_ORCH_POOL=gpu0 $back
for field in "CORRELATION_ID=of-$task" POOL=gpu0; do
  eventually 30 found print_timing "LLAMA_ORCH_$field" LLAMA_ORCH_SOURCE=engine
done
logs() { orch logs --lines 1000 "${@:2}" | grep -F "$1" > /dev/null; }
for option in --task=$task --correlation-id=of-$task --pool=gpu0; do
  logs "task $task ended: length" $option
  logs print_timing $option
done
logs '(probing -> ready)' --pool=gpu0
logs print_timing --engine

# The watchdog.
again=$(($(property orchestratord NRestarts) + 1))
kill -STOP "$(main_pid orchestratord)"
eventually 60 restarts orchestratord $again
eventually 30 pool_is_ready
same engine "$(engines)" "$engine"

# Stop, and the second boot.
stop_product
hand linger
hand shut-down
hand boot
eventually 60 pool_is_ready
ask again 20
wait
""",
    prove=accepted,
    req=("OP-01", "OP-02", "ORCH-3810", "PM-07", "HP-25", "OP-06"),
)
DRILLS = (ACCEPTANCE,)


@pytest.fixture(scope="module")
def played(drills: Play, request: pytest.FixtureRequest) -> dict[str, Played]:
    return drills(chosen(DRILLS, request), prepared=PREPARED, lan=True, limit_s=600)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_the_whole_way(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

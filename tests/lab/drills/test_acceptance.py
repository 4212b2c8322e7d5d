"""The way of a host, from an installed wheel to its second boot, in one go, as its operator and a client see it.

The client is another machine: it comes over a cable, with the token, and has nothing of the host.
"""

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import Drill, Played, well

pytestmark = [pytest.mark.timeout(500), pytest.mark.slow]

PREPARED = """
install_wheel
PREFIX=$place
watchdog=4
configure 'server: {bind: "0.0.0.0:8080", drain_ms: 1000}'
prepare
rm -r ~/.config/systemd/user/*.service ~/.config/systemd/user/*.target ~/.config/systemd/user/*.slice
url=http://10.77.0.1:8080
from="nsenter --user --net --preserve-credentials --target $(cat /run/lab/client)"
"""


def accepted(played: Played) -> None:
    assert played.files["codes"].split() == ["401", "401", "200", "200"]
    for name in ("first", "adopted", "again"):
        well(played.stream(name))
    well(played.resumed("strict"))
    asked = [line for line in played.files["by-task"].splitlines() if line]
    assert any("admitted at position 0" in line for line in asked)
    assert any("ended: length" in line for line in asked)
    assert "print_timing" in played.files["by-engine"] or "launch_slot" in played.files["by-engine"]
    assert "ended: length" in played.files["logs"]


ACCEPTANCE = Drill(
    name="whole-way",
    done="The wheel in an ordinary user's home, `llama-orch units install --enable`, start of the target, tasks from "
    "another machine with the token, reload, a hang of `orchestratord`, a restart of each daemon while a stream runs, "
    "stop, reboot of a user who lingers, and questions to the journal.",
    client="The start returns when requests are answered. Without the token, or with a wrong one, it is 401. A stream "
    "goes on through a restart of `pool-managerd`, and a strict one goes on behind its last token after a restart of "
    "`orchestratord`. After the boot tasks are served with nobody logged in.",
    journal=(
        "again; nothing waits for a restart",
        "orchestratord.service: Watchdog timeout (limit 4s)!",
        "SIGUSR2: stopping, to be started again",
        "taking over the engine that runs on port",
        "SIGTERM: stopping",
    ),
    left="Entries are found by task, by pool, and as the engine's own, with `journalctl` and with `llama-orch logs`. "
    "Between the stop and the boot nothing of ours runs.",
    script=r"""
orch() { "$PREFIX/bin/llama-orch" "$@"; }
orch units install --enable > $here/install
systemctl --user start llama-orch.target
$from curl --silent --fail "$url/healthz" > /dev/null # at once
eventually 30 pool_is_ready
orch units status > $here/units

# The client's side of the token.
code() { $from curl --silent --output /dev/null --write-out '%{http_code}\n' "$@" >> $here/codes; }
code "$url/v1/pools"
code "$url/v1/pools" -H 'Authorization: Bearer something-else'
code "$url/v1/pools" -H "Authorization: Bearer $token"
code "$url/healthz"
ask first 20
wait

# Reload: nobody is replaced.
before="$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)"
systemctl --user reload orchestratord pool-managerd
same "daemons and engine" "$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)" "$before"

# The watchdog.
engine=$(engines)
kill -STOP "$(main_pid orchestratord)"
eventually 30 restarts orchestratord 1
eventually 30 pool_is_ready
same engine "$(engines)" "$engine"

# A restart of each daemon while a stream runs.
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

# Questions to the journal.
of_task() { journalctl --user --quiet --output=cat "LLAMA_ORCH_TASK_ID=$(task_of first)" | tee $here/by-task; }
told_of_its_end() { of_task | grep -q 'ended: length'; }
eventually 30 told_of_its_end
journalctl --user --quiet --output=cat LLAMA_ORCH_POOL=gpu0 LLAMA_ORCH_SOURCE=engine > $here/by-engine
orch logs --task "$(task_of first)" > $here/logs

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
    return drills(chosen(DRILLS, request), prepared=PREPARED, lan=True, limit_s=400)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_the_whole_way(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

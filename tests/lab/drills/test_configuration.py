"""Drills: an operator breaks the configuration, or starts a daemon that runs already. One host."""

import pytest

from tests.lab.drills.conftest import Play, chosen, each, judge
from tests.lab.drills.drill import Drill, Played, well

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

PREPARED = """
configure
prepare
start
"""


def reload_broken(played: Played) -> None:
    well(played.stream("stream"))
    well(played.stream("meanwhile"))
    assert played.files["reload"] == "orchestratord 1\npool-managerd 1\n"
    for daemon in ("orchestratord", "pool-managerd"):
        said = played.files[f"status.{daemon}"]
        assert "the configuration was not reloaded: " in said, said
        assert "devicse" in said, said


def twice(played: Played) -> None:
    assert played.files["second"].split() == ["orchestratord", "1", "pool-managerd", "1"]
    well(played.stream("stream"))


def restart_broken(played: Played) -> None:
    assert played.files["results"].splitlines() == ["orchestratord exit-code 78 0", "pool-managerd exit-code 78 0"]
    well(played.stream("stream"))


DRILLS = (
    Drill(
        name="reload-broken",
        done="A typo in the configuration, then `systemctl --user reload` of both daemons, while a stream runs. Later "
        "it is mended and read again.",
        client="Nothing: the stream goes on, tasks are served as before. For the operator each reload fails (exit "
        "status 1), and `systemctl --user status` says of both that the configuration was not taken over, until it is.",
        journal=(
            "the configuration stays as it was",
            "pools[0].devicse: unknown field 'devicse'",
            "hint: did you mean 'devices'?",
            "again; nothing waits for a restart",
        ),
        left="Both daemons and the engine are the same as before.",
        script=r"""
before="$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)"
halt
ask stream 300
hold stream
sed -i 's/devices:/devicse:/' "$config"
refused() { property $1 StatusText | tee $here/status.$1 | grep -q 'not reloaded'; }
accepted() { property $1 StatusText | grep -v 'not reloaded' | grep -q '^1/1 pools ready'; }
for daemon in orchestratord pool-managerd; do
  systemctl --user reload $daemon 2> /dev/null || echo "$daemon $?" >> $here/reload
  eventually 30 refused $daemon
done
ask meanwhile 20
let_go
wait
configure
for daemon in orchestratord pool-managerd; do
  systemctl --user reload $daemon
  eventually 30 accepted $daemon
done
same "daemons and engine" "$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)" "$before"
""",
        prove=reload_broken,
        req=("OP-01", "HP-26"),
    ),
    Drill(
        name="started-twice",
        done="A second `orchestratord` and a second `pool-managerd` are started with the same configuration.",
        client="Nothing: the first ones serve on.",
        journal=(
            "orchestratord: another orchestratord uses /home/lab/.local/share/llama-orch/tasks.sqlite3",
            "another pool-managerd already runs here: it holds /home/lab/.local/state/llama-orch/pool-managerd.lock",
        ),
        left="The second ones end with exit status 1. The first ones, the engine and their files are the same as "
        "before.",
        script=r"""
before="$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)"
eventually 30 test -e "$XDG_RUNTIME_DIR/llama-orch/engines/gpu0.json" # the last that is written
# By name, and which file it is: who makes one anew has not left it alone.
files() { find "$XDG_RUNTIME_DIR/llama-orch" ~/.local/state/llama-orch/handles -printf '%p %i\n' | sort; }
files > $here/files
for daemon in orchestratord pool-managerd; do
  systemd-run --user --quiet --wait --unit=second-$daemon --property="EnvironmentFile=${config%/*}/environment" \
    --property=RuntimeMaxSec=30 "$PREFIX/bin/$daemon" || echo $daemon "$?"
done > $here/second
ask stream 20
wait
files | diff $here/files -
same "daemons and engine" "$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)" "$before"
""",
        prove=twice,
        req=("OP-01", "PM-07"),
    ),
    Drill(
        name="restart-broken",
        done="A typo in the configuration, then `systemctl --user restart` of both daemons. Then it is mended, and the "
        "target started.",
        client="The port is closed until the configuration is mended. Then tasks are served at once.",
        journal=(
            "orchestratord: /home/lab/.config/llama-orch/config.yaml",
            "pool-managerd: /home/lab/.config/llama-orch/config.yaml",
            "pools[0].devicse: unknown field 'devicse'",
            "taking over the engine that runs on port",
        ),
        left="Both end with exit status 78, which is not tried again. The engine is left alone meanwhile, and taken "
        "over afterwards.",
        script=r"""
engine=$(engines)
sed -i 's/devices:/devicse:/' "$config"
systemctl --user restart orchestratord pool-managerd 2> /dev/null || true
for daemon in orchestratord pool-managerd; do
  eventually 30 systemctl --user --quiet is-failed $daemon
  echo $daemon $(property $daemon Result) $(property $daemon ExecMainStatus) $(property $daemon NRestarts)
done > $here/results
not answers
same engine "$(engines)" "$engine"
configure
start
ask stream 20
wait
same engine "$(engines)" "$engine"
""",
        prove=restart_broken,
        req=("OP-01", "HP-26"),
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play, request: pytest.FixtureRequest) -> dict[str, Played]:
    return drills(chosen(DRILLS, request), prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_configuration(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

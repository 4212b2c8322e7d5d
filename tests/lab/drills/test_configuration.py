"""Drills: an operator breaks the configuration, or starts a daemon that runs already. One host."""

import pytest

from tests.lab.drills.conftest import Play, each, judge
from tests.lab.drills.drill import Drill, Played

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

PREPARED = """
configure
prepare
start
"""


def reload_broken(played: Played) -> None:
    assert played.stream("stream").end is not None
    assert played.files["reload"] == "1\n"
    broken, mended = played.files["status.broken"], played.files["status.mended"]
    assert "devicse" in broken or "configuration" in broken, broken
    assert "devicse" not in mended


def twice(played: Played) -> None:
    assert played.files["second"].split() == ["orchestratord", "1", "pool-managerd", "1"]
    assert played.stream("stream").end is not None


def restart_broken(played: Played) -> None:
    assert played.files["results"].splitlines() == ["exit-code 78 0", "exit-code 78 0"]
    assert played.stream("stream").end is not None


DRILLS = (
    Drill(
        name="reload-broken",
        done="A typo in the configuration, then `systemctl --user reload` of both daemons, while a stream runs. Later "
        "it is mended and read again.",
        client="Nothing: the stream goes on, tasks are served as before. For the operator the reload fails (exit "
        "status 1), and `systemctl --user status` says that the configuration was not taken over.",
        journal=(
            "the configuration stays as it was",
            "pools[0].devicse: unknown field 'devicse'",
            "hint: did you mean 'devices'?",
            "again; nothing waits for a restart",
        ),
        left="Both daemons and the engine are the same as before.",
        script=r"""
before="$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)"
cp "$config" ~/whole
ask stream 400
flows stream
sed -i 's/devices:/devicse:/' "$config"
systemctl --user reload orchestratord pool-managerd 2> /dev/null || echo "$?" > $here/reload
refused() { property orchestratord StatusText | tee $here/status.broken | grep -q onfiguration; }
eventually 10 refused
cp ~/whole "$config"
systemctl --user reload orchestratord pool-managerd
accepted() { property orchestratord StatusText | tee $here/status.mended | grep -q '1/1 pools ready'; }
eventually 10 accepted
wait
[ "$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)" = "$before" ]
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
            "pool-managerd: another pool-managerd already runs here",
        ),
        left="The second ones end with exit status 1. The first ones, the engine and their files are the same as "
        "before.",
        script=r"""
before="$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)"
find "$XDG_RUNTIME_DIR/llama-orch" | sort > ~/files
for daemon in orchestratord pool-managerd; do
  systemd-run --user --quiet --wait --unit=second-$daemon --property="EnvironmentFile=${config%/*}/environment" \
    "$PREFIX/bin/$daemon" || echo $daemon "$?"
done > $here/second
ask stream 20
wait
find "$XDG_RUNTIME_DIR/llama-orch" | sort | cmp - ~/files
[ "$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)" = "$before" ]
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
  eventually 10 systemctl --user --quiet is-failed $daemon
  echo $(property $daemon Result) $(property $daemon ExecMainStatus) $(property $daemon NRestarts) >> $here/results
done
if answers; then exit 1; fi
cp ~/whole "$config"
start
ask stream 20
wait
[ "$(engines)" = "$engine" ]
""",
        prove=restart_broken,
        req=("OP-01", "HP-26"),
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play) -> dict[str, Played]:
    return drills(DRILLS, prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_configuration(drill: Drill, played: dict[str, Played]) -> None:
    judge(drill, played)

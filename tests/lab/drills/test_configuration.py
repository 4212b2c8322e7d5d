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


DRILLS = (
    Drill(
        name="reload-broken",
        done="x",
        client="x",
        journal=(),
        left="x",
        script=r"""
before=$(main_pid orchestratord) manager=$(main_pid pool-managerd) engine=$(engines)
cp "$config" $here/whole
ask stream 400
flows stream
sed -i 's/devices:/devicse:/' "$config"
systemctl --user reload orchestratord pool-managerd > $here/reload 2>&1 && echo 0 >> $here/reload || echo "$?" >> $here/reload
for d in orchestratord pool-managerd; do property $d StatusText; property $d ActiveState; done > $here/status
sleep 1
for d in orchestratord pool-managerd; do property $d StatusText; done >> $here/status
wait
cp $here/whole "$config"
systemctl --user reload orchestratord pool-managerd
for d in orchestratord pool-managerd; do property $d StatusText; property $d ActiveState; done > $here/status2
[ "$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)" = "$before $manager $engine" ]
""",
    ),
    Drill(
        name="twice",
        done="x",
        client="x",
        journal=(),
        left="x",
        script=r"""
before=$(main_pid orchestratord) manager=$(main_pid pool-managerd) engine=$(engines)
for daemon in orchestratord pool-managerd; do
  systemd-run --user --quiet --wait --unit=second-$daemon --setenv=LD_LIBRARY_PATH=$NVML --setenv=NVML_STANDIN=$HOME/gpus "$PREFIX/bin/$daemon" && echo 0 || echo $daemon "$?"
done > $here/second 2>&1
ask stream 20
wait
[ "$(main_pid orchestratord) $(main_pid pool-managerd) $(engines)" = "$before $manager $engine" ]
ls $XDG_RUNTIME_DIR/llama-orch > $here/run
""",
    ),
    Drill(
        name="restart-broken",
        done="x",
        client="x",
        journal=(),
        left="x",
        script=r"""
cp "$config" $here/whole
sed -i 's/devices:/devicse:/' "$config"
systemctl --user restart orchestratord pool-managerd > $here/restart 2>&1 && echo 0 >> $here/restart || echo "$?" >> $here/restart
for d in orchestratord pool-managerd; do echo $(property $d Result) $(property $d ExecMainStatus) $(property $d NRestarts); done > $here/status
sleep 1
ours > $here/ours
cp $here/whole "$config"
systemctl --user start llama-orch.target
eventually 10 pool_is_ready
engines > $here/engines
""",
    ),
)


@pytest.fixture(scope="module")
def played(drills: Play) -> dict[str, Played]:
    return drills(DRILLS, prepared=PREPARED)


@pytest.mark.parametrize("drill", each(DRILLS))
def test_configuration(drill: Drill, played: dict[str, Played]) -> None:
    print(played[drill.name])
    judge(drill, played)

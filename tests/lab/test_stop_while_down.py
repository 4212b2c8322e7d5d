"""A stop of pool-managerd ends its engines also where no process of it could see the stop; a restart ends none."""

import pytest

from tests.lab.host import Lab
from tests.lab.test_warm_pool_manager import WARM

pytestmark = [pytest.mark.req("OP-01", "PM-07"), pytest.mark.timeout(900), pytest.mark.slow]


def test_a_stop_finds_the_engines_of_a_manager_that_is_down_and_a_restart_leaves_them(lab: Lab) -> None:
    lab.check(
        WARM
        + r"""
drop_in late RestartSec=1000
start_product
gone() { ! kill -0 "$one" && [ -z "$(engines)" ]; }
sub() { [ "$(property pool-managerd SubState)" = "$1" ]; }
# killed STATE: the manager is killed, its unit is in that state, and its engine serves on.
killed() {
  one=$(engine)
  grep -q "/$slice/" "/proc/$one/cgroup"
  kill -KILL "$(main_pid pool-managerd)"
  eventually 30 sub "$1"
  submit 4 | grep '^event: end' > /dev/null
}
serves_on() {
  eventually 60 pool_is_ready
  [ "$(engine)" = "$one" ]
}

# While it waits to be started again.
killed auto-restart
systemctl --user restart pool-managerd
serves_on
killed auto-restart
systemctl --user restart llama-orch.target
serves_on
killed auto-restart
systemctl --user stop pool-managerd
eventually 30 gone
sub dead

# Of the target.
systemctl --user start llama-orch.target
eventually 60 pool_is_ready
killed auto-restart
systemctl --user stop llama-orch.target
eventually 30 gone
eventually 60 nothing_of_ours

# Where nobody starts it again.
drop_in late Restart=no
systemctl --user start llama-orch.target
eventually 60 pool_is_ready
killed failed
systemctl --user start pool-managerd
serves_on
killed failed
systemctl --user stop pool-managerd
eventually 30 gone
""",
        limit_s=600,
    )

"""The product as its operator runs it: `systemctl --user start llama-orch.target` on a host with nothing else.

Real daemons, the trial profile's real engine, a real service manager. The daemons' own behaviour is the affair of other
suites; here it is theirs together with systemd.
"""

import pytest

from tests.lab.host import Lab

pytestmark = [pytest.mark.req("OP-01"), pytest.mark.timeout(240), pytest.mark.slow]

PRODUCT = '. "$CHECKOUT/tests/lab/product.sh"'


def test_the_target_starts_both_daemons_serves_a_task_and_stops_them_again(lab: Lab) -> None:
    outcome = lab.check(
        PRODUCT
        + r"""
start_product
systemctl --user is-active orchestratord pool-managerd llama-orch.target
submit 16 | tee ~/stream
grep -q '^event: token' ~/stream
tail -n 4 ~/stream | grep -q '^event: end'

before=$(main_pid orchestratord)
systemctl --user reload orchestratord pool-managerd
submit 4 > /dev/null
[ "$(main_pid orchestratord)" = "$before" ]

ours > ~/running
systemctl --user stop llama-orch.target
eventually 60 nothing_of_ours
for daemon in orchestratord pool-managerd; do
  [ "$(property $daemon Result)" = success ]
  journalctl --user --quiet --unit $daemon --output=cat > ~/$daemon.log
  [ -s ~/$daemon.log ]
done
cat ~/running
""",
        limit_s=180,
    )
    assert "pool-managerd.service" in outcome.stdout
    assert "orchestratord.service" in outcome.stdout


def test_a_stop_lets_a_running_task_end(lab: Lab) -> None:
    outcome = lab.check(
        PRODUCT
        + r"""
start_product
submit 200 > ~/stream &
stream=$!
eventually 20 grep -q '^event: token' ~/stream
systemctl --user stop llama-orch.target
wait $stream
grep -A 1 '^event: end' ~/stream
""",
        limit_s=180,
    )
    assert '"finish_reason":"canceled"' not in outcome.stdout


def test_after_a_crash_of_the_pool_manager_its_engine_serves_on_and_the_next_one_takes_it_over(lab: Lab) -> None:
    lab.check(
        PRODUCT
        + r"""
start_product
front=$(main_pid orchestratord)
before=$(engines)
kill -KILL "$(main_pid pool-managerd)"
restarted() { [ "$(property pool-managerd NRestarts)" = 1 ] && systemctl --user is-active pool-managerd; }
eventually 30 restarted
submit 4 | grep -q '^event: end'
eventually 60 pool_is_ready
submit 4 | grep -q '^event: end'
[ "$(engines)" = "$before" ]
[ "$(main_pid orchestratord)" = "$front" ]
""",
        limit_s=180,
    )


@pytest.mark.parametrize("daemon", ["orchestratord", "pool-managerd"])
def test_a_daemon_that_hangs_is_replaced(lab: Lab, daemon: str) -> None:
    lab.check(
        f"{PRODUCT}; daemon={daemon}"
        r"""
mkdir -p ~/.config/systemd/user/$daemon.service.d
# The unit's 30 s are too long for a test, and a stopped process cannot write the dump that SIGABRT asks for.
printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n' > ~/.config/systemd/user/$daemon.service.d/hurry.conf
start_product
kill -STOP "$(main_pid $daemon)"
replaced() { [ "$(property $daemon NRestarts)" = 1 ] && systemctl --user is-active $daemon; }
eventually 60 replaced
eventually 60 pool_is_ready
submit 4 | grep -q '^event: end'
""",
        limit_s=180,
    )


def test_a_broken_configuration_is_said_once_and_not_tried_again(lab: Lab) -> None:
    outcome = lab.check(
        PRODUCT
        + r"""
mkdir -p "${config%/*}"
echo 'profile: holiday' > "$config"
install_units "$PREFIX/bin"
systemctl --user start llama-orch.target
for daemon in orchestratord pool-managerd; do
  eventually 20 systemctl --user is-failed $daemon
  echo $daemon $(property $daemon Result) $(property $daemon ExecMainStatus) $(property $daemon NRestarts)
done
""",
    )
    assert outcome.stdout.splitlines() == ["orchestratord exit-code 78 0", "pool-managerd exit-code 78 0"]
    assert "holiday" in outcome.journal

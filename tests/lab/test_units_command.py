"""`llama-orch units` against a real service manager: what it writes, what it leaves alone, and what is left of it."""

import json

import pytest

from tests.lab.host import CHECKOUT, Lab

pytestmark = [pytest.mark.req("OP-01"), pytest.mark.timeout(900), pytest.mark.slow]

UNITS = sorted(path.name for path in (CHECKOUT / "systemd").iterdir() if path.suffix != ".md")

HANDLING = r"""
units() { "$PREFIX/bin/llama-orch" units "$@"; }
folder=~/.config/systemd/user
refused() { if units install > ~/out 2> ~/err; then echo "this was not refused: $1" >&2; exit 1; fi; cat ~/err; }

! units status
echo "--- first"
units install
(cd $folder; systemd-analyze --user verify -- *) 2>&1
grep -L "^# Written by llama-orch" $folder/*
echo "--- again"
units install

echo "--- drop-in"
mkdir $folder/orchestratord.service.d
printf '[Service]\nNice=5\n' > $folder/orchestratord.service.d/mine.conf
units install > ~/out; grep "your own changes" ~/out
[ "$(systemctl --user show -P Nice orchestratord)" = 5 ]

echo "--- edited"
sed -i s/WatchdogSec=30/WatchdogSec=31/ $folder/orchestratord.service
refused edited
grep -q WatchdogSec=31 $folder/orchestratord.service
units install --force > ~/out; grep "kept the old" ~/out
grep -q WatchdogSec=31 $folder/orchestratord.service.old
grep -q WatchdogSec=30 $folder/orchestratord.service
sed -i s/WatchdogSec=30/WatchdogSec=32/ $folder/orchestratord.service
units install --force > /dev/null
grep -q WatchdogSec=31 $folder/orchestratord.service.old
grep -q WatchdogSec=32 $folder/orchestratord.service.old.2
rm $folder/orchestratord.service.old.2

echo "--- foreign"
echo "[Service]" > $folder/pool-managerd.service
refused foreign
units install --force > /dev/null
ln -sf /dev/null $folder/orchestratord.service  # what systemctl mask does
refused masked
rm $folder/orchestratord.service

echo "--- upgrade"
"$PYTHON" - << CODE
import hashlib, pathlib
body = "[Unit]\nDescription=of an older version\n"
mark = f"# Written by llama-orch 0.0.1 (sha256 {hashlib.sha256(body.encode()).hexdigest()})\n"
for name in ("orchestratord.service", "llama-orch-formerly.service"):
    pathlib.Path("$folder", name).write_text(mark + body)
CODE
units install

# What is somebody else's does not matter, not even where it cannot be read.
mkdir $folder/folder.service; touch $folder/locked.service; chmod 000 $folder/locked.service
units install > /dev/null
rm -fr $folder/folder.service $folder/locked.service

echo "--- elsewhere"
for command in install remove; do
  ! XDG_CONFIG_HOME=~/elsewhere units $command 2>&1
done
[ ! -e ~/elsewhere ]
[ "$(systemctl --user show -P FragmentPath llama-orch.target)" = $folder/llama-orch.target ]

echo "--- remove"
units remove
find $folder -type f
units remove
"""

RUNNING = r"""
. "$CHECKOUT/tests/lab/product.sh"
units() { "$PREFIX/bin/llama-orch" units "$@"; }
status=0; units install --now > ~/out 2> ~/err || status=$?
[ $status = 78 ]; grep "llama-orch init" ~/err

"$PREFIX/bin/llama-orch" init --trial > /dev/null
token=$("$PREFIX/bin/llama-orch" token --show)
units install --enable --now >&2
curl --silent --fail "$url/healthz" >&2
eventually 60 pool_is_ready
units status --json > ~/status.json
units status >&2
before=$(main_pid orchestratord)
units install --now >&2
[ "$(main_pid orchestratord)" = "$before" ]
sed -i s/Written.by.llama-orch.[^\ ]*/'Written by llama-orch 0.0.1'/ ~/.config/systemd/user/orchestratord.service
units install --now >&2
[ "$(main_pid orchestratord)" != "$before" ]

# An upgrade does not take down what runs where the new version refuses the configuration.
before=$(main_pid orchestratord)
cp "$config" ~/good; sed -i s/slots:/slotz:/ "$config"
sed -i s/Written.by.llama-orch.[^\ ]*/'Written by llama-orch 0.0.1'/ ~/.config/systemd/user/orchestratord.service
status=0; units install --now 2> ~/told > /dev/null || status=$?
[ $status = 78 ]; grep -q "nothing was restarted.*unknown field 'slotz'" ~/told
[ "$(main_pid orchestratord)" = "$before" ]
cp ~/good "$config"

chmod 644 ~/.config/llama-orch/api-token
! systemctl --user restart orchestratord 2> /dev/null
# What the daemon said is in the journal a moment after its end.
says_why() {
  ! units status > ~/broken && grep 'api-token can be used by others' ~/broken && grep 'chmod 600' ~/broken
}
eventually 30 says_why
! units install --now 2> ~/told > /dev/null
grep -q 'api-token can be used by others' ~/told
grep -q 'chmod 600' ~/told
units remove >&2
eventually 30 nothing_of_ours
[ -z "$(systemctl --user list-unit-files --no-legend | grep -E 'llama-orch|orchestratord|pool-managerd')" ]
# The manager lets go of a unit when it has seen that its last process is gone.
known() { systemctl --user list-units --all --no-legend | grep -E 'llama-orch|orchestratord|pool-managerd'; }
forgotten() { [ -z "$(known)" ]; }
eventually 30 forgotten
cat ~/status.json
"""


def test_what_lies_there_is_replaced_only_where_it_is_ours(lab: Lab) -> None:
    outcome = lab.check(HANDLING, limit_s=600)
    parts = dict(part.split("\n", 1) for part in outcome.stdout.split("--- ")[1:])
    for name in UNITS:
        assert f"wrote /home/lab/.config/systemd/user/{name}\n" in parts["first"]
    assert "loginctl enable-linger lab" in parts["first"]
    assert "next: llama-orch init" in parts["first"]
    assert len(parts["first"].splitlines()) == len(UNITS) + 3  # the rest was silent
    assert "already" in parts["again"]
    assert "orchestratord.service.d/mine.conf" in parts["drop-in"]
    assert "is ours, and somebody has changed it" in parts["edited"]
    assert "pool-managerd.service is not one of ours" in parts["foreign"]
    assert "systemctl --user unmask orchestratord.service" in parts["foreign"]
    assert "updated /home/lab/.config/systemd/user/orchestratord.service (it was of 0.0.1)" in parts["upgrade"]
    assert "removed /home/lab/.config/systemd/user/llama-orch-formerly.service" in parts["upgrade"]
    assert parts["elsewhere"].count("does not read /home/lab/elsewhere/systemd/user") == 2
    left = [line for line in parts["remove"].splitlines() if line.startswith("/")]
    folder = "/home/lab/.config/systemd/user"
    assert sorted(left) == [
        f"{folder}/orchestratord.service.d/mine.conf",
        f"{folder}/orchestratord.service.old",
        f"{folder}/pool-managerd.service.old",
    ]
    assert parts["remove"].splitlines()[-1] == f"there are no units of ours in {folder}"


def test_install_starts_the_daemons_status_shows_them_and_remove_leaves_nothing_running(lab: Lab) -> None:
    outcome = lab.check(RUNNING, limit_s=600)
    report = json.loads(outcome.stdout.partition("\n")[2])
    daemons = {unit["name"]: unit for unit in report["units"] if unit["name"].endswith("d.service")}
    assert set(daemons) == {"orchestratord.service", "pool-managerd.service"}
    for unit in daemons.values():
        assert (unit["active"], unit["file"], unit["restarts"], unit["watchdog_ms"]) == ("active", "current", 0, 30_000)
        assert unit["fed_ms"] < 30_000
        assert unit["pid"] > 1
    assert (report["at_login"], report["at_boot"]) == (True, False)
    assert "orchestratord" in outcome.stderr

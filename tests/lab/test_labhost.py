"""The throw-away host itself: what a script meets there, and that nothing of it stays."""

import asyncio
import pwd
import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab.host import EVIDENCE, HERE, LABHOST, Lab
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(900)

HIERARCHIES = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]


def test_the_list_of_packages_is_what_is_looked_for() -> None:
    lines = (HERE / "PACKAGES").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == set(EVIDENCE)


def test_a_script_runs_as_an_ordinary_user_with_a_service_manager_and_a_journal(lab: Lab) -> None:
    outcome = lab.run("""
# A unit that ends before the journal has looked at it belongs to nobody there: this one waits for its own entry.
systemd-run --user --wait --quiet --unit=hello sh -c '
  echo from the unit
  until journalctl --user --unit=hello --output=cat | grep "from the unit" > /dev/null; do :; done'
systemctl --user is-system-running
journalctl --user --unit=hello --output=cat
echo problem >&2
id --user --name
exit 3
""")
    assert outcome.rc == 3
    assert outcome.stdout.splitlines()[0] == "running"
    assert "from the unit" in outcome.stdout
    assert outcome.stdout.splitlines()[-1] == "lab"
    assert outcome.stderr == "problem\n"
    assert "from the unit" in outcome.journal


def test_a_script_cannot_change_the_machine(lab: Lab) -> None:
    outcome = lab.check(r"""
for path in "$CHECKOUT/x" "$PREFIX/x" /usr/x /etc/x /var/x; do
  if touch "$path" 2> /dev/null; then echo "$path"; fi
done
touch /tmp/labhost-was-here
tail -n +3 /proc/net/dev | cut -d: -f1
""")
    assert outcome.stdout.split() == ["lo"]
    assert not Path("/tmp/labhost-was-here").exists()
    assert all(account.pw_name != "lab" or account.pw_uid != 59999 for account in pwd.getpwall())


def test_a_script_that_takes_too_long_is_ended_and_its_journal_kept(lab: Lab) -> None:
    outcome = lab.run("logger --journald <<< MESSAGE=before; exec sleep 100", limit_s=10)
    assert outcome.rc == 124
    assert "before" in outcome.journal


def test_fake_gpus_are_device_nodes_with_a_cdi_specification(lab: Lab) -> None:
    outcome = lab.check("ls /dev/nvidia*; cat /run/cdi/nvidia.yaml", gpus=2)
    assert outcome.stdout.splitlines()[:2] == ["/dev/nvidia0", "/dev/nvidia1"]
    assert 'name: "1"' in outcome.stdout


def test_a_hook_runs_as_root_before_the_script(lab: Lab, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("id -un > /run/hook; sleep 1000 &\n")
    assert lab.check("cat /run/hook; pgrep --full 'sleep 1000' > /dev/null", hook=hook).stdout == "root\n"


def test_a_second_machine_is_at_the_other_end_of_a_cable_that_can_be_pulled(lab: Lab) -> None:
    outcome = lab.check(
        r"""
url=http://10.77.0.1:8000
tail -n +3 /proc/net/dev | cut -d: -f1 | xargs
client sh -c 'tail -n +3 /proc/net/dev | cut -d: -f1 | xargs'
"$PYTHON" -m http.server --bind 10.77.0.1 --directory /usr 8000 2> /dev/null &
ask() { client curl --silent --max-time "${1:-30}" --output /dev/null --write-out "%{remote_ip} %{local_ip}\n" "$url"; }
eventually 30 ask
ask
hand cable-out
if ask 1; then exit 1; fi
hand cable-in
eventually 30 ask
""",
        lan=True,
    )
    assert outcome.stdout.splitlines()[:3] == ["lo lan0", "lo lan1", "10.77.0.1 10.77.0.2"]


def test_root_lends_a_hand_for_what_is_on_its_list_and_for_nothing_else(lab: Lab) -> None:
    outcome = lab.run("""
hand small-disk 8
df --output=size ~/.local | tail -n 1
hand read-only
if touch ~/.local/x; then exit 1; fi
hand writable
touch ~/.local/x
hand reboot
""")
    assert (outcome.rc, outcome.stdout.split()) == (64, ["8192"])
    assert "Read-only file system" in outcome.stderr
    assert outcome.stderr.endswith("hand reboot: no such action: reboot\n")


def test_the_host_goes_down_and_boots_with_what_is_on_its_disk(lab: Lab) -> None:
    lab.check("""
touch ~/kept /tmp/gone "$XDG_RUNTIME_DIR/gone"
mkdir -p ~/.config/systemd/user
printf '%s\n' '[Service]' Type=oneshot RemainAfterExit=yes ExecStart=true ExecStop='touch %h/stopped' \
  [Install] WantedBy=default.target > ~/.config/systemd/user/mine.service
systemctl --user enable --now mine.service
hand shut-down
[ -e ~/stopped ] # in order
if systemctl --user is-active mine.service; then exit 1; fi
hand boot
if systemctl --user is-active mine.service; then exit 1; fi # nobody lingers
hand linger
hand boot
systemctl --user is-active mine.service
[ -e ~/kept ] && [ ! -e /tmp/gone ] && [ ! -e "$XDG_RUNTIME_DIR/gone" ]
rm ~/stopped
hand power-cut
hand boot
systemctl --user is-active mine.service
[ ! -e ~/stopped ] # nobody was asked
""")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_host_ends_with_the_process_that_made_it(lab: Lab, end: signal.Signals) -> None:
    command = [str(LABHOST), "--", "sh", "-c", "systemctl --user is-system-running; exec sleep 1000"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "running\n"
        host.send_signal(end)
        # The pipe ends when the last process of the host that holds it is gone.
        assert host.communicate(timeout=60)[0] == ""
    # After SIGKILL an empty cgroup stays, until the next host starts.
    cgroups = [path for root in HIERARCHIES for path in root.glob(f"labhost.{host.pid}")]
    asyncio.run(until(lambda: not any(populated(path) for path in cgroups), "the end of its last process"))
    lab.check("true")
    assert not [path for path in cgroups if path.exists()]


def populated(cgroup: Path) -> bool:
    """Whether a process is in it, or on its way out."""
    try:
        return "populated 1" in (cgroup / "cgroup.events").read_text()
    except OSError:  # it is gone
        return False

"""The unit files: systemd understands every line of them, and each line of the sandbox bites.

A user's service manager ignores many sandbox settings without a word, so nothing here is believed: a program tries the
forbidden thing inside the unit, and inside a unit with that one line alone.
"""

import json

import pytest

from tests.lab.host import CHECKOUT, Lab

pytestmark = pytest.mark.timeout(900)

VERIFY = """
bindir="$HOME/50% of & a | path"
mkdir -p "$bindir"
cp /bin/true "$bindir/orchestratord"
cp /bin/true "$bindir/pool-managerd"
cp /bin/true "$bindir/llama-orch"
install_units "$bindir"
cd ~/.config/systemd/user
"""

# The lines of orchestratord's sandbox, and what each of them changes in the probe's answers when it stands alone. One
# line only changes how another refuses, so it is tried together with that.
SANDBOX = {
    "NoNewPrivileges=yes": {"no_new_privs": "1", "rootless": "failed"},
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6": {"netlink": "EAFNOSUPPORT"},
    "SystemCallFilter=@system-service": {"ptrace": "SIGSYS"},
    "SystemCallFilter=@system-service\nSystemCallErrorNumber=EPERM": {"ptrace": "EPERM"},
    "SystemCallFilter=~@privileged @resources\nSystemCallErrorNumber=EPERM": {"chown": "EPERM", "priority": "EPERM"},
    "SystemCallArchitectures=native": {"x32_call": "SIGSYS"},
    "MemoryDenyWriteExecute=yes": {"writable_code": "EPERM"},
    "RestrictNamespaces=yes": {"user_namespace": "EPERM"},
    "RestrictSUIDSGID=yes": {"setuid_file": "EPERM"},
    "LockPersonality=yes": {"personality": "EPERM"},
    "UMask=0077": {"file_mode": "0o600"},
    "LimitCORE=0": {"core_limit": "0"},
}
# What the unit's sandbox leaves to the daemon.
ALLOWED = ("tcp", "tcp6", "unix_socket", "resolve", "child", "sqlite")
FORBIDDEN = (
    *("netlink", "ptrace", "personality", "writable_code", "user_namespace", "setuid_file", "chown", "priority"),
    "rootless",
)
UNRESTRICTED = {
    **dict.fromkeys((*ALLOWED, *FORBIDDEN), "allowed"),
    "no_new_privs": "0",
    "file_mode": "0o644",
}

PROBE = """
install_units /bin
units=~/.config/systemd/user
rm $units/llama-orch-doctor.service # it has no sandbox
probe='ExecStart="'$PYTHON'" "'$CHECKOUT'/tests/lab/probe.py"'

# The real units with another program: a daemon's sandbox, the probe's answers.
for daemon in orchestratord pool-managerd; do
  mkdir $units/$daemon.service.d
  printf '%s\\n' '[Service]' Type=oneshot WatchdogSec=0 Restart=no ExecStart= "$probe" \\
    "StandardOutput=file:$HOME/$daemon.json" > $units/$daemon.service.d/probe.conf
done

# A unit for each line alone.
number=0
while IFS= read -r lines; do
  number=$((number + 1))
  printf '%b\\n' '[Service]' Type=oneshot "$lines" > $units/line-$number.service
  printf '%s\\n' "$probe" "StandardOutput=file:$HOME/line-$number.json" >> $units/line-$number.service
done <<< "$LINES_ALONE"

systemctl --user daemon-reload
systemctl --user start $(cd $units; ls *.service)
"$PYTHON" "$CHECKOUT/tests/lab/probe.py" > ~/none.json
cd
for answers in *.json; do printf '%s\\t' "${answers%.json}"; cat "$answers"; echo; done
"""


def sandbox_lines(daemon: str) -> list[str]:
    """The settings that stand below the heading "Sandbox" of a unit."""
    sandbox = (CHECKOUT / f"systemd/{daemon}.service").read_text().split("\n# --- Sandbox", 1)[1]
    return [line for line in sandbox.splitlines()[1:] if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def answers(lab: Lab) -> dict[str, dict[str, str]]:
    """The probe's answers by the name of its unit."""
    lines = "\n".join(line.replace("\n", "\\n") for line in SANDBOX)
    output = lab.check(f"LINES_ALONE='{lines}'\n{PROBE}").stdout
    return {name: json.loads(text) for name, _, text in (line.partition("\t") for line in output.splitlines())}


@pytest.mark.req("OP-01")
def test_systemd_understands_every_line_of_the_units(lab: Lab) -> None:
    # The exit status says little: an unknown key is a warning.
    outcome = lab.check(VERIFY + "systemd-analyze --user verify *.service *.slice *.target")
    assert (outcome.stdout, outcome.stderr) == ("", "")


def test_the_check_of_the_units_notices_an_unknown_key(lab: Lab) -> None:
    outcome = lab.run(VERIFY + "echo NoSuchKey=1 >> orchestratord.service; systemd-analyze --user verify *.service")
    assert "NoSuchKey" in outcome.stderr


@pytest.mark.req("OP-01")
@pytest.mark.parametrize("lines", SANDBOX)
def test_a_sandbox_line_bites_alone(answers: dict[str, dict[str, str]], lines: str) -> None:
    without, with_it = answers["none"], answers[f"line-{list(SANDBOX).index(lines) + 1}"]
    for name, verdict in SANDBOX[lines].items():
        assert (name, with_it[name]) == (name, verdict)
        assert without[name] != verdict


def test_without_a_unit_nothing_is_forbidden(answers: dict[str, dict[str, str]]) -> None:
    assert UNRESTRICTED.items() <= answers["none"].items()


@pytest.mark.req("OP-01")
def test_orchestratords_sandbox_refuses_all_of_it_and_leaves_what_a_daemon_needs(
    answers: dict[str, dict[str, str]],
) -> None:
    refused = {name: verdict for changes in SANDBOX.values() for name, verdict in changes.items()}
    expected = refused | dict.fromkeys(ALLOWED, "allowed") | {"runtime_directory": "0o700", "open_files": "16384"}
    expected["oom_score_adj"] = answers["line-1"]["oom_score_adj"]  # as of any other service
    assert expected == answers["orchestratord"]


@pytest.mark.req("OP-01")
def test_pool_managerds_sandbox_leaves_rootless_containers_possible(answers: dict[str, dict[str, str]]) -> None:
    private = {"file_mode": "0o600", "core_limit": "0", "runtime_directory": "0o700", "oom_score_adj": "200"}
    assert (UNRESTRICTED | private).items() <= answers["pool-managerd"].items()


def test_every_line_of_the_sandboxes_is_tried() -> None:
    tried = {line for lines in SANDBOX for line in lines.split("\n")}
    assert set(sandbox_lines("orchestratord")) == tried
    assert set(sandbox_lines("pool-managerd")) <= tried

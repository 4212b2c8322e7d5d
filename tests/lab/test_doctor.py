"""The doctor on a whole host: a real service manager and journal, real podman, ranges of ids, and lingering.

What it says of GPUs is shown with the stand-in for NVML, which is compiled on the host.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.host import Lab

pytestmark = [pytest.mark.req("OP-01"), pytest.mark.timeout(900), pytest.mark.slow]

PRODUCT = '. "$CHECKOUT/tests/lab/product.sh"\ndoctor() { "$PREFIX/bin/llama-orch" doctor --json "$@" || true; }\n'
GPUS = """
gcc -std=gnu11 -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -pthread -o ~/libnvidia-ml.so.1 \\
  "$CHECKOUT/tests/support/nvml/standin.c"
printf '%s\\n' 'init 0' 'hang 0' 'loads 0' 'driver 550.163.01' 'cuda 12040' 'device 0' \\
  'uuid GPU-00000000-0000-0000-0000-000000000000' 'name RTX 3090' 'total 25769803776' 'used 0' 'utilization 0' \\
  'capability 8.6' 'error 0' 'events 0' > ~/nvml
export LD_LIBRARY_PATH=$HOME NVML_STANDIN=$HOME/nvml
mkdir -p ~/.config/llama-orch
cat > $config << 'END'
pools: [{id: big, engine: vllm, model: "hf:org/repo", devices: [0]}]
END
export LLORCH_API_TOKEN=lab-token-0123456789
"""


def results(document: str) -> dict[str, dict[str, Any]]:
    """The results by id; of several with one id the last."""
    return {each["id"]: each for each in json.loads(document)["checks"]}


def test_the_report_at_start_is_in_the_journal_and_nothing_waits_for_it(lab: Lab) -> None:
    outcome = lab.check(
        PRODUCT
        + r"""
# A doctor that never ends: the start of the target must not notice.
mkdir -p ~/.config/systemd/user/llama-orch-doctor.service.d
printf '%s\n' '[Service]' ExecStartPre='sleep 1000' > ~/.config/systemd/user/llama-orch-doctor.service.d/slow.conf
start_product
[ "$(property llama-orch-doctor ActiveState)" = activating ]

# As it is: it looks around once, and that something is wrong is no failure of the unit.
rm -r ~/.config/systemd/user/llama-orch-doctor.service.d
systemctl --user daemon-reload
chmod 666 $config
systemctl --user restart llama-orch-doctor
[ "$(property llama-orch-doctor Result)" = success ]
[ -z "$(systemctl --user list-units --failed --quiet --plain)" ]
chmod 600 $config
# What it said is in the journal a moment after its end.
reported() {
  local words
  journalctl --user --unit llama-orch-doctor --output=json --output-fields=PRIORITY,MESSAGE > ~/report
  for words in 'failed permissions' 'note linger' 'note units' 'ok config' 'skipped driver'; do
    grep "$words" ~/report || return 1
  done
  journalctl --user --unit llama-orch-doctor -p err --output=cat --quiet > ~/errors
  grep 'failed permissions: ' ~/errors && grep 'chmod go-w' ~/errors
}
eventually 30 reported

echo "--- by hand"; doctor --check units
"$PREFIX/bin/llama-orch" units install > ~/installed
echo "--- fine"; doctor
sed -i 's/^RestartSec=.*/RestartSec=3/' ~/.config/systemd/user/orchestratord.service
echo "--- changed"; doctor --check units --check linger
systemctl --user daemon-reload
sed -i 's|/bin/pool-managerd"|/nowhere/pool-managerd"|' ~/.config/systemd/user/pool-managerd.service
systemctl --user daemon-reload
echo "--- moved"; doctor --check units

# Without the login's variables.
echo "--- su"; env -u XDG_RUNTIME_DIR -u DBUS_SESSION_BUS_ADDRESS "$PREFIX/bin/llama-orch" doctor --json \
  --check session --check linger --check environment || true
echo "--- errors"; cat ~/errors
echo "--- report"; cat ~/report
systemctl --user stop llama-orch.target
eventually 60 nothing_of_ours
""",
        limit_s=600,
    )
    parts = dict(part.split("\n", 1) for part in outcome.stdout.split("--- ")[1:])
    fine = results(parts["fine"])
    assert {"units.ok", "environment.ok", "versions.ok", "daemons.ok", "session.ok", "linger.off"} <= fine.keys()
    assert not [each for each in fine.values() if each["status"] == "failed"], fine
    assert results(parts["by hand"]).keys() == {"units.out-of-date"}
    changed = results(parts["changed"])
    assert {"units.edited", "units.not-reloaded", "linger.off"} == changed.keys()
    moved = results(parts["moved"])
    assert {"units.edited", "units.no-program"} == moved.keys()
    assert "/nowhere/pool-managerd" in moved["units.no-program"]["what"]
    away = results(parts["su"])
    assert {"session.no-runtime", "linger.off", "environment.skipped"} == away.keys()

    assert "failed permissions: " in parts["errors"]
    assert "chmod go-w" in parts["errors"]
    lines = [json.loads(line) for line in parts["report"].splitlines()]
    told = {line["MESSAGE"].partition(":")[0]: line["PRIORITY"] for line in lines}
    assert told["failed permissions"] == "3"
    assert told["note linger"] == "5"
    assert told["note units"] == "5"
    assert told["ok config"] == "6"
    assert told["skipped driver"] == "7"


def test_what_a_shell_finds_and_the_units_do_not(lab: Lab, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("mkdir -p /var/lib/systemd/linger; touch /var/lib/systemd/linger/lab\n")
    outcome = lab.check(
        PRODUCT
        + r"""
install_units "$PREFIX/bin"
mkdir -p ~/.config/llama-orch ~/tools
printf '#!/bin/sh\n' > ~/tools/llama-server
chmod 755 ~/tools/llama-server
cat > $config << 'END'
pools: [{id: a, engine: llamacpp, model: /m.gguf, devices: [0], provisioning: {mode: binary}}]
END
export PATH=$HOME/tools:$PATH HF_TOKEN=secret-of-the-lab
echo "--- lacking"; doctor --check environment --check linger
mend=$(doctor --check environment | "$PYTHON" -c '
import json, sys
print(next(each["mend"] for each in json.load(sys.stdin)["checks"] if each["id"] == "environment.not-on-path"))')
bash -c "${mend%%; systemctl*}"
echo HF_TOKEN=x >> ~/.config/llama-orch/environment
stat -c %a ~/.config/llama-orch/environment
echo "--- mended"; doctor --check environment
""",
        hook=hook,
    )
    parts = dict(part.split("\n", 1) for part in outcome.stdout.split("--- ")[1:])
    lacking = results(parts["lacking"].partition("600\n")[0])
    assert {"environment.not-on-path", "environment.only-here", "linger.ok"} == lacking.keys()
    assert "llama-server is /home/lab/tools/llama-server here" in lacking["environment.not-on-path"]["what"]
    assert lacking["environment.only-here"]["what"] == "HF_TOKEN is set here, and not in the units"
    assert "secret-of-the-lab" not in outcome.stdout
    assert results(parts["mended"]).keys() == {"environment.ok"}


CHECKS = "--check driver --check gpus --check podman --check docker --check subuid --check toolkit_cdi --check engine"


def test_rootless_podman_with_its_ranges_and_the_gpus_of_a_cdi_file(lab: Lab, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    # What is left behind by an older driver, and a second file with the same devices.
    hook.write_text(
        "echo '# /usr/lib/libcuda.so.535.54.03' >> /run/cdi/nvidia.yaml\ncp /run/cdi/nvidia.yaml /run/cdi/b.yaml\n"
    )
    outcome = lab.check(PRODUCT + GPUS + f"doctor {CHECKS}\n", gpus=1, hook=hook)
    found = results(outcome.stdout)
    assert {"driver.ok", "gpus.ok", "podman.ok", "docker.skipped", "subuid.ok"} <= found.keys(), outcome.stdout
    assert found["toolkit_cdi.stale"]["mend"] == "sudo nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml"
    assert "is of driver 535.54.03, and driver 550.163.01 is installed" in found["toolkit_cdi.stale"]["what"]
    assert "toolkit_cdi.contradicted" in found
    assert "rootless podman" in found["podman.ok"]["what"]


def test_a_user_without_ranges_has_no_containers(lab: Lab, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text("sed -i /^lab:/d /etc/subuid\nrm -f /run/cdi/*\n")
    outcome = lab.check(PRODUCT + GPUS + f"doctor {CHECKS}\n", gpus=1, hook=hook)
    found = results(outcome.stdout)
    assert {"podman.no-runtime", "subuid.missing", "toolkit_cdi.skipped"} <= found.keys(), outcome.stdout
    assert found["subuid.missing"]["what"].startswith("/etc/subuid gives lab no ids")
    assert "--add-subuids" in found["subuid.missing"]["mend"]

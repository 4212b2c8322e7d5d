"""The product as people get it: one wheel, installed by an ordinary user into a place of its own, and nothing else.

The wheel is built and installed without a network. What it depends on is there already, as after `uv tool install`; the
checkout is not on the path of anything that runs.
"""

import json

import pytest

from tests.lab.host import Lab

pytestmark = [pytest.mark.req("OP-01", "OP-06"), pytest.mark.timeout(900), pytest.mark.slow]

WHOLE_WAY = r"""
. "$CHECKOUT/tests/lab/product.sh"
install_wheel
mkdir -p ~/.local/bin
ln -s "$place/bin/llama-orch" ~/.local/bin/llama-orch
export PATH=~/.local/bin:$PATH

llama-orch version --json > ~/version.json
for example in $(ls "$CHECKOUT/examples"); do
  [ -f "$CHECKOUT/examples/$example/config.yaml" ] || continue
  llama-orch init --example "$example" --config ~/examples/$example.yaml >&2
  llama-orch plan --config ~/examples/$example.yaml >&2
done
llama-orch completion bash --install >&2
bash -c '. ~/.local/share/bash-completion/completions/llama-orch; complete -p llama-orch' >&2

llama-orch init --trial >&2
llama-orch units install --enable --now >&2
(cd ~/.config/systemd/user; systemd-analyze --user verify *.service *.slice *.target) > ~/verify 2>&1
token=$(llama-orch token --show)
eventually 60 pool_is_ready
model=haiku
submit 8 | grep '^event: end' > /dev/null
[[ $(llama-orch run "Write a haiku about rain." --max-tokens 8 --json) == *'"finish_reason"'* ]]
llama-orch top --once >&2
systemctl --user show --property=ExecStart --value orchestratord > ~/exec
before=$(main_pid orchestratord)
systemctl --user reload orchestratord pool-managerd
submit 4 | grep '^event: end' > /dev/null
[ "$(main_pid orchestratord)" = "$before" ]
llama-orch units status >&2
llama-orch units status --json > ~/status.json

stop_product
for daemon in orchestratord pool-managerd; do [ "$(property $daemon Result)" = success ]; done
! llama-orch units status >&2
hand linger
hand shut-down
hand boot
eventually 60 pool_is_ready
submit 4 | grep '^event: end' > /dev/null
llama-orch units remove >&2
eventually 30 nothing_of_ours
echo '--- told'
printf '{"version": %s, "status": %s, "exec": "%s", "verify": "%s", "place": "%s"}' \
  "$(cat ~/version.json)" "$(cat ~/status.json)" "$(sed 's/ ;.*//; s/.*path=//' ~/exec)" "$(cat ~/verify)" "$place"
"""


def test_a_wheel_is_all_that_it_takes_from_the_installation_to_the_second_boot(lab: Lab) -> None:
    told = json.loads(lab.check(WHOLE_WAY, limit_s=600).stdout.partition("--- told\n")[2])
    place = told["place"]
    assert told["version"]["units"].startswith(f"{place}/lib/")
    assert told["version"]["examples"].startswith(f"{place}/lib/")
    assert told["exec"] == f"{place}/bin/orchestratord"
    assert told["verify"] == ""
    units = {unit["name"]: unit for unit in told["status"]["units"]}
    for daemon in ("orchestratord.service", "pool-managerd.service"):
        assert (units[daemon]["active"], units[daemon]["file"]) == ("active", "current")
    assert [engine["active"] for engine in told["status"]["engines"]] == ["active"]
    assert (told["status"]["at_login"], told["status"]["at_boot"]) == (True, False)

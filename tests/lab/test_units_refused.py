"""`units install --now` finds out what the daemons would refuse, says it with its mend, and has started nothing."""

import pytest

from tests.lab.host import Lab

pytestmark = [pytest.mark.req("OP-01"), pytest.mark.timeout(900), pytest.mark.slow]

REFUSED = r"""
. "$CHECKOUT/tests/lab/product.sh"
units() { "$PREFIX/bin/llama-orch" units "$@"; }
starts() { journalctl --user --quiet --output=cat | grep -cE 'Start(ing|ed) (pool-managerd|orchestratord)' || true; }
# refused NAME STATUS WORD...: nothing was started, and each of the words is in what was said.
refused() {
  local name=$1 expected=$2 status=0 word
  shift 2
  "${command[@]}" > ~/out 2> ~/told || status=$?
  for word in "$@"; do
    grep -qF -e "$word" ~/told || { echo "$name: not told: $word" >&2; cat ~/out ~/told >&2; exit 1; }
  done
  [ $status = "$expected" ] || { echo "$name: status $status" >&2; cat ~/told >&2; exit 1; }
  [ "$(starts)" = "${started:-0}" ]
}
command=(units install --now)
"$PREFIX/bin/llama-orch" init --trial > /dev/null
secret=~/.config/llama-orch/api-token

chmod 644 $secret
refused mode 78 'none was started' 'api-token can be used by others (mode 0644)' "chmod 600 $secret" \
  'systemctl --user start llama-orch.target'

# A token that only this shell has.
mv $secret ~/kept
command=(env LLORCH_API_TOKEN=of-this-shell-0123456789 "$PREFIX/bin/llama-orch" units install --now)
refused shell 78 'there is no token' 'write LLORCH_API_TOKEN=... into ~/.config/llama-orch/environment'
command=(units install --now)
mv ~/kept $secret
chmod 600 $secret

# Several things at once: each is told.
cp "$config" ~/good
sed -i 's|^server:|server:\n  tls: {cert_file: none.pem, key_file: none.pem}|' "$config"
"$PYTHON" -c 'import socket, time
here = socket.create_server(("127.0.0.1", 8080))
print(flush=True)
time.sleep(600)' > ~/taken &
taken=$!
eventually 30 test -s ~/taken
refused several 1 'there is no file' 'none.pem' '127.0.0.1:8080: taken by' "kill $taken"
kill $taken
cp ~/good "$config"

# The daemons run in the foreground.
"$PREFIX/bin/llama-orch" up > ~/up 2>&1 &
up=$!
eventually 60 curl --silent --fail "$url/healthz"
refused beside 1 'orchestratord runs already' 'Ctrl-C'
kill -INT $up
wait $up || true

# Where the token comes from a credential, or from a place that a drop-in names, systemd and the daemon know.
rm $secret
mkdir -p ~/.config/credstore
echo a-credential-of-this-lab > ~/.config/credstore/llama-orch.api-token
units install --now >&2
token=a-credential-of-this-lab
api /v1/pools > ~/pools
before=$(main_pid orchestratord)

# An upgrade leaves what runs alone where the next start would fail.
sed -i 's/slots:/slotz:/' "$config"
sed -i s/Written.by.llama-orch.[^\ ]*/'Written by llama-orch 0.0.1'/ ~/.config/systemd/user/orchestratord.service
logged() { journalctl --user --quiet --output=cat | grep 'Started orchestratord'; }
eventually 30 logged # the last of them: no more come after they are counted
started=$(starts)
refused upgrade 78 'nothing was restarted' "unknown field 'slotz'" 'restart pool-managerd orchestratord'
[ "$(main_pid orchestratord)" = "$before" ]
"""


def test_nothing_is_started_that_would_end_at_once(lab: Lab) -> None:
    lab.check(REFUSED, limit_s=600)

"""The daemons as services: watched, drained, restarted and reloaded by the real service manager.

A stand-in engine, which somebody else runs, makes streams that take as long as a test needs.
"""

import pytest

from tests.lab.host import Lab

pytestmark = [pytest.mark.req("OP-01"), pytest.mark.timeout(900), pytest.mark.slow]

SLOW = r"""
. "$CHECKOUT/tests/lab/product.sh"
. "$CHECKOUT/tests/lab/saying.sh"
units=~/.config/systemd/user

# An engine with one slot that takes 3 s for its 40 tokens.
(cd "$CHECKOUT"; exec "$PYTHON" -m tests.standin --port 9100 --knobs '{"tokens": 40, "token_delay_ms": 80,
  "tokens_per_write": 1, "slots": 1, "gate": "/home/lab/gate", "gate_after": 5}') 2> /dev/null &
# halt: from now on no stream gets further than its first tokens, so that what comes now comes before its end, however
# fast the machine is. hold NAME: until this stream stands there. let_go: they go on.
halt() { touch ~/gate; }
hold() { eventually 30 says $1 '^event: token'; }
let_go() { rm ~/gate; }

# configure SERVER_SETTINGS...: each like "drain_ms: 500".
configure() {
  { echo "profile: trial"; echo "server:"; printf '  %s\n' "bind: 127.0.0.1:${port:-8080}" "$@"
    echo "pools: [{id: trial, engine: llamacpp, model: standin.gguf, ctx: 512,"
    echo "  timeouts: {idle_ms: 120000}, # a stream may stand at the gate for a while"
    echo "  provisioning: {mode: external, external: {url: 'http://127.0.0.1:9100'}}}]"; } > "$config"
}
start_slow_product() {
  mkdir -p "${config%/*}"
  configure "$@"
  token=test-token-0123456789
  (umask 077; echo $token > "${config%/*}/api-token")
  install_units "$PREFIX/bin"
  systemctl --user start llama-orch.target
  eventually 60 pool_is_ready
  model=standin.gguf
}
# stream NAME: a task of that id, with its stream in ~/NAME.
stream() {
  curl --silent --no-buffer --max-time 240 -H "Authorization: Bearer $token" -H 'Accept: text/event-stream' \
    "$url/v1/tasks" --data '{"task_id": "'$1'", "model_ref": "standin.gguf", "prompt": "x", "max_tokens": 40}' > ~/$1
}
says() { grep -q "$2" ~/$1; }
status() { property ${1:-orchestratord} StatusText; }
status_says() { [[ $(status) == *"$1"* ]]; }
# knock FILE: asks the port again and again until the file is there; says what went wrong and the longest wait.
knock() {
  local longest=0 answer
  until [ -e "$1" ]; do
    answer=$(curl --silent --max-time 60 --output /dev/null --write-out '%{http_code} %{time_total}' "$url/healthz") ||
      echo "refused: $?"
    [ "${answer% *}" = 200 ] || echo "answered $answer"
    longest=$(printf '%s\n' "$longest" "${answer#* }" | sort -g | tail -n 1)
  done
  echo "longest $longest"
}
"""

AILING = r"""
. "$CHECKOUT/tests/lab/product.sh"
. "$CHECKOUT/tests/lab/saying.sh"
units=~/.config/systemd/user
ail() { # DAEMON DIES HANGS
  mkdir -p $units/$1.service.d
  printf '%s\n' '[Service]' WatchdogSec=8 TimeoutAbortSec=30 RestartSec=0 "WorkingDirectory=$CHECKOUT" ExecStart= \
    "ExecStart=\"$PREFIX/bin/python\" -m tests.support.ailing_daemon $1 --config $config" \
    "Environment=\"AILING_DIES=$2\" \"AILING_HANGS=$3\"" > $units/$1.service.d/ailing.conf
}
ail orchestratord attendant orchestratord.keeper:Keeper.look_after
ail pool-managerd 'trial: owner' pool_managerd.stock:StockWatch.run
start_product
journal_says() { journalctl --user --quiet --unit $1 --output=cat | grep "$2"; }
back() { [ "$(property $1 NRestarts)" -gt $2 ] && systemctl --user is-active $1 && pool_is_ready; }
fall() { # DAEMON SIGNAL WORDS
  before=$(property $1 NRestarts)
  kill -$2 "$(main_pid $1)"
  eventually 60 journal_says $1 "$3"
  eventually 60 back $1 $before
}
"""


def test_an_owner_task_that_dies_or_hangs_is_named_and_its_daemon_started_again(lab: Lab) -> None:
    outcome = lab.check(
        AILING
        + r"""
fall orchestratord USR1 'attendant has ended, and nobody does its work'
fall orchestratord WINCH 'task-store has shown no life'
fall pool-managerd USR1 'trial: owner has ended'
submit 4 | grep '^event: end' > /dev/null
for daemon in orchestratord pool-managerd; do systemctl --user is-active $daemon; done
""",
        limit_s=600,
    )
    assert "it waits in ailing_daemon.py" in outcome.journal
    assert "the service manager starts this daemon again" in outcome.journal
    assert "Fatal Python error: Aborted" in outcome.journal  # and where it was
    assert outcome.stdout.endswith("active\nactive\n")


def test_a_restart_lets_a_stream_end_and_refuses_no_client(lab: Lab) -> None:
    outcome = lab.check(
        SLOW
        + r"""
start_slow_product
halt
stream first & first=$!
hold first
stream second & second=$!
queued() { api /v1/tasks/second | grep -q '"state":"queued"'; }
eventually 30 queued
knock ~/enough > ~/knocked & knocking=$!

# The next daemon comes when somebody has knocked at the door of none for a second.
mkdir -p $units/orchestratord.service.d
printf '[Service]\nExecStartPre=/bin/sh -c "while [ -e %%h/away ]; do sleep 0.05; done"\n' \
  > $units/orchestratord.service.d/away.conf
systemctl --user daemon-reload
touch ~/away
systemctl --user restart orchestratord & restart=$!
eventually 30 status_says 'draining, 1 stream left; 1 queued for the next start'
curl --silent --include -H "Authorization: Bearer $token" $url/v1/tasks \
  --data '{"model_ref": "standin.gguf", "prompt": "x"}'
let_go
nobody() { [ "$(main_pid orchestratord)" = 0 ]; }
eventually 60 nobody
eventually 30 pgrep --older 1 --full 'time_total.*/healthz'
rm ~/away
wait $restart
wait $first
tail -n 3 ~/first
wait $second || echo "the second stream was cut: $?"
api /v1/tasks/second/stream > ~/second
tail -n 3 ~/second

touch ~/enough
wait $knocking
cat ~/knocked

echo "after kill -9:"
kill -KILL "$(main_pid orchestratord)"
curl --silent --max-time 60 $url/healthz
echo "kept: $(property orchestratord NFileDescriptorStore)"

echo "another port:"
port=8081 configure
systemctl --user restart orchestratord
curl --silent $url/healthz || echo "refused $?"
curl --silent http://127.0.0.1:8081/healthz
systemctl --user stop llama-orch.target
eventually 60 nothing_of_ours
curl --silent http://127.0.0.1:8081/healthz || echo "refused $?"
""",
        limit_s=600,
    )
    told = outcome.stdout
    assert "HTTP/1.1 503" in told
    assert "Retry-After: " in told
    assert '"code":"POOL_UNAVAILABLE","message":"orchestratord is stopping","retriable":true' in told
    assert told.count('"tokens_out":40') == 2, told
    assert told.count("event: end") == 2
    meanwhile, _, after = told.partition("after kill -9:")
    assert "refused" not in meanwhile
    assert "answered" not in meanwhile
    assert float(meanwhile.partition("longest ")[2].split()[0]) > 0.1  # somebody waited while there was no daemon
    crashed, _, moved = after.partition("another port:")
    assert crashed == '\n{"status": "ok"}kept: 1\n'
    assert moved.count("refused 7") == 2


def test_what_is_left_when_the_time_is_over_gets_its_terminal_event(lab: Lab) -> None:
    outcome = lab.check(
        SLOW
        + r"""
start_slow_product 'drain_ms: 500'
halt
stream late &
hold late
systemctl --user stop orchestratord
wait %2
let_go
tail -n 3 ~/late
echo "$(property orchestratord Result)"

# More than the unit allows by itself: the daemon asks for it.
mkdir -p $units/orchestratord.service.d
printf '[Service]\nTimeoutStopSec=2\n' > $units/orchestratord.service.d/hurry.conf
systemctl --user daemon-reload
configure 'drain_ms: 30000'
systemctl --user start orchestratord
eventually 60 pool_is_ready
halt
stream patient &
hold patient
systemctl --user stop orchestratord & stop=$!
eventually 30 status_says 'draining, 1 stream left'
let_go
wait $stop
tail -n 3 ~/patient
echo "$(property orchestratord Result)"

# And a second signal does not wait.
systemctl --user start orchestratord
eventually 60 pool_is_ready
halt
stream hurried &
hold hurried
systemctl --user stop orchestratord & stop=$!
eventually 30 status_says 'draining, 1 stream left'
kill -TERM "$(main_pid orchestratord)"
wait $stop
let_go
tail -n 3 ~/hurried
echo "$(property orchestratord Result)"
""",
        limit_s=600,
    )
    late, patient, hurried = outcome.stdout.split("success\n")[:3]
    assert '"code":"POOL_UNAVAILABLE"' in late
    assert '"tokens_out":40' in patient
    assert '"code":"POOL_UNAVAILABLE"' in hurried


@pytest.mark.req("HP-26")
def test_a_reload_applies_what_it_can_and_one_that_fails_is_seen(lab: Lab) -> None:
    outcome = lab.check(
        SLOW
        + r"""
start_slow_product 'drain_ms: 500'
configure 'drain_ms: 600' 'max_body_bytes: 4096'
printf 'limits: {requests_per_minute: 77}\n' >> "$config"
systemctl --user reload orchestratord pool-managerd
limited() { api /v1/capabilities | grep -q '"requests_per_minute":77'; }
eventually 30 limited
# The manager is back from its own reload, and seen.
eventually 30 status_says '1/1 pools ready, 0 queued, 0 running; a restart is needed for server.max_body_bytes'
echo "good: $(status)"

pid=$(main_pid orchestratord)
sed -i 's/^profile: .*/profile: holiday/' "$config"
systemctl --user reload orchestratord && echo "no failure"
eventually 30 status_says '1/1 pools ready, 0 queued, 0 running; the configuration was not reloaded: '
echo "broken: $(status)"
[ "$(main_pid orchestratord)" = "$pid" ]
systemctl --user is-active orchestratord
limited

sed -i 's/^profile: .*/profile: trial/' "$config"
systemctl --user reload orchestratord
mended() { ! status_says 'not reloaded'; }
eventually 30 mended
eventually 30 status_says '1/1 pools ready, 0 queued, 0 running; a restart is needed for server.max_body_bytes'
echo "mended: $(status)"
for daemon in orchestratord pool-managerd; do
  echo "$daemon $(property $daemon Slice) $(property $daemon MemoryAccounting) $(property $daemon TasksAccounting)"
  [ "$(property $daemon CPUUsageNSec)" -gt 0 ]
done

# A token as a credential; without its file, as until now, the daemon has started as well.
mkdir -p ~/.config/credstore
(umask 077; echo another-token-0123456789 > ~/.config/credstore/llama-orch.api-token)
systemctl --user restart orchestratord
token=another-token-0123456789
api /v1/pools > /dev/null && echo "the credential counts"
""",
        limit_s=600,
    )
    told = outcome.stdout
    assert "good: 1/1 pools ready, 0 queued, 0 running; a restart is needed for server.max_body_bytes\n" in told
    assert "broken: 1/1 pools ready, 0 queued, 0 running; the configuration was not reloaded: " in told
    assert "holiday" in told
    assert "no failure" not in told
    assert "mended: 1/1 pools ready, 0 queued, 0 running; a restart is needed for server.max_body_bytes\n" in told
    assert "orchestratord llama-orch.slice yes yes" in told
    assert "pool-managerd llama-orch.slice yes yes" in told
    assert "the credential counts" in told
    assert "from the systemd credential api-token" in outcome.journal
    assert "these changes wait for a restart of orchestratord: server.max_body_bytes" in outcome.journal
    assert "the configuration stays as it was" in outcome.journal

"""Engines outlive their manager under a real `systemd --user`, with what they have in memory, and a stop ends them all.

A gate stands before the engine's answers while a test waits for the service manager (gate.c), so that no stream is over
too soon, however fast the machine is.
"""

import pytest

from tests.lab.host import REGISTRY, Lab

pytestmark = [pytest.mark.req("OP-01", "PM-07"), pytest.mark.timeout(900), pytest.mark.slow]

WARM = r"""
. "$CHECKOUT/tests/lab/product.sh"
. "$CHECKOUT/tests/lab/saying.sh"
drop_in() { # drop_in NAME LINE...: lines for pool-managerd's [Service]
  mkdir -p ~/.config/systemd/user/pool-managerd.service.d
  printf '%s\n' '[Service]' "${@:2}" > ~/.config/systemd/user/pool-managerd.service.d/$1.conf
  systemctl --user daemon-reload
}
slice=llama-orch-engines.slice
engine() { cat "$XDG_RUNTIME_DIR/llama-orch/trial.pid"; }
another_manager() { [ "$(main_pid pool-managerd)" != "$1" ] && systemctl --user is-active pool-managerd; }
said() { [ "$(journalctl --user --unit pool-managerd --output=cat | grep -c "$1")" -ge "$2" ]; }
taken_over() { said 'taking over the engine that runs on port' "$1"; }
# What a stream was: its tokens with their numbers, and the sum of them that its end has.
tokens() { grep -A 2 '^event: token' ~/$1; grep -o '"stream_sha256":"[^"]*"' ~/$1; }
# slow_down: from now on a model that always says as much as it is asked for, behind a gate. halt: no answer gets
# further than its first tokens. stream NAME: one that stands there, in the background; its process is $stream. let_go:
# they go on.
slow_down() {
  model=$HOME/slow.gguf
  PYTHONPATH=$CHECKOUT "$PYTHON" -c 'import sys; from pathlib import Path
from tests.support.tiny_gguf import write_tiny_gguf
write_tiny_gguf(Path(sys.argv[1]), ctx=4096)' "$model"
  gcc -shared -fPIC "-DGATE=\"$HOME/gate\"" -DPASS=5 -o ~/gate.so "$CHECKOUT/tests/lab/gate.c"
  sed -i -e "s|^    model: .*|    model: \"$model\"\n    env: {LD_PRELOAD: $HOME/gate.so}|" \
    -e 's/^    ctx: .*/    ctx: 4096/' "$config"
  systemctl --user restart pool-managerd
  eventually 60 pool_is_ready
}
halt() { touch ~/gate; }
let_go() { rm -f ~/gate; }
stream() {
  halt
  ask > ~/$1 &
  stream=$!
  eventually 30 grep -q '^event: token' ~/$1
}
ask() {
  api /v1/tasks --no-buffer --max-time 120 -H 'Accept: text/event-stream' -H 'Content-Type: application/json' --data \
    '{"model_ref": "'"$model"'", "prompt": "once upon a time", "max_tokens": 500, "seed": 1, "determinism": "strict"}'
}
"""


def test_a_stream_goes_on_through_a_restart_a_kill_and_a_hang_of_the_pool_manager(lab: Lab) -> None:
    outcome = lab.check(
        WARM
        + r"""
# A watchdog that no machine that stands still for some seconds sets off.
drop_in hurry WatchdogSec=8 TimeoutAbortSec=1 RestartSec=100ms
start_product
old=$(engine)

# Another configuration: the engine is ended, another one is started.
slow_down
not kill -0 "$old" 2> /dev/null
one=$(engine)
[ "$one" != "$old" ]
grep -q "/$slice/" "/proc/$one/cgroup"
tr '\0' '\n' < "/proc/$one/environ" > ~/environ
grep -q '^LLAMA_ORCH_HANDLE=' ~/environ
not grep -E '^(DBUS_SESSION|INVOCATION_ID|NOTIFY_SOCKET|WATCHDOG)' ~/environ
ask > ~/undisturbed
tokens undisturbed > ~/undisturbed.tokens

while sleep 0.05; do api /v1/pools; echo; done > ~/pools 2> ~/pools.errors &
poller=$!
times=0
for way in restart kill hang; do
  stream $way
  not grep -q '^event: end' ~/$way
  before=$(main_pid pool-managerd)
  case $way in
    restart) systemctl --user restart pool-managerd ;;
    kill) kill -KILL "$before" ;;
    hang) kill -STOP "$before" ;;
  esac
  eventually 60 another_manager "$before"
  times=$((times + 1))
  eventually 30 taken_over $times
  eventually 30 pool_is_ready
  let_go
  wait $stream
  same engine "$(engine)" "$one"
  cmp ~/undisturbed.tokens <(tokens $way)
done
kill $poller
grep -q '"ready":true' ~/pools
not grep '"ready":false' ~/pools
cat ~/pools.errors >&2
systemctl --user restart llama-orch.target
eventually 60 pool_is_ready
same engine "$(engine)" "$one"
""",
        limit_s=600,
    )
    assert "taken over" in outcome.journal


# An image of the tests' stand-in for llama-server, with its gate in /tmp; with the interpreter that runs us.
CONTAINED = (
    WARM
    + r"""
. "$CHECKOUT/tests/lab/containers.sh"
use_podman
root=$(mktemp -d)
library=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
python=$(readlink -f "$PYTHON")
mkdir -p "$root/app/tests" "$root/tmp" "$root${python%/*}"
cp "$python" "$root$python"
msgspec=$("$PYTHON" -c 'import msgspec; print(msgspec.__path__[0])')
for each in $(ldd "$python" "$msgspec"/*.so | sed -n 's|^\t[^/]*\(/[^ ]*\) .*|\1|p' | sort -u); do
  mkdir -p "$root${each%/*}"
  cp -L "$each" "$root$each"
done
tar -C / --create --exclude={test,site-packages,dist-packages,__pycache__,idlelib,ensurepip,'config-*'} "${library#/}" |
  tar -C "$root" --extract
cp "$CHECKOUT/tests/__init__.py" "$root/app/tests/"
tar -C "$CHECKOUT" --create --exclude=__pycache__ tests/standin | tar -C "$root/app" --extract
cp -r "$msgspec" "$root/app/msgspec"
cat > "$root/app/llama-server" << CODE
#!$python -B
import runpy, socket, sys
port = sys.argv[sys.argv.index("--port") + 1]
bind = socket.socket.bind
socket.socket.bind = lambda this, address: bind(this, ("0.0.0.0", address[1]))
sys.argv = ["tests.standin", "--port", port, "--knobs", '{"gate": "/tmp/gate", "gate_after": 5, "tokens_per_write": 1}']
runpy.run_module("tests.standin", run_name="__main__")
CODE
chmod 755 "$root/app/llama-server"
eventually 30 curl --silent --fail "http://$registry/v2/"
tar -C "$root" --create . |
  podman import --quiet --change 'ENTRYPOINT ["/app/llama-server"]' - "$registry/lab/llama" > /dev/null
podman push --quiet --digestfile ~/digest "$registry/lab/llama"
"$PREFIX/bin/llama-orch" init --trial --config "$config"
sed -i '/^    provisioning:/,$d; /flags:/d' "$config"
printf '    provisioning: {mode: container, container: {image: "%s/lab/llama", digest: "%s"}}\n' \
  "$registry" "$(cat ~/digest)" >> "$config"
token=$("$PREFIX/bin/llama-orch" token --show)
model=$HOME/.local/share/llama-orch/trial/haiku.gguf
install_units "$PREFIX/bin"
serve() {
  systemctl --user start llama-orch.target
  eventually 90 pool_is_ready
}
contained() { podman ps --no-trunc --format '{{.ID}} {{.Pid}}' --filter label=llama-orch.pool; }
nothing_contained() { [ -z "$(podman ps --all --quiet)$(engines)" ]; }
halt() { touch "/proc/${one##* }/root/tmp/gate"; }
let_go() { rm "/proc/${one##* }/root/tmp/gate"; }
ask() {
  api /v1/tasks --no-buffer --max-time 120 -H 'Accept: text/event-stream' -H 'Content-Type: application/json' --data \
    '{"model_ref": "'"$model"'", "prompt": "once", "max_tokens": 150, "seed": 1}'
}
"""
)


@pytest.mark.req("CR-05")
def test_a_container_and_its_stream_go_on_through_a_restart_and_a_kill_and_a_stop_ends_it(lab: Lab) -> None:
    lab.check(
        CONTAINED
        + r"""
drop_in hurry RestartSec=100ms
serve
one=$(contained)
[ -n "$one" ]
ask > ~/undisturbed
for way in restart kill; do
  stream $way
  before=$(main_pid pool-managerd)
  if [ $way = kill ]; then kill -KILL "$before"; else systemctl --user restart pool-managerd; fi
  eventually 60 another_manager "$before"
  eventually 60 pool_is_ready
  not grep -q '^event: end' ~/$way
  let_go
  wait $stream
  cmp <(tokens undisturbed) <(tokens $way)
  same container "$(contained)" "$one"
done
systemctl --user stop llama-orch.target
eventually 60 nothing_contained

# The manager is killed over a stop.
serve
one=$(contained)
stream stopped
systemctl --user stop --no-block pool-managerd
stops() { [ "$(property pool-managerd ActiveState)" = deactivating ]; }
eventually 30 stops
kill -KILL "$(main_pid pool-managerd)"
cleared() { [ -z "$(podman ps --quiet)$(engines)" ]; }
eventually 30 cleared
""",
        limit_s=600,
        hook=REGISTRY,
    )


def test_a_stop_ends_every_engine_in_order_whatever_becomes_of_the_pool_manager(lab: Lab) -> None:
    lab.check(
        WARM
        + r"""
start_product
slow_down
served() {
  systemctl --user start llama-orch.target
  eventually 60 pool_is_ready
  one=$(engine)
  grep -q "/$slice/" "/proc/$one/cgroup"
}
gone() { ! kill -0 "$one" && [ -z "$(engines)" ]; }
drains() { said 'ready -> draining' "$1"; }
drained() { journalctl --user --unit pool-managerd --output=cat | grep -c 'ready -> draining'; }

# Of pool-managerd alone: no more work comes, the stream ends by itself, then the engine is ended.
served
stream drained
before=$(drained || true)
systemctl --user stop pool-managerd & stop=$!
eventually 30 drains $((before + 1))
let_go
wait $stop
gone
wait $stream
grep -q '^event: end' ~/drained
same "the unit's result" "$(property pool-managerd Result)" success

# Of the target: pool-managerd first, and then the slice.
served
cursor=$(journalctl --user --quiet --lines=1 --output=cat --show-cursor | sed -n 's/^-- cursor: //p')
systemctl --user stop llama-orch.target
eventually 60 nothing_of_ours
order() {
  journalctl --user --quiet --output=cat --after-cursor="$cursor" |
    grep -E 'Stopped pool-managerd|Removed slice .*engines' > ~/order
  grep Stopped ~/order && grep Removed ~/order
}
eventually 30 order
head -n 1 ~/order | grep -q Stopped

# A stream that does not end while the manager drains, which is killed over it. Nobody expands what a file has in it.
served
stream killed
before=$(drained)
echo 'PATH=/usr/local/cuda/bin:$PATH' > ~/.config/llama-orch/environment
systemctl --user stop --no-block pool-managerd
eventually 30 drains $((before + 1))
kill -KILL "$(main_pid pool-managerd)"
eventually 30 gone
let_go
rm ~/.config/llama-orch/environment

# Killed for good: the engine serves on, and a stop of the target finds it.
drop_in once Restart=no
served
kill -KILL "$(main_pid pool-managerd)"
eventually 30 systemctl --user is-failed pool-managerd
submit 4 | grep '^event: end' > /dev/null
systemctl --user stop llama-orch.target
eventually 30 gone
eventually 60 nothing_of_ours
""",
        limit_s=600,
    )


def test_without_a_scope_an_engine_lives_with_its_manager_and_that_is_said(lab: Lab) -> None:
    lab.check(
        WARM
        + r"""
drop_in path Environment=PATH=/nowhere
start_product
one=$(engine)
grep -q '/pool-managerd.service$' "/proc/$one/cgroup"
eventually 30 said 'its engine gets no scope of its own (systemd-run is not installed)' 1

# A manager that does not answer.
mkdir -p ~/bin
printf '#!/bin/sh\necho "Failed to connect to bus: No such file or directory" >&2\nexit 1\n' > ~/bin/systemd-run
chmod 755 ~/bin/systemd-run
drop_in path "Environment=PATH=$HOME/bin:/usr/bin:/bin"
systemctl --user restart pool-managerd # in order: it ends what would be killed
eventually 30 said 'trial: stopped (draining -> stopped)' 1
eventually 60 pool_is_ready
two=$(engine)
[ "$one" != "$two" ]
grep -q '/pool-managerd.service$' "/proc/$two/cgroup"
eventually 30 said 'gets no scope of its own (Failed to connect to bus: No such file or directory)' 1
submit 4 | grep '^event: end' > /dev/null
systemctl --user stop llama-orch.target
eventually 60 nothing_of_ours

# In the foreground nothing has a scope, and all of it ends together.
"$PREFIX/bin/llama-orch" up > ~/up 2>&1 &
up=$!
eventually 60 pool_is_ready
three=$(engine)
not grep -q "$slice" "/proc/$three/cgroup"
kill -INT $up
wait $up || true
not kill -0 $three
""",
        limit_s=600,
    )

# Functions for the failure drills; drill.py sources this file on the throw-away host. $MODEL is a model of some hundred
# tokens a second, $SERVER a llama-server that passes for one with CUDA, $NVML the folder of the stand-in for the driver's
# library. See lib.sh and product.sh for the others.
# shellcheck shell=bash
# shellcheck disable=SC2154 # url, config, token: product.sh

. "$CHECKOUT/tests/lab/product.sh"
. "$CHECKOUT/tests/lab/saying.sh"
level=1 # a drill runs in a subshell

UUID=GPU-00000000-0000-0000-0000-00000000000

# --- the machine ---------------------------------------------------------------------------------------------------

# gpus [INIT]: two cards, of 24 and 12 GB. Whose CUDA_VISIBLE_DEVICES names one holds 2 GiB there. INIT: NVML's error
# number, for a driver that does not work.
gpus() {
  local id name
  {
    printf '%s\n' "init ${1:-0}" "loads ${1:-0}" 'driver 550.163.01' 'cuda 12040'
    for id in 0 1; do
      name='NVIDIA GeForce RTX 3090' && [ $id = 0 ] || name='NVIDIA GeForce RTX 3060'
      printf '%s\n' "device $id" "uuid $UUID$id" "name $name" "total $(((24 - 12 * id) << 30))" 'used 0' 'utilization 0' \
        'capability 8.6' "error ${lost:-0}" 'events 1'
    done
    for id in 0 1; do echo "process-env $id CUDA_VISIBLE_DEVICES=$UUID$id $((2 << 30))"; done
  } > ~/gpus.new
  mv ~/gpus.new ~/gpus
}

# configure [LINE]...: profile home, one pool on the first card; the lines stand at the top level of the configuration.
configure() {
  mkdir -p -m 700 "${config%/*}"
  {
    printf '%s\n' 'profile: home' "$@" 'pools:' '  - id: gpu0' '    engine: llamacpp' "    model: $MODEL" \
      '    devices: [0]' '    ctx: 8192' "    timeouts: {idle_ms: ${idle_ms:-120000}, stop_ms: 1000}" \
      '    restart: {initial_ms: 100, max_ms: 800, max_failures: 100}' \
      "    provisioning: {mode: binary, binary: {path: $SERVER}}"
  } > "$config"
}

# hurry UNIT LINE...: settings of that unit, for a host that lives for seconds.
hurry() {
  local folder=~/.config/systemd/user/$1.service.d
  mkdir -p "$folder"
  printf '%s\n' '[Service]' "${@:2}" > "$folder/hurry.conf"
}

# prepare: an account with all that the product needs, and nothing started.
prepare() {
  token=a-token-for-drills-alone
  (umask 077 && printf %s "$token" > "${config%/*}/api-token" && printf '%s\n' "LD_LIBRARY_PATH=$NVML" \
    "NVML_STANDIN=$HOME/gpus" "${environment[@]}" > "${config%/*}/environment")
  gpus
  for daemon in orchestratord pool-managerd; do
    hurry $daemon RestartSec=200ms "WatchdogSec=${watchdog:-30}" TimeoutAbortSec=1 \
      "ExecStartPre=/bin/sh -c 'while [ -e %h/away-$daemon ]; do sleep 0.05; done'"
  done
  ln -sf /dev/null ~/.config/systemd/user/llama-orch-doctor.service # its looking around is no part of a drill
  install_units "$PREFIX/bin"
}
environment=()

# start: from there to a pool that is ready.
start() {
  systemctl --user start llama-orch.target
  eventually 60 pool_is_ready
}

# The engines in scopes of their own: also while pool-managerd is being started, or asks a program what it can do.
scoped() {
  local group
  group=$(property llama-orch-engines.slice ControlGroup)
  [ -z "$group" ] || find "/sys/fs/cgroup$group" -name cgroup.procs -exec cat {} + 2> /dev/null || true
}

# keep_away DAEMON: once it has ended, it is not there again before come_back, however soon it is started.
keep_away() { touch ~/away-"$1"; }
come_back() { rm -f ~/away-"$1"; }
away() { [ "$(main_pid "$1")" = 0 ]; }

# --- the client ----------------------------------------------------------------------------------------------------

# What stands before the client's commands: nothing, or what runs them on the second machine.
from=
# ask NAME MAX_TOKENS [JSON]: a task, with more fields; its stream comes to the file NAME in the background.
ask() {
  $from curl --silent --show-error --fail-with-body --no-buffer --max-time 240 -H "Authorization: Bearer $token" \
    -H 'Accept: text/event-stream' -H "X-Correlation-Id: of-$(task_of "$1")" "$url/v1/tasks" --output "$here/$1" \
    --data "{\"task_id\": \"$(task_of "$1")\", \"model_ref\": \"$MODEL\", \"prompt\": \"once upon a time\",
      \"max_tokens\": $2, \"seed\": 7 ${3:+, $3}}" &
}
task_of() { echo "${here##*/}.$1"; }
has_tokens() { [ "$(grep -c '^event: token' "$here/$1")" -ge "$2" ]; }
# flows NAME [TOKENS]: waits until the stream has had so many (1).
flows() { eventually 30 has_tokens "$1" "${2:-1}"; }
# halt: from now on no answer gets further than its first $PASS tokens (gate.c), so that what comes now comes before its
# end, however fast the machine is. hold NAME: waits until this stream stands there. let_go: they go on.
halt() { touch "$GATE"; }
hold() { flows "$1" "$PASS"; }
let_go() { rm -f "$GATE"; }
# in_state NAME STATE: whether the task is, as the API says; waits NAME: until it stands in the queue.
in_state() { api "/v1/tasks/$(task_of "$1")" | grep -q "\"state\":\"$2\""; }
waits() { eventually 30 in_state "$1" queued; }
# The last event that came as a whole.
last_id() { awk '/^id: / {id = $2} /^$/ {if (id != "") last = id; id = ""} END {print last}' "$here/$1"; }
# read_task NAME [FILE]: the stream of that task from its beginning, in the background, into the file NAME.
read_task() {
  curl --silent --fail --no-buffer --max-time 240 -H "Authorization: Bearer $token" --output "$here/${2:-$1}" \
    "http://127.0.0.1:8080/v1/tasks/$(task_of "$1")/stream" &
}
# rest NAME: reads on behind what NAME has, into NAME.rest.
rest() {
  $from curl --silent --show-error --fail --max-time 240 -H "Authorization: Bearer $token" --no-buffer \
    "$url/v1/tasks/$(task_of "$1")/stream" -H "Last-Event-ID: $(last_id "$1")" --output "$here/$1.rest"
}
# receipt NAME: waits for the receipt of that task; all that there are by then are in the file receipts.
receipt() { eventually 30 has_receipt "$1"; }
has_receipt() { api /v1/receipts > "$here/receipts" && grep -q "\"task_id\":\"$(task_of "$1")\"" "$here/receipts"; }
# refusal MAX_TOKENS: what a new task is answered that is not let in.
refusal() {
  curl --silent --max-time 60 -H "Authorization: Bearer $token" "$url/v1/tasks" --write-out '\n%{http_code}\n' \
    --data "{\"model_ref\": \"$MODEL\", \"prompt\": \"hello\", \"max_tokens\": $1}"
}
health() { api /v1/pools/gpu0/health; }
answers() { curl --silent --fail --output /dev/null --max-time 30 "$url/healthz"; }

# What pool-managerd has written down of its engines.
files_of_engines() {
  find "$XDG_RUNTIME_DIR/llama-orch/engines" ~/.local/state/llama-orch/handles -type f 2> /dev/null || true
}

# --- the record ----------------------------------------------------------------------------------------------------

# said WORDS...: whether the journal has one of these, since the drill began.
journal() { journalctl --user --quiet --output=cat --after-cursor="$cursor"; }
said() { journal | grep -F "${@/#/--regexp=}" > /dev/null; }
# said_times COUNT WORDS: whether it has them so often.
said_times() { [ "$(journal | grep -cF "$2")" -ge "$1" ]; }
# replaced UNIT PID: another process serves as this daemon.
replaced() { [ "$(main_pid "$1")" != "$2" ] && [ "$(property "$1" ActiveState)" = active ]; }
# Whether a daemon was started again so often by its manager, and runs.
restarts() { [ "$(property "$1" NRestarts)" = "$2" ] && systemctl --user --quiet is-active "$1"; }

# found WORDS FIELD=VALUE...: whether these words are in an entry with these fields, of whatever time.
found() { journalctl --user --quiet --output=cat "${@:2}" | grep -F "$1" > /dev/null; }

# mark WORDS: writes them into the journal; what comes after this stands behind them. Now and then the journal does not learn
# whose such an entry is, and shows it to nobody but root: so they are written until they are there.
mark() { eventually 30 marked "$1"; }
marked() {
  systemd-cat -t drills echo "$1"
  eventually 1 seen "$1"
}
seen() { journalctl --user --quiet --output=cat -t drills | grep -x "$1"; }

# begin NAME: the drill's folder, and where its part of the journal starts.
begin() {
  let_go
  here=~/drills/$1
  mkdir -p "$here"
  mark "begin $1"
  cursor=$(journalctl --user --quiet --lines=1 --output=cat --show-cursor -t drills | sed -n 's/^-- cursor: //p')
}
# told FILE STATUS: one line for drill.py.
told() {
  journalctl --user --quiet --output=json --after-cursor="$cursor" > "$here/.journal"
  "$PYTHON" -I -S -c '
import json, sys
from pathlib import Path
name, status, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
files = {path.name: path.read_bytes().decode(errors="replace") for path in folder.iterdir()}
print(json.dumps({"name": name, "status": status, "files": files}))
' "$1" "$2" "$here"
}

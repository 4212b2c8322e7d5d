# Functions for scripts that run the product on the throw-away host; they source this file. See lib.sh for the others.
# shellcheck shell=bash

config=~/.config/llama-orch/config.yaml
url=http://127.0.0.1:8080

# Everything of the user's outside of this session and systemd's own: control group, pid, command.
# shellcheck disable=SC2009 # pgrep does not show the control group
ours() { ps -u lab -o cgroup:200=,pid=,args= | grep -Ev 'session-1.scope|init.scope|/dbus.service' || true; }
nothing_of_ours() { [ -z "$(ours)" ]; }
# stop_product: the target and all of its processes are gone; says what is left where they are not.
stop_product() {
  systemctl --user stop llama-orch.target
  eventually 60 nothing_of_ours || { ours >&2; return 1; }
}

property() { systemctl --user show --value --property="$2" "$1"; }
main_pid() { property "$1" MainPID; }
# The engines that run on the host itself: in scopes of their own, or beside their daemon.
engines() {
  local unit group
  for unit in pool-managerd.service llama-orch-engines.slice; do
    group=$(property $unit ControlGroup)
    [ -z "$group" ] || find "/sys/fs/cgroup$group" -name cgroup.procs -exec cat {} + 2> /dev/null
  done | grep -vx "$(main_pid pool-managerd)"
}

api() { curl --silent --show-error --fail --max-time 60 -H "Authorization: Bearer $token" "$url$1" "${@:2}"; }
# As pool-managerd says now, not as it said before it went away.
pool_is_ready() { api /v1/pools | grep -q '"ready":true.*"managed":true'; }

# start_product: from a new account to a pool that is ready.
start_product() {
  "$PREFIX/bin/llama-orch" init --trial --config "$config"
  token=$("$PREFIX/bin/llama-orch" token --show)
  install_units "$PREFIX/bin"
  systemctl --user start llama-orch.target
  curl --silent --fail "$url/healthz"  # at once: the start returns when the daemons are ready
  eventually 60 pool_is_ready
  model=$(api /v1/capabilities | "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["pools"][0]["model_ref"])')
}

# submit MAX_TOKENS [CURL OPTION]...: a task, and its stream on standard output.
submit() {
  api /v1/tasks --no-buffer -H 'Accept: text/event-stream' -H 'Content-Type: application/json' "${@:2}" --data \
    '{"model_ref": "'"$model"'", "prompt": "A haiku about the autumn moon:", "max_tokens": '"$1"', "seed": 1}'
}

# install_wheel: builds the wheel and installs it as pipx does, into an environment for this program alone, whose path is
# then in $place. Without a network: what it depends on is there, in the environment of the checkout.
install_wheel() {
  place=~/.local/share/pipx/venvs/llama-orch
  (cd "$CHECKOUT" && "$PREFIX/bin/python" -m hatchling build -t wheel -d ~/dist >&2)
  "$PYTHON" -m venv --without-pip "$place"
  "$PREFIX/bin/python" -m pip --quiet --disable-pip-version-check --python "$place/bin/python" install \
    --no-index --no-deps ~/dist/*.whl
  local packages
  packages=$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$PREFIX/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$packages/dependencies.pth"
}

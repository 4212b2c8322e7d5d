# Functions for the scripts that tests run on the throw-away host; the `lab` fixture reads it in before each of them.
# shellcheck shell=bash

# eventually SECONDS COMMAND...: until the command succeeds; fails, and says so, when it does not in that time.
eventually() {
  local end=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do
    if ((SECONDS >= end)); then
      echo "lab: this never succeeded: $*" >&2
      return 1
    fi
    sleep 0.05
  done
}

# hand ACTION [ARGUMENT]: root does something to the machine; labhost has the list in do_action.
hand() {
  local status
  echo "$*" > /run/lab/asked
  read -r status < /run/lab/done
  [ "$status" = 0 ] || { echo "hand $*: $(cat /run/lab/said)" >&2 && return "$status"; }
}

# client COMMAND...: on the second machine of --lan, 10.77.0.2; this host is 10.77.0.1 there. It shares this host's files.
client() { nsenter --user --net --preserve-credentials --target "$(cat /run/lab/client)" "$@"; }

# install_units BINDIR: what `llama-orch units install` writes, for programs in that folder, in a tenth of the time.
# test_doctor.py fails where the two differ by more than the first line.
install_units() {
  local bindir units=$HOME/.config/systemd/user unit
  bindir=$(sed -e 's/%/%%/g' -e 's/[&|]/\\&/g' <<< "$1") # for systemd, and for sed below
  mkdir -p "$units"
  for unit in "$CHECKOUT"/systemd/*.*; do
    sed "/^Exec/s|@BINDIR@|$bindir|" "$unit" > "$units/${unit##*/}"
  done
  systemctl --user daemon-reload
}

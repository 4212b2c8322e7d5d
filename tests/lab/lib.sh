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

# install_units BINDIR: what `llama-orch units install` does, for programs in that folder.
install_units() {
  local bindir units=$HOME/.config/systemd/user unit
  bindir=$(sed -e 's/%/%%/g' -e 's/[&|]/\\&/g' <<< "$1") # for systemd, and for sed below
  mkdir -p "$units"
  for unit in "$CHECKOUT"/systemd/*.{service,target}; do
    sed "/^Exec/s|@BINDIR@|$bindir|" "$unit" > "$units/${unit##*/}"
  done
  systemctl --user daemon-reload
}

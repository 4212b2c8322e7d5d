# Functions for scripts that run containers on the throw-away host; they source this file. See lib.sh for the others.
# shellcheck shell=bash

registry=127.0.0.1:5000

# use_podman: what rootless podman needs here, since cgroups cannot limit anything and no machine-wide limit is known.
use_podman() {
  local dir=$HOME/.config/containers port
  mkdir -p "$dir"
  printf '[storage]\ndriver = "overlay"\n' > "$dir/storage.conf"
  {
    printf '[containers]\npids_limit = 0\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
    printf '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
  } > "$dir/containers.conf"
  for port in 5000 5001 5002; do # as docker does by itself: loopback needs no TLS
    printf '[[registry]]\nlocation = "127.0.0.1:%s"\ninsecure = true\n' $port
  done > "$dir/registries.conf"
  printf '{"default": [{"type": "insecureAcceptAnything"}]}\n' > "$dir/policy.json"
}

# use_docker: until the daemon of docker.hook answers.
use_docker() { eventually 60 docker info; }

# push_image NAME[:TAG] [DIRECTORY]: puts an image into the registry of registry.hook, with a shell and its tools (busybox)
# and what is in the directory. $digest is its digest then. Nothing of it stays in podman's storage.
push_image() {
  local root
  eventually 30 curl --silent --fail "http://$registry/v2/"
  root=$(mktemp -d)
  mkdir -p "$root/bin"
  cp /bin/busybox "$root/bin/"
  for tool in sh cat echo grep httpd id ls mount sleep touch; do ln -s busybox "$root/bin/$tool"; done
  [ -z "${2:-}" ] || cp -a "$2/." "$root/"
  tar -C "$root" --create . | podman import --quiet - "$registry/$1" > /dev/null
  podman push --quiet --digestfile "$root.digest" "$registry/$1"
  podman image rm --force "$registry/$1" > /dev/null
  # shellcheck disable=SC2034 # the script that called reads it
  digest=$(cat "$root.digest")
}

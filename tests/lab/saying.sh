# A script that sources this says which of its commands failed, and with what values.
# shellcheck shell=bash

set -E
trap lost ERR
lost() { [ "$BASH_SUBSHELL" -gt "${level:-0}" ] || echo "lab: this failed: $BASH_COMMAND" >&2; }
# same WHAT NOW BEFORE: fails, and says so, where these differ. not COMMAND...: fails where it succeeds.
same() { [ "$2" = "$3" ] || { echo "lab: $1: '$2', and not '$3'" >&2 && return 1; }; }
not() { if "$@"; then echo "lab: this should not succeed: $*" >&2 && return 1; fi; }

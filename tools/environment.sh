#!/bin/sh
# Makes .venv with the pinned requirements and this checkout: sh tools/environment.sh trial|dev
# PYTHON_FOR_VENV names an interpreter of your choice. Safe to repeat; interrupted, it begins again where it must.
set -eu
cd "$(dirname "$0")/.."
profile=$1

usable() { # CPython for which the requirements are pinned, able to make an environment
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
}

advice() {
    # shellcheck source=/dev/null
    distribution=$(if [ -r /etc/os-release ]; then . /etc/os-release; echo "${ID:-} ${ID_LIKE:-}"; fi)
    case " $distribution " in
        *' debian '* | *' ubuntu '*) echo 'sudo apt install python3 python3-venv' ;;
        *' arch '*) echo 'sudo pacman -S python' ;;
        *' fedora '* | *' rhel '*) echo 'sudo dnf install python3' ;;
        *) echo 'install Python 3.11 or newer with its venv module, or say which: make PYTHON_FOR_VENV=/path/to/python3' ;;
    esac
}

find_python() {
    for candidate in ${PYTHON_FOR_VENV:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "llama-orch needs Python 3.11 to 3.14 with venv: $(advice)" >&2
    return 1
}

install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --retries 10 --timeout 60 \
        --no-deps --no-build-isolation --use-pep517 "$@"
}

if ! usable .venv/bin/python || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    python=$(find_python)
    echo "environment: .venv with $("$python" --version)" >&2
    rm -rf .venv
    "$python" -m venv .venv
fi
rm -f ".venv/$profile"
echo "environment: requirements/$profile.txt" >&2
install --require-hashes -r requirements/build.txt
install --require-hashes -r "requirements/$profile.txt"
install --editable .
touch ".venv/$profile"
[ "$profile" = trial ] || touch .venv/trial # dev holds all of trial

#!/bin/sh
# Pins the real engines of the tests: requirements/engines/<engine>.in, with the .overrides beside it, becomes .txt.
# Called by `make lock-engines`. torch for CPUs is looked for where tools/engine_environment.sh looks.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.cache/uv/bin/uv}

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$(dirname "$uv")/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --python-version 3.11 --dest "$wheels" 'torch==2.13.0+cpu' 2> /dev/null || backend='--torch-backend cpu'

for file in requirements/engines/*.in; do
    engine=$(basename "$file" .in)
    options="--find-links $wheels"
    case $engine in
        triton) options="$options --no-deps" ;; # of nvidia-pytriton only the server is used, which needs nothing else
        vllm) options="$options ${backend-} --override requirements/engines/vllm.overrides" ;;
    esac
    # shellcheck disable=SC2086
    "$uv" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_35 --generate-hashes \
        --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock-engines' "$@" \
        $options "$file" --output-file "requirements/engines/$engine.txt"
done

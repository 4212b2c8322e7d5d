#!/bin/sh
# Pins what `make bench` measures beside ours anew: requirements/bench-litellm.in becomes .txt. Called by `make lock-bench`.
set -eu
cd "$(dirname "$0")/.."
"${UV:-.cache/uv/bin/uv}" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_35 \
    --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
    --custom-compile-command 'make lock-bench' "$@" \
    requirements/bench-litellm.in --output-file requirements/bench-litellm.txt

#!/bin/sh
# Makes .cache/bench/litellm with what `make bench` measures beside ours. The packages are those of
# requirements/bench-litellm.txt, for Linux on x86-64. Safe to repeat: done once, it does nothing until they change.
# Where they cannot be had, says so in one line and takes nothing from the rest of the benchmark.
set -eu
cd "$(dirname "$0")/.."
home=.cache/bench/litellm
pins=requirements/bench-litellm.txt
made=$home/requirements.txt
uv=${UV:-.cache/uv/bin/uv}
export UV_CACHE_DIR="${UV_CACHE_DIR:-.cache/bench/packages}"
# An interpreter that belongs to uv would stay in this one's home.
export UV_PYTHON_INSTALL_DIR="${UV_PYTHON_INSTALL_DIR:-.cache/bench/python}"

lacks() {
    echo "bench: no LiteLLM here: $1" >&2
    rm -rf "$home"
    exit
}

cmp -s "$pins" "$made" && exit
[ "$(uname -sm)" = 'Linux x86_64' ] || lacks "its packages are pinned for Linux on x86-64, and this is $(uname -sm)"
echo "bench: LiteLLM from $pins" >&2
rm -rf "$home"
"$uv" venv --quiet --python 3.11 "$home" 2> /dev/null || lacks "it needs Python 3.11, which is neither here nor to be had"
"$uv" pip install --quiet --python "$home/bin/python" --no-deps --require-hashes --requirement "$pins" \
    || lacks "its packages cannot be had"
cp "$pins" "$made"

#!/bin/sh
# Makes .cache/engines/<engine> with a real engine for the tests: sh tools/engine_environment.sh triton|vllm|ray
# The packages are those of requirements/engines/<engine>.txt, for Linux on x86-64. Safe to repeat: done once, it does
# nothing until its requirements change. Says in one line what this machine lacks.
set -eu
cd "$(dirname "$0")/.."
engine=$1
home=.cache/engines/$engine
pins=requirements/engines/$engine.txt
made=$home/requirements.txt # the tests compare it with the pins
uv=${UV:-.cache/uv/bin/uv}
python=3.11                 # the one for which all of these are published
torch='torch==2.13.0+cpu'
export UV_CACHE_DIR="${UV_CACHE_DIR:-.cache/engines/packages}"
# An interpreter that belongs to uv would stay in this one's home.
export UV_PYTHON_INSTALL_DIR="${UV_PYTHON_INSTALL_DIR:-.cache/engines/python}"
# 2.5 GB come over networks that stand still or break off now and then.
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}" UV_HTTP_RETRIES="${UV_HTTP_RETRIES:-10}"

lacks() {
    echo "engines: no $engine here: $1" >&2
    exit 1
}

install() {
    "$uv" pip install --quiet --python "$home/bin/python" --no-deps --require-hashes --requirement "$pins" "$@"
}

# The published server, its Python backend, and beside it the stub for this version of Python, as tritonserver wants them.
arrange_triton() {
    server=$(echo "$home"/lib/python*/site-packages/pytriton/tritonserver)
    cp "$server/python_backend_stubs/$python/triton_python_backend_stub" "$server/backends/python/"
    folder=$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
    echo "$folder" > "$home/libpython" # where the stub finds libpython
    LD_LIBRARY_PATH=$folder ldd "$server/backends/python/triton_python_backend_stub" | grep 'not found' >&2 \
        && lacks "its Python backend needs libpython$python.so: apt-get install libpython$python"
    return 0
}

# torch for CPUs is not on the registry of all packages: from wherever this machine's pip finds it, else from torch's own.
install_vllm() {
    wheels=.cache/engines/wheels
    if "$(dirname "$uv")/python" -m pip download --quiet --disable-pip-version-check --retries 10 --timeout 60 \
        --no-deps --only-binary :all: --python-version "$python" --dest "$wheels" "$torch" 2> /dev/null; then
        install --find-links "$wheels"
    else
        install --torch-backend cpu
    fi
    rm -rf "$wheels"
}

cmp -s "$pins" "$made" && exit
[ "$(uname -sm)" = 'Linux x86_64' ] || lacks "it is published for Linux on x86-64, and this is $(uname -sm)"
echo "engines: $engine from $pins" >&2
rm -rf "$home"
"$uv" venv --quiet --python "$python" "$home" 2> /dev/null || lacks "it needs Python $python, which is neither here nor to be had"
case $engine in
    vllm) install_vllm ;;
    *) install ;;
esac || lacks "its packages cannot be had"
[ "$engine" != triton ] || arrange_triton
cp "$pins" "$made"

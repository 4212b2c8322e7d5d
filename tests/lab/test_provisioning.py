"""From a configuration to an answer, with nothing prepared: an engine built from source, and one in a container.

The engine is llama.cpp of a real git repository, built by the product's own plan; its image is made of that very build,
pushed to a real registry and pinned by digest. Profile trial: there is no GPU here, and the engine is told so.
"""

import json
import re

import pytest

from tests.lab.host import REGISTRY, Lab
from tests.support.llamacpp_source import KEPT, kept, llamacpp_repository

pytestmark = [pytest.mark.needs("git", "cmake", "g++", "ninja"), pytest.mark.timeout(1200), pytest.mark.slow]

PRODUCT = r"""
. "$CHECKOUT/tests/lab/containers.sh"
. "$CHECKOUT/tests/lab/product.sh"
use_podman
export CCACHE_DIR=$HOME/ccache LLORCH_API_TOKEN=a-token-of-this-test-and-no-other
token=$LLORCH_API_TOKEN
cp -r "$REPOSITORY" "$HOME/llama.cpp.git" # git trusts a user's own repositories only
[ ! -d "$KEPT/ccache" ] || cp -r "$KEPT/ccache" "$CCACHE_DIR"
model=$CHECKOUT/llama_orch/trial/haiku.gguf
orch() { "$PREFIX/bin/llama-orch" "$@"; }
mkdir -p "${config%/*}"

# write_config DIGEST: one pool from source, one from an image.
write_config() {
  cat > "$config" << YAML
profile: trial
pools:
  - id: built
    engine: llamacpp
    model: "$model"
    ctx: 512
    provisioning:
      mode: source
      source: {repo: "file://$HOME/llama.cpp.git", ref: master}
  - id: contained
    engine: llamacpp
    model: "$model"
    ctx: 512
    provisioning:
      mode: container
      container: {image: "$registry/lab/llama", digest: "$1"}
YAML
}

# make_image PROGRAM: the program with the libraries that it needs, and nothing else.
make_image() {
  local root library
  root=$(mktemp -d)
  mkdir -p "$root/app"
  cp "$1" "$root/app/llama-server"
  for library in $(ldd "$1" | grep -o '/[^ )]*'); do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
  done
  push_llama "$root"
}
push_llama() {
  eventually 10 curl --silent --fail "http://$registry/v2/"
  tar -C "$1" --create . | podman import --quiet --change 'ENTRYPOINT ["/app/llama-server"]' - "$registry/lab/llama" \
    > /dev/null
  podman push --quiet --digestfile "$1.digest" "$registry/lab/llama"
  podman image rm --force "$registry/lab/llama" > /dev/null
  digest=$(cat "$1.digest")
}

# both_ready: as pool-managerd says now.
both_ready() { [ "$(api /v1/pools | grep -o '"ready":true' | wc -l)" = 2 ]; }
start() {
  "$PREFIX/bin/llama-orch" up > "$HOME/up.log" 2>&1 &
  up=$!
  eventually 60 both_ready || { cat "$HOME/up.log" >&2; return 1; }
}
# ask POOL: a task for this pool alone; its events on standard output.
ask() {
  api /v1/tasks --no-buffer -H 'Accept: text/event-stream' -H 'Content-Type: application/json' --data \
    '{"model_ref": "'"$model"'", "prompt": "A haiku about the autumn moon:", "max_tokens": 24, "seed": 1,
      "determinism": "strict", "placement": {"mode": "pin", "pool_id": "'"$1"'"}}'
}
containers() { podman ps --all --quiet --filter label=llama-orch.pool; }

write_config "sha256:$(printf '0%.0s' $(seq 64))"
orch plan > "$HOME/plan"
orch ensure --pool built --json > "$HOME/built" || { cat "$HOME/built" >&2; exit 1; }
program=$("$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)[0]["engine"]["bin_or_entry"])' < "$HOME/built")
make_image "$program"
write_config "$digest"
"""


@pytest.fixture(scope="module")
def settings() -> str:
    """What the scripts need of the machine: the repository, and what compilers have done before."""
    with kept():
        return f"REPOSITORY={llamacpp_repository().removeprefix('file://')} KEPT={KEPT}\n"


@pytest.mark.req(
    "ORCH-3800", "ORCH-3802", "ORCH-3805", "EP-03", "EP-18", "EP-19", "EP-20", "CR-03", "CR-05", "PM-01", "PM-07"
)
def test_a_pool_from_source_and_one_from_a_container_get_ready_answer_and_are_taken_over(
    lab: Lab, settings: str
) -> None:
    outcome = lab.check(
        settings
        + PRODUCT
        + r"""
start
for pool in built contained; do ask $pool > "$HOME/$pool.first"; done
api /v1/capabilities > "$HOME/capabilities"
orch preflight > "$HOME/preflight"

# A manager that is killed: both engines go on, and the next one has them.
manager=$(pgrep -f pool_managerd)
before=$(containers; cat "$XDG_RUNTIME_DIR/llama-orch/built.pid")
kill -KILL "$manager" "$up"
eventually 10 sh -c "! pgrep -f '[o]rchestratord'" || pkill -KILL -f '[o]rchestratord'
start
after=$(containers; cat "$XDG_RUNTIME_DIR/llama-orch/built.pid")
[ "$before" = "$after" ]
for pool in built contained; do ask $pool > "$HOME/$pool.second"; done

# A container that is killed comes back; on the way out nothing is left.
podman kill --signal KILL "$(containers)" > /dev/null
came_back() { api /v1/pools/contained/health | grep -q '"restarts":1'; }
eventually 30 came_back
eventually 30 both_ready
[ "$(containers)" != "${before%%$'\n'*}" ]
kill -TERM $up
wait $up || true
[ -z "$(containers)" ]
! pgrep -f '[l]lama-server'
cd "$HOME"
for file in plan built preflight capabilities {built,contained}.{first,second} up.log; do
  printf '\n=== %s\n' $file
  cat $file
done
cat .local/share/llama-orch/catalog/engines.json
""",
        gpus=0,
        hook=(REGISTRY,),
        limit_s=900,
    )
    shown = dict(re.findall(r"^=== (\S+)\n(.*?)(?=^=== |\Z)", outcome.stdout, re.MULTILINE | re.DOTALL))
    assert "build llama-server" in shown["plan"]
    built = json.loads(shown["built"])[0]["engine"]
    assert built["provisioning_mode"] == "source"
    texts = {
        name: tokens(shown[name]) for name in ("built.first", "built.second", "contained.first", "contained.second")
    }
    # The same build, the same model, the same seed: where it runs makes no difference.
    assert len(set(texts.values())) == 1
    assert texts["built.first"]
    pools = {pool["pool_id"]: pool for pool in json.loads(shown["capabilities"])["pools"]}
    assert pools["built"]["engine_version"] == built["engine_version"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", pools["contained"]["engine_digest"])


def tokens(stream: str) -> str:
    """The text of a stream of events, which ended as it should."""
    assert "event: end" in stream, stream
    found = re.findall(r"^event: token\n(?:id: \d+\n)?data: (.*)$", stream, re.MULTILINE)
    return "".join(json.loads(data)["t"] for data in found)

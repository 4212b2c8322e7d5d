"""From a configuration to an answer, with nothing prepared: an engine built from source, and one in a container.

The engine is llama.cpp of a real git repository, built by the product's own plan; its image is made of such a build,
pushed to a real registry and pinned by digest. Profile trial: there is no GPU here, and the engine is told so.
"""

import json
import re
from pathlib import Path

import msgspec
import pytest

from pool_managerd.attempt import STEPS
from tests.lab.host import REGISTRY, Lab
from tests.support.llamacpp_build import CCACHE, PLACE, Built

pytestmark = [pytest.mark.needs("git", "cmake", "gcc", "g++", "ninja"), pytest.mark.timeout(1200), pytest.mark.slow]

PRODUCT = r"""
. "$CHECKOUT/tests/lab/containers.sh"
. "$CHECKOUT/tests/lab/product.sh"
use_podman
export LLORCH_API_TOKEN=a-token-of-this-test-and-no-other
token=$LLORCH_API_TOKEN
model=$CHECKOUT/llama_orch/trial/haiku.gguf
orch() { "$PREFIX/bin/llama-orch" "$@"; }
mkdir -p "${config%/*}"

# write_config DIGEST: one pool from source, one from an image.
write_config() {
  cat > "$config" << YAML
profile: trial
paths: {cache: "$PLACE/cache"}
pools:
  - id: built
    engine: llamacpp
    model: "$model"
    ctx: 512
    provisioning:
      mode: source
      source: {repo: "$REPOSITORY", ref: master}
  - id: contained
    engine: llamacpp
    model: "$model"
    ctx: 512
    provisioning:
      mode: container
      container: {image: "$registry/lab/llama", digest: "$1"}
YAML
}

# make_image PROGRAM: the program with the libraries that it needs, and a shell.
make_image() {
  local root library
  root=$(mktemp -d)
  mkdir -p "$root/app" "$root/bin"
  cp /bin/busybox "$root/bin/sh" # for nvidia-smi's stand-in
  cp "$1" "$root/app/llama-server"
  for library in $(ldd "$1" | grep -o '/[^ )]*'); do
    mkdir -p "$root${library%/*}"
    cp -L "$library" "$root$library"
  done
  push_llama "$root"
}
push_llama() {
  eventually 30 curl --silent --fail "http://$registry/v2/"
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

"""

# From the source to an image, at the place where this machine has compiled it before: ccache knows it again.
FROM_SOURCE = r"""
export CCACHE_DIR=$HOME/ccache
[ ! -d "$COMPILED" ] || cp -r "$COMPILED" "$CCACHE_DIR"
write_config "sha256:$(printf '0%.0s' $(seq 64))"
orch plan > "$HOME/plan"
orch ensure --pool built --json > "$HOME/built" || { cat "$HOME/built" >&2; exit 1; }
program=$("$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)[0]["engine"]["bin_or_entry"])' < "$HOME/built")
make_image "$program"
write_config "$digest"
"""

# The host's GPUs are device nodes with a CDI specification; what NVML says of them says the stand-in.
HOME = r"""
make_image "$PROGRAM"
uuid=GPU-00000000-0000-0000-0000-00000000000
mkdir "$HOME/nvml"
gcc -std=gnu11 -O1 -shared -fPIC -pthread -Wl,-soname,libnvidia-ml.so.1 -o "$HOME/nvml/libnvidia-ml.so.1" \
  "$CHECKOUT/tests/support/nvml/standin.c"
export NVML_STANDIN=$HOME/nvml/state
# gpus [PROCESSES]: two GPUs, and who has memory on them.
gpus() {
  PYTHONPATH=$CHECKOUT "$PYTHON" - "$HOME/nvml" "$uuid" "$@" << 'CODE'
import sys
from pathlib import Path
from tests.support.nvml import GIB, Card, FakeGpus
folder, uuid, *holding = sys.argv[1:]
cards = tuple(Card(id=n, uuid=f"{uuid}{n}", name="NVIDIA Stand-in", total=24 * GIB) for n in range(2))
machine = FakeGpus(Path(folder, "libnvidia-ml.so.1"), Path(folder, "state"), cards)
for device in holding:
    machine.process_env(int(device), "CUDA_VISIBLE_DEVICES", f"{uuid}1", 2 * GIB)
CODE
}
cat > "$config" << YAML
profile: home
logging: {level: debug}
pools:
  - id: contained
    engine: llamacpp
    model: "$model"
    ctx: 512
    devices: [1]
    restart: {initial_ms: 100, max_ms: 200, max_failures: 100}
    provisioning:
      mode: container
      container: {image: "$registry/lab/llama", digest: "$digest"}
YAML
# Only the manager gets the stand-in: what it starts must not load it.
manage() { LD_LIBRARY_PATH=$HOME/nvml "$PREFIX/bin/pool-managerd" --config "$config" > "$HOME/log" 2>&1 & manager=$!; }
said() { grep -q "$1" "$HOME/log"; }
"""


@pytest.fixture
def built(llamacpp_build: str) -> Built:
    """The build of the whole of llama.cpp."""
    return msgspec.json.decode(llamacpp_build, type=Built)


@pytest.fixture
def program(llamacpp_build: str) -> Path:
    """Its llama-server."""
    (program,) = (PLACE / "cache/llamacpp/builds").glob("*/llama-server")
    return program


@pytest.mark.req(
    "ORCH-3800", "ORCH-3802", "ORCH-3805", "EP-03", "EP-18", "EP-19", "EP-20", "CR-03", "CR-05", "PM-01", "PM-07"
)
def test_a_pool_from_source_and_one_from_a_container_get_ready_answer_and_are_taken_over(
    lab: Lab, built: Built, tmp_path: Path
) -> None:
    repository = built.repository.removeprefix("file://")
    lent = tmp_path / "lent.hook"  # git trusts a user's own repositories only
    lent.write_text(
        f"cp -r {repository} /run/repository; mount --bind /run/repository {repository}\n"
        f"mount -t tmpfs -o mode=700 place {PLACE}; chown -R lab: {repository} {PLACE}\n"
    )
    outcome = lab.check(
        f"REPOSITORY={built.repository} PLACE={PLACE} COMPILED={CCACHE['CCACHE_DIR']}\n"
        + PRODUCT
        + FROM_SOURCE
        + r"""
start
for pool in built contained; do ask $pool > "$HOME/$pool.first"; done
api /v1/capabilities > "$HOME/capabilities"
orch preflight > "$HOME/preflight"

# A manager that is killed: both engines go on, and the next one has them.
manager=$(pgrep -f pool_managerd)
before=$(containers; cat "$XDG_RUNTIME_DIR/llama-orch/built.pid")
kill -KILL "$manager" "$up"
eventually 30 sh -c "! pgrep -f '[o]rchestratord'" || pkill -KILL -f '[o]rchestratord'
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
        hook=(REGISTRY, lent),
        limit_s=900,
    )
    shown = dict(re.findall(r"^=== (\S+)\n(.*?)(?=^=== |\Z)", outcome.stdout, re.MULTILINE | re.DOTALL))
    assert "build llama-server" in shown["plan"]
    engine = json.loads(shown["built"])[0]["engine"]
    assert engine["provisioning_mode"] == "source"
    texts = {
        name: tokens(shown[name]) for name in ("built.first", "built.second", "contained.first", "contained.second")
    }
    # The same build, the same model, the same seed: where it runs makes no difference.
    assert len(set(texts.values())) == 1
    assert texts["built.first"]
    pools = {pool["pool_id"]: pool for pool in json.loads(shown["capabilities"])["pools"]}
    assert pools["built"]["engine_version"] == engine["engine_version"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", pools["contained"]["engine_digest"])


@pytest.mark.req("ORCH-3801", "ORCH-3803", "ORCH-3804", "ORCH-3820", "PM-06")
def test_a_container_is_proved_on_its_gpu_and_refused_on_the_cpu_or_on_another_card(lab: Lab, program: Path) -> None:
    outcome = lab.check(
        f"PROGRAM={program}\n"
        + PRODUCT
        + HOME
        + r"""
for holding in '' 0 1; do
  gpus $holding
  manage
  case $holding in
    '') wanted='failed): on_cpu' ;;
    0) wanted='failed): wrong_device' ;;
    1) wanted='probing -> ready' ;;
  esac
  eventually 60 said "$wanted" || { cat "$HOME/log" >&2; exit 1; }
  if [ "$holding" = 1 ]; then
    pid=$(podman inspect --format '{{.State.Pid}}' "$(containers)")
    tr '\0' '\n' < /proc/$pid/environ | grep -E 'FAKE_GPU|CUDA_VISIBLE'
    cat "$XDG_RUNTIME_DIR/llama-orch/engines/contained.json"
  fi
  kill -TERM $manager
  wait $manager
  [ -z "$(containers)" ]
done
""",
        gpus=2,
        hook=(REGISTRY,),
        limit_s=600,
    )
    assert "CUDA_VISIBLE_DEVICES=GPU-00000000-0000-0000-0000-000000000001" in outcome.stdout
    assert "FAKE_GPU_1=1" in outcome.stdout
    assert "FAKE_GPU_0" not in outcome.stdout


@pytest.mark.req("PM-07", "CR-05")
def test_a_manager_that_is_killed_in_any_step_leaves_one_container_to_the_next(lab: Lab, program: Path) -> None:
    lab.check(
        f"PROGRAM={program}\n"
        + PRODUCT
        + HOME
        + f"""
gpus 1
for step in {" ".join(STEPS)}; do
  manage
  eventually 60 said "step $step" || {{ cat "$HOME/log" >&2; exit 1; }}
  kill -KILL $manager
  wait $manager || true
  manage
  eventually 60 said 'probing -> ready' || {{ cat "$HOME/log" >&2; exit 1; }}
  [ "$(containers | wc -w)" = 1 ] || {{ echo "$step: $(containers)" >&2; exit 1; }}
  kill -TERM $manager
  wait $manager
  [ -z "$(containers)" ]
  [ -z "$(ls "$HOME/.local/state/llama-orch/handles")" ]
done
""",
        gpus=2,
        hook=(REGISTRY,),
        limit_s=900,
    )


def tokens(stream: str) -> str:
    """The text of a stream of events, which ended as it should."""
    assert "event: end" in stream, stream
    found = re.findall(r"^event: token\n(?:id: \d+\n)?data: (.*)$", stream, re.MULTILINE)
    return "".join(json.loads(data)["t"] for data in found)

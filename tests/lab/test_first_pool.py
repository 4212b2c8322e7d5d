"""docs/first-pool.md, docs/two-gpus.md and TLS of docs/security.md, typed with two cards, and taken away again.

The cards are the stand-in's for NVML. A model's reference becomes a file that is here, and each pool gets a
llama-server that is here in place of the build: nothing else of the pages is changed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from llama_orch.trial import haiku_model_path
from tests.contract.blocks import Command, blocks, commands
from tests.lab.host import Lab
from tests.support import gpu_llama_server
from tests.support.nvml import build

pytestmark = [
    pytest.mark.req("OP-01", "OP-02", "OP-05", "HP-27"),
    pytest.mark.timeout(900),
    pytest.mark.slow,
    pytest.mark.needs("gcc", "openssl"),
]

FIRST, TWO, UPGRADE, SECURITY = (f"docs/{name}.md" for name in ("first-pool", "two-gpus", "upgrade", "security"))
HOST, LAN = "192.168.1.10", "10.77.0.1"
REFERENCE = re.compile(r"hf:\S+?\.gguf")
PREPARED = r"""
. "$CHECKOUT/tests/lab/product.sh"
export PATH="$PREFIX/bin:$PATH" SYSTEMD_PAGER= LD_LIBRARY_PATH=@NVML@ NVML_STANDIN=$HOME/gpus
ready() { api /v1/pools > /tmp/pools && [ "$(grep -o '"ready":true' /tmp/pools | wc -l)" = "$1" ]; }
type_this() {
  local status=0 printed
  printed=$(bash -c "$1" 2>&1) || status=$?
  "$PYTHON" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$1" "$status" "$printed"
}
# account: what the units need to see the stand-in for the driver.
account() {
  mkdir -m 700 ~/.config/llama-orch
  umask 077
  printf '%s\n' "LD_LIBRARY_PATH=$LD_LIBRARY_PATH" "NVML_STANDIN=$NVML_STANDIN" > ~/.config/llama-orch/environment
  umask 022
}
{
  printf '%s\n' 'init 0' 'loads 0' 'driver 550.163.01' 'cuda 12040'
  for id in 0 1; do
    uuid=GPU-00000000-0000-0000-0000-00000000000$id
    printf '%s\n' "device $id" "uuid $uuid" "name Card $id" "total $(((24 - 12 * id) << 30))" 'used 0' 'utilization 0' \
      'capability 8.6' 'error 0' 'events 1' "process-env $id CUDA_VISIBLE_DEVICES=$uuid $((2 << 30))"
  done
} > ~/gpus
mkdir -p ~/.config/systemd/user ~/.cache ~/.local/share ~/.local/state
find ~ | sort > /tmp/before
account
"""
STARTED = """
token=$(llama-orch token --show)
eventually 60 ready {pools}
"""
TRACELESS = """
eventually 30 nothing_of_ours
find ~ | sort > /tmp/after
comm -13 /tmp/before /tmp/after > /tmp/left
"$PYTHON" -c 'import json; print(json.dumps(["left", "0", open("/tmp/left").read()]))'
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a llama-server and the stand-in for the driver."""
    folder = tmp_path_factory.mktemp("shown")
    shutil.copy(haiku_model_path(), folder / "model.gguf")
    gpu_llama_server.write(folder / "llama-server")
    build(folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    return folder


def of(page: str, mark: str, heading: str = "") -> list[Command]:
    """The commands of a page, or those behind one of its headings."""
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8").partition(heading)[2] if heading else ""
    found = [command for command in commands() if (command.block.page, command.block.mark) == (page, mark)]
    return [command for command in found if not heading or command.block.text in text]


def typed(command: Command, shown: Path) -> str:
    text = REFERENCE.sub(str(shown / "model.gguf"), command.text).replace(HOST, LAN)
    return f"type_this {shlex.quote(text)}\n"


def configured(page: str, shown: Path, **more: object) -> str:
    """The first configuration of a page becomes that of the user."""
    document = yaml.safe_load(next(block.text for block in blocks("yaml") if block.page == page))
    for pool in document["pools"]:
        pool["model"] = str(shown / "model.gguf")
        pool["provisioning"] = {"mode": "binary", "binary": {"path": str(shown / "llama-server")}}
    text = yaml.safe_dump(document | more)
    return f"cat > ~/.config/llama-orch/config.yaml << 'YAML'\n{text}YAML\n"


def first_pool(shown: Path) -> str:
    lines = []
    for command in of(FIRST, "gpu"):
        if command.text == "llama-orch doctor":
            lines.append(configured(FIRST, shown))
        if command.text == "systemctl --user restart orchestratord":
            lines.append(configured(FIRST, shown, server={"bind": "0.0.0.0:8080"}))
        lines.append(typed(command, shown))
        if "--now" in command.text or " restart " in command.text:
            lines.append(STARTED.format(pools=1))
    return "".join(lines) + "client curl --silent --fail --max-time 60 http://10.77.0.1:8080/healthz > /dev/null\n"


def with_tls(shown: Path) -> str:
    """The other machine, which shares this one's files, is the one on which the last block is typed."""
    [tls] = [block.text for block in blocks("yaml") if block.page == SECURITY and "tls:" in block.text]
    *here, export, files, pools = of(SECURITY, "later")
    lines = [typed(here[0], shown), configured(FIRST, shown, **yaml.safe_load(tls))]
    lines += [typed(command, shown) for command in here[1:]]
    there = f"{export.text}\n{files.text}\n{pools.text}"
    script = there.replace(HOST, LAN).replace("~", "$HOME")
    lines.append(
        f"there() {{ client env --ignore-environment HOME=~ PATH=$PATH bash -ec {shlex.quote(script)}; }}\n"
        "there_it_is() { there | grep 'gpu0.*ready' > /dev/null; }\n"
        "eventually 60 there_it_is\n"  # a pool takes a moment after a start; a person would look twice
    )
    return "".join(lines)


def two_gpus(shown: Path) -> str:
    lines = ["account\nllama-orch init > /dev/null\n", configured(TWO, shown)]
    for command in of(TWO, "gpu"):
        lines.append(typed(command, shown))
        if "--now" in command.text:
            lines.append(STARTED.format(pools=2))
    return "".join(lines)


def away(shown: Path) -> str:
    return "".join(typed(command, shown) for command in of(UPGRADE, "lab", "## Away")) + TRACELESS


def test_the_pages_lead_from_cards_to_answers_and_leave_no_trace(lab: Lab, shown: Path) -> None:
    prepared = PREPARED.replace("@NVML@", str(shown))
    script = prepared + first_pool(shown) + with_tls(shown) + away(shown) + two_gpus(shown) + away(shown)
    said = [
        json.loads(line) for line in lab.check(script, limit_s=600, gpus=2, lan=True, show=(shown,)).stdout.splitlines()
    ]
    # Before anything is started the doctor may say so, and nothing else.
    wrong = [each for each in said if each[1] != "0" and failed(each[2]) != ["daemons"]]
    assert wrong == []
    assert [printed for text, _, printed in said if text == "left"] == ["", ""]
    texts = [text for text, _, _ in said]
    assert "llama-orch plan" in texts
    assert sum("--pool" in text for text in texts) == 2
    assert sum(text == "llama-orch units remove" for text in texts) == 2
    made = next(printed for text, _, printed in said if text == "llama-orch init")
    assert "profile home: gpu0, gpu1" in made


def failed(printed: str) -> list[str]:
    """The checks that failed, where this is what a doctor printed."""
    return re.findall(r"^FAILED +(\w+):", printed, re.MULTILINE)

"""`llama-orch models` with both real daemons and a real engine: from this machine, and from another one."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.llama_orch.conftest import Outcome, run
from tests.support.hub import Hub, hub
from tests.support.installation import TOKEN, Installation
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.req("HP-20")]

REF = "hf:org/repo/epic.gguf"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory with a short name: a Unix socket below it has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lo-") as folder:
        yield Path(folder)


@pytest.fixture
async def the_hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with hub() as running:
        running.add("org/repo", {"epic.gguf": write_tiny_gguf(tmp_path / "epic.gguf", seed=2).read_bytes()})
        yield running


@pytest.fixture
async def installed(root: Path, the_hub: Hub) -> AsyncIterator[Installation]:
    installation = Installation(root, write_tiny_gguf(root / "tiny.gguf"))
    document = json.loads(installation.config.read_text())
    document["policy"] = {"outbound": {"allow": ["127.0.0.1"]}}
    installation.config.write_text(json.dumps(document))
    installation.environ["HF_ENDPOINT"] = the_hub.endpoint
    async with installation:
        yield await installation.up()


async def test_another_machines_models_are_listed_pulled_verified_retired_and_removed(
    installed: Installation, the_hub: Hub, tmp_path: Path
) -> None:
    async def far(*arguments: str, token: str = TOKEN) -> Outcome:
        url = f"http://127.0.0.1:{installed.port}"
        return await run(tmp_path, ["models", *arguments, "--url", url], LLORCH_API_TOKEN=token)

    _, row = (await far("list")).stdout.splitlines()
    assert (row.split("\t")[0], row.split("\t")[6]) == ("tiny", "trial")

    pulled = await far("pull", REF)
    digest = hashlib.sha256(the_hub.repositories["org/repo"].files["epic.gguf"]).hexdigest()
    assert pulled.status == 0, pulled.stderr
    assert pulled.stdout.startswith("epic is here: ")
    assert pulled.stdout.endswith(f", sha256:{digest}\n")
    assert f"sha256:{digest}" in (await far("show", REF)).stdout

    verified = await far("verify", "epic", "--json")
    assert (verified.status, json.loads(verified.stdout)["results"][0]["reason"]) == (0, "matched")

    assert await far("retire", "epic", "--reason", "too old") == (
        0,
        "epic is Retired (too old): it stays on the disk, and no pool starts with it\n",
        "",
    )
    assert await far("activate", "epic") == (0, "epic is Active\n", "")
    for command in (["retire"], ["rm", "--yes"]):
        refused = await far(*command, "tiny")
        assert (refused.status, refused.stdout) == (1, "")
        assert "pool trial" in refused.stderr

    (path,) = (installed.root / ".cache/llama-orch/models/hf").rglob("epic.gguf")
    assert await far("rm", "epic", "--yes") == (0, "removed epic and its files\n", "")
    assert not path.exists()
    unknown = await far("show", "tinny")
    assert (unknown.status, "did you mean 'tiny'?" in unknown.stderr) == (1, True)

    wrong = await far("pull", REF, "--digest", "a" * 64)
    assert (wrong.status, wrong.stdout) == (1, "")
    assert "a" * 64 in wrong.stderr
    assert (await far("list", token="another")).status == 1
    assert (await far("pull", REF, "--refresh")).status == 2


async def test_a_running_daemon_says_what_its_pools_use(installed: Installation) -> None:
    async def near(*arguments: str) -> Outcome:
        command = ["models", *arguments, "--config", str(installed.config)]
        more = {"LLORCH_API_TOKEN": TOKEN, "HF_ENDPOINT": installed.environ["HF_ENDPOINT"]}
        return await run(installed.root, command, **more, XDG_RUNTIME_DIR=installed.environ["XDG_RUNTIME_DIR"])

    refused = await near("rm", "tiny", "--yes")
    assert (refused.status, refused.stdout) == (1, "")
    assert "tiny is used by pool trial, and is not removed" in refused.stderr

    assert (await near("pull", REF)).status == 0
    reload = ["reload", "trial", "--model", REF, "--wait", "--config", str(installed.config)]
    done = await run(installed.root, reload, LLORCH_API_TOKEN=TOKEN)
    assert done.status == 0, done.stderr
    models = json.loads((await near("list", "--json")).stdout)["models"]
    assert {model["id"]: model["pools"] for model in models} == {"epic": ["trial"], "tiny": []}
    assert "epic is used by pool trial, and is not removed" in (await near("rm", "epic", "--yes")).stderr
    removed = await near("rm", "tiny", "--yes")
    assert removed.status == 0, removed.stderr
    copy = installed.root / "copy.gguf"
    copy.write_bytes(next((installed.root / ".cache/llama-orch/models/hf").rglob("epic.gguf")).read_bytes())
    assert (await near("pull", str(copy))).status == 0
    assert (await near("rm", "copy", "--yes")).status == 0, "the pool has the same bytes from elsewhere"
    assert (installed.root / "tiny.gguf").exists()


async def test_nobody_at_the_url_is_75(tmp_path: Path) -> None:
    for command in (["list"], ["pull", REF], ["rm", "--yes", "m"], ["show", "m"]):
        done = await run(tmp_path, ["models", *command, "--url", "http://127.0.0.1:9"])
        assert (done.status, done.stdout) == (75, ""), command
        assert "no answer from http://127.0.0.1:9" in done.stderr

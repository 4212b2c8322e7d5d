"""`llama-orch models pull` against a real server: shown, interrupted, killed, resumed, refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.integration.llama_orch.conftest import Outcome, environment, run, started
from tests.plugins.failures import OperatorSees
from tests.support.file_server import Knobs
from tests.support.hub import Hub, hub
from tests.support.terminal import Terminal, terminal
from tests.unit.model_provisioner.heads import write_model

pytestmark = [pytest.mark.req("MP-04"), pytest.mark.slow, pytest.mark.timeout(120)]

REF = "hf:org/repo/epic.gguf"
CONFIG = """\
profile: trial
server: {bind: "127.0.0.1:9"}
policy: {outbound: {allow: ["127.0.0.1"]}}
pools:
  - {id: trial, engine: llamacpp, model: other.gguf, provisioning: {mode: package, package: {name: xllamacpp}}}
"""
HELD = 4 << 20
"""So many bytes come before the server waits."""
SIZE = "21.7 MiB"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def epic(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model of some megabytes, whole."""
    return write_model(tmp_path_factory.mktemp("model") / "epic.gguf", vocabulary=150_000).read_bytes()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".config/llama-orch"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
async def the_hub(epic: bytes) -> AsyncIterator[Hub]:
    async with hub() as running:
        running.add("org/repo", {"epic.gguf": epic, "README.md": b"hello"})
        yield running


class Pull:
    """`llama-orch models pull` in a home, by way of a hub whose large files are held back after some bytes."""

    def __init__(self, home: Path, running: Hub, epic: bytes) -> None:
        self.home = home
        self.hub = running
        self.digest = f"sha256:{hashlib.sha256(epic).hexdigest()}"
        self.path = f"/repos/{self.digest.removeprefix('sha256:')}"
        self.environ = {"HF_ENDPOINT": running.endpoint}

    def hold(self) -> Knobs:
        """From now on the server waits after some bytes."""
        self.hub.cdn.knobs[self.path] = Knobs(hold_after=HELD)
        return self.hub.cdn.knobs[self.path]

    def let_go(self) -> None:
        self.hub.cdn.knobs.pop(self.path).released.set()

    async def __call__(self, *arguments: str, **more: str) -> Outcome:
        return await run(self.home, ["models", *arguments], **{**self.environ, **more})

    def begun(self, *arguments: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
        return started(self.home, ["models", "pull", *arguments], **self.environ)

    def on_terminal(self, *arguments: str, columns: int = 80, **more: str) -> AbstractAsyncContextManager[Terminal]:
        command = (sys.executable, "-m", "llama_orch", "models", *arguments)
        return terminal(command, environment(self.home, **self.environ, **more), self.home, columns=columns)

    @property
    def parts(self) -> list[Path]:
        return list((self.home / ".cache/llama-orch/models").rglob("*.part"))


@pytest.fixture
def pull(home: Path, the_hub: Hub, epic: bytes) -> Pull:
    return Pull(home, the_hub, epic)


async def said(process: asyncio.subprocess.Process, words: str) -> str:
    """Wait until a command said something beside its result."""
    assert process.stderr is not None
    heard = ""
    async with asyncio.timeout(50):
        while line := (await process.stderr.readline()).decode():
            heard += line
            if words in line:
                return heard
    raise AssertionError(f"{words!r} was never said:\n{heard}")


@pytest.mark.req("MP-01")
async def test_a_pull_is_told_in_some_lines_and_a_second_one_needs_no_network(pull: Pull) -> None:
    first = await pull("pull", REF)
    assert first.status == 0, first.stderr
    assert first.stdout == f"epic is here: {SIZE}, {pull.digest}\n"
    told = [line for line in first.stderr.splitlines() if line.startswith("epic.gguf: ")]
    assert told[0].endswith(f"/{SIZE}")
    assert told[-1].startswith(f"epic.gguf: {SIZE}, all of it")
    assert len(first.stderr.splitlines()) < 20
    asked = len(pull.hub.server.asked)
    again = await pull("pull", REF)
    assert again.stdout == f"epic is here already, and nothing was fetched: {SIZE}, {pull.digest}\n"
    assert "epic.gguf: " not in again.stderr
    assert len(pull.hub.server.asked) == asked
    listed = json.loads((await pull("list", "--json")).stdout)["models"][0]
    assert (listed["id"], listed["ref"], listed["fetched"], listed["here"]) == ("epic", REF, True, True)


@pytest.mark.req("MP-06")
async def test_a_pool_keeps_its_model_that_was_pulled_by_another_reference_as_well(home: Path, pull: Pull) -> None:
    path = home / ".config/llama-orch/config.yaml"
    path.write_text(path.read_text().replace("other.gguf", '"hf:org/repo"'))
    for ref in ("hf:org/repo", REF):
        assert (await pull("pull", ref)).status == 0
    listed = json.loads((await pull("list", "--json")).stdout)["models"][0]
    assert (listed["ref"], listed["pools"]) == (REF, ["trial"])
    refused = await pull("rm", "epic", "--yes")
    assert (refused.status, "epic is used by pool trial" in refused.stderr) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
async def test_an_interrupted_pull_goes_on_where_it_stopped(pull: Pull, number: signal.Signals) -> None:
    pull.hold()
    async with pull.begun(REF) as process:
        await said(process, "epic.gguf: 1")
        process.send_signal(number)
        stdout, stderr = await process.communicate()
    assert stdout == b""
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert stderr.decode().splitlines()[-1] == "llama-orch: ended; run it again: it goes on where it stopped"
    assert [path.name for path in pull.parts] == ["epic.gguf.part"]
    assert json.loads((await pull("list", "--json")).stdout)["models"] == []
    pull.let_go()
    done = await pull("pull", REF)
    assert done.status == 0, done.stderr
    assert pull.digest in done.stdout
    assert "going on after " in done.stderr
    began, went_on = pull.hub.cdn.starts(pull.path)
    assert began == 0
    assert went_on >= 1 << 20  # what was said to be here was on the disk
    assert pull.parts == []


@pytest.mark.req("MP-03")
async def test_a_wrong_digest_is_refused_and_nothing_is_catalogued(pull: Pull, operator_sees: OperatorSees) -> None:
    done = await pull("pull", REF, "--digest", "a" * 64)
    assert (done.status, done.stdout) == (1, "")
    operator_sees("cli/models-pull-digest", done.stderr)
    assert json.loads((await pull("list", "--json")).stdout)["models"] == []
    unreadable = await pull("pull", REF, "--digest", "sha256:none")
    assert unreadable.status == 1
    assert "is no sha256 digest" in unreadable.stderr


@pytest.mark.req("MP-02")
async def test_no_network_is_75_and_says_so(pull: Pull, operator_sees: OperatorSees) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        done = await pull("pull", REF, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert (done.status, done.stdout) == (75, "")
    operator_sees("cli/models-pull-no-network", done.stderr, port=str(port))


@pytest.mark.req("HP-23")
async def test_what_the_policy_denies_is_not_asked_for(pull: Pull, home: Path, operator_sees: OperatorSees) -> None:
    (home / ".config/llama-orch/config.yaml").write_text(CONFIG.replace("allow:", "deny:"))
    done = await pull("pull", REF)
    assert (done.status, done.stdout) == (1, "")
    operator_sees("cli/models-pull-denied", done.stderr)
    assert pull.hub.server.asked == []


@pytest.mark.req("MP-02")
async def test_what_is_not_there_is_told_with_what_is(pull: Pull, operator_sees: OperatorSees) -> None:
    done = await pull("pull", "hf:org/repo/epik.gguf")
    assert (done.status, done.stdout) == (1, "")
    operator_sees("cli/models-pull-no-such-file", done.stderr)
    as_json = await pull("pull", "hf:org/nothing", "--json")
    assert (as_json.status, as_json.stderr) == (1, "")
    assert json.loads(as_json.stdout)["error"]["code"] == "MODEL_FETCH"


@pytest.mark.req("EP-13")
async def test_a_token_comes_from_the_environment_and_is_shown_nowhere(pull: Pull) -> None:
    pull.hub.repositories["org/repo"].private = True
    assert (await pull("pull", REF)).status == 1
    done = await pull("pull", REF, HF_TOKEN=pull.hub.token)
    assert done.status == 0, done.stderr
    shown = await pull("show", "epic", HF_TOKEN=pull.hub.token)
    secrets = (pull.hub.token, "sesame")
    assert not any(secret in text for secret in secrets for text in (done.stdout, done.stderr, shown.stdout))
    written = [path for path in pull.home.rglob("*") if path.is_file()]
    assert not any(secret.encode() in path.read_bytes()[: 1 << 20] for secret in secrets for path in written)


async def test_a_pinned_model_is_kept_and_a_refresh_says_what_has_changed(pull: Pull) -> None:
    done = await pull("pull", REF, "--pin", "--json")
    assert done.status == 0, done.stdout
    assert (json.loads(done.stdout)["pinned"], json.loads(done.stdout)["downloaded"]) == (True, True)
    assert "pinned: never removed to make room" in (await pull("show", "epic")).stdout
    same = await pull("pull", REF, "--refresh")
    assert same.status == 0
    assert "has not changed" in same.stderr


@pytest.mark.req("MP-06")
async def test_room_is_made_for_a_model_and_none_is_made_that_cannot_be(
    pull: Pull, home: Path, epic: bytes, operator_sees: OperatorSees
) -> None:
    pull.hub.add("org/other", {"other.gguf": epic[:-1] + b"\1"})
    path = home / ".config/llama-orch/config.yaml"
    path.write_text(f"{CONFIG}models: {{max_bytes: {len(epic) * 3 // 2}}}\n")
    assert (await pull("pull", REF)).status == 0
    second = await pull("pull", "hf:org/other/other.gguf")
    assert second.status == 0, second.stderr
    assert "removed epic from the cache" in second.stderr
    assert [model["id"] for model in json.loads((await pull("list", "--json")).stdout)["models"]] == ["other"]
    path.write_text(f"{CONFIG}models: {{max_bytes: 1000000}}\n")
    refused = await pull("pull", REF)
    assert (refused.status, refused.stdout) == (1, "")
    operator_sees("cli/models-pull-no-room", refused.stderr)


@pytest.mark.parametrize(("columns", "bar"), [(80, True), (40, False)])
async def test_a_terminal_gets_a_row_that_is_drawn_anew_and_ctrl_c_ends_it_at_once(
    pull: Pull, columns: int, bar: bool
) -> None:
    knobs = pull.hold()
    async with pull.on_terminal("pull", REF, columns=columns, NO_COLOR="1") as screen:
        await screen.shows("MiB" if bar else " %")
        screen.type("\x03")
        assert await screen.ended() == 130
    knobs.released.set()
    rows = [line for line in screen.lines if line.startswith("epic.gguf ")]
    assert rows
    assert any("━" in row for row in rows) == bar
    assert max(len(row) for row in rows) <= columns
    assert "run it again: it goes on where it stopped" in "".join(screen.lines)
    assert "\x1b[3" not in screen.written, "NO_COLOR"


async def test_a_terminal_that_is_made_narrower_gets_what_fits(pull: Pull) -> None:
    pull.hold()
    async with pull.on_terminal("pull", REF, columns=80) as screen:
        await screen.shows("━")
        screen.resize(40)
        await screen.shows(" % ")
        pull.let_go()
        assert await screen.ended() == 0
    assert "epic is here" in screen.written


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("\x03", 130)])
async def test_a_person_is_asked_before_anything_is_removed(pull: Pull, answer: str, status: int) -> None:
    assert (await pull("pull", REF)).status == 0
    (path,) = (pull.home / ".cache/llama-orch/models/hf").rglob("epic.gguf")
    async with pull.on_terminal("rm", "epic") as screen:
        await screen.shows("[y/N] ")
        assert f"remove epic from the catalog? {SIZE} are freed" in " ".join(screen.lines)
        screen.type(answer)
        assert await screen.ended() == status
    assert path.exists() == (status != 0)
    assert ("removed epic" in screen.written) == (status == 0)

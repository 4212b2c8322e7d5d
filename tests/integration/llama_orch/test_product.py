"""The command line with both real daemons and a real engine."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daemon_core.token import create_token_file
from llama_orch.trial import trial_config
from tests.integration.llama_orch.conftest import environment, run, started
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.timeout(180)  # programs start one after the other


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a short name: a Unix socket below it has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lo-") as folder:
        yield Path(folder)


@pytest.fixture
def model(home: Path) -> Path:
    return write_tiny_gguf(home / "tiny.gguf")


def processes_that_name(text: str) -> list[str]:
    """The command lines on this machine with this text in them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile
    return [command for command in found if text in command]


@asynccontextmanager
async def demo(home: Path, *arguments: str) -> AsyncIterator[Process]:
    """The demo, whose temporary directory is below home."""
    environ = environment(home, TMPDIR=str(home))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llama_orch.demo", "--word", "rain", *arguments), stdout=PIPE, stderr=PIPE, env=environ
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def nothing_is_left(home: Path) -> bool:
    return processes_that_name(str(home)) == [] and list(home.glob("llama-orch-demo-*")) == []


async def test_the_demo_shows_the_same_answer_twice_and_leaves_nothing(home: Path, model: Path) -> None:
    async with demo(home, "--model", str(model), "--seed", "7") as process:
        stdout, stderr = await process.communicate()
    text = stdout.decode()
    assert (process.returncode, stderr.decode()) == (0, ""), text
    for word in ("Write a haiku about rain.", "seed 7", "queue position 0", "tokens/s", "identical", "nothing is left"):
        assert word in text
    assert nothing_is_left(home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_demo_can_be_interrupted(home: Path, model: Path, number: signal.Signals) -> None:
    os.truncate(model, 1 << 40)  # a hole of a terabyte: its digest keeps the pool from ever getting ready
    async with demo(home, "--model", str(model)) as process:
        assert process.stdout is not None
        async for line in process.stdout:
            if b"listens on" in line:
                break
        process.send_signal(number)
        _, stderr = await process.communicate()
    assert (process.returncode, stderr.decode()) == (130, "\ninterrupted; everything is stopped\n")
    assert nothing_is_left(home)


async def test_the_demo_says_why_it_failed(home: Path) -> None:
    broken = home / "broken.gguf"
    broken.write_bytes(b"GGUF and then nothing of use")
    async with demo(home, "--model", str(broken)) as process:
        _, stderr = await process.communicate()
    text = stderr.decode()
    assert process.returncode == 1
    assert "the demo failed: pool trial: model_invalid: " in text
    assert "pool-managerd | " in text
    assert "Traceback" not in text
    assert nothing_is_left(home)


class Installed:
    """A home with a trial configuration on a port of its own."""

    def __init__(self, home: Path, model: Path, port: int) -> None:
        bind = f"127.0.0.1:{port}"
        folder = home / ".config" / "llama-orch"
        create_token_file(folder / "api-token")
        (folder / "config.yaml").write_text(trial_config(model, bind))
        self.url = f"http://{bind}"


async def lines_until(stream: asyncio.StreamReader | None, *wanted: str) -> None:
    """Read until each of these was in some line."""
    assert stream is not None
    missing = set(wanted)
    while missing:
        line = (await stream.readline()).decode()
        assert line, f"it ended without saying {missing}"
        missing -= {word for word in missing if word in line}


@pytest.mark.req("OP-06")
async def test_up_run_doctor_and_down_without_any_manual_step(home: Path, model: Path, port: int) -> None:
    installed = Installed(home, model, port)
    async with started(home, ["up"]) as up:
        await lines_until(up.stdout, f"listening on {installed.url}")
        await lines_until(up.stderr, "pool trial is ready")

        asked = await run(home, ["run", "rain", "--seed", "5", "--max-tokens", "8", "--strict", "--json"])
        again = await run(home, ["run", "rain", "--seed", "5", "--max-tokens", "8", "--strict", "--json"])
        assert (asked.status, asked.stderr) == (0, "")
        first, second = json.loads(asked.stdout), json.loads(again.stdout)
        assert first["text"] == second["text"] != ""
        assert first["end"]["stream_sha256"] == second["end"]["stream_sha256"]
        assert first["started"]["profile"] == "trial"

        examined = await run(home, ["doctor"])
        assert examined.status == 0, examined.stdout
        assert "pool trial is ready" in examined.stdout
        assert "trial\tready\tllamacpp" in (await run(home, ["pools"])).stdout
        listed = await run(home, ["tasks"])
        assert [line.split("\t")[1] for line in listed.stdout.splitlines()] == ["STATE", "done", "done"]

        up.send_signal(signal.SIGINT)
        await up.communicate()
    assert up.returncode == 0
    assert processes_that_name(str(home)) == []


async def test_a_chat_goes_through_the_models_template(home: Path, model: Path, port: int) -> None:
    Installed(home, model, port)
    async with started(home, ["up"]) as up:
        await lines_until(up.stderr, "pool trial is ready")
        asked = await run(home, ["run", "rain", "--chat", "--max-tokens", "4", "--json"])
        assert asked.status == 0, asked.stdout
        up.terminate()
        await up.communicate()
    assert up.returncode == 0


async def test_up_ends_both_when_one_cannot_go_on(home: Path, model: Path, port: int) -> None:
    Installed(home, model, port)
    with socket.create_server(("127.0.0.1", port)):
        done = await run(home, ["up"])
    assert (done.status, done.stdout) == (1, "")
    assert f"orchestratord: cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    end = done.stderr.partition("llama-orch: orchestratord ended by itself (status 1), so both are stopped\n")[2]
    assert end == (
        f"orchestratord: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        "  hint: stop what uses the port (ss -ltnp shows it), or set server.bind\n"
    )
    assert processes_that_name(str(home)) == []


async def test_of_two_ups_at_once_one_serves(home: Path, model: Path, port: int) -> None:
    """Had both begun, one would have had the port and the other the manager's lock, and each would have ended."""
    installed = Installed(home, model, port)
    with (home / ".config" / "llama-orch" / "config.yaml").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused = await run(home, ["up"])
    assert (refused.status, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"llama-orch: another llama-orch up has {home}/.config/llama-orch/config.yaml already\n"
        "  hint: end that one first, or give this one a configuration with another server.bind and other paths:\n"
    )
    async with started(home, ["up"]) as first, started(home, ["up"]) as second, asyncio.TaskGroup() as group:
        ends = [group.create_task(each.wait()) for each in (first, second)]
        done, left = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert [each.result() for each in done] == [1]
        serving = second if ends[0] in done else first
        await lines_until(serving.stdout, f"listening on {installed.url}")
        serving.terminate()
        assert [await each for each in left] == [0]
    assert processes_that_name(str(home)) == []

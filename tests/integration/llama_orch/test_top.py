"""`llama-orch top` on a terminal of its own, and where there is none."""

import asyncio
import json
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import pytest
from aiohttp import web

from tests.integration.llama_orch.conftest import Cli, environment
from tests.support.ports import HeldPort
from tests.support.terminal import Terminal, terminal
from tests.support.waiting import until
from tests.unit.llama_orch import busy
from tests.unit.llama_orch.fake import TOKEN, FakeDaemon

TOP = [sys.executable, "-m", "llama_orch", "top", "--interval", "0.2"]
ON, OFF = "\x1b[?1049h", "\x1b[?1049l"
SHOW_CURSOR = "\x1b[?25h"


@pytest.fixture
def crowd(fake: FakeDaemon) -> FakeDaemon:
    fake.pool_list, fake.task_list, fake.series = busy.pools(), busy.tasks(), busy.SERIES
    return fake


@asynccontextmanager
async def watching(url: str, home: Path, **more: str) -> AsyncIterator[Terminal]:
    environ = environment(home, LLORCH_URL=url, LLORCH_API_TOKEN=TOKEN, TERM="xterm") | more
    async with terminal(TOP, environ, home, columns=100) as seen:
        yield seen


def given_back(seen: Terminal) -> bool:
    return seen.written.rindex(OFF) > seen.written.rindex(ON) and SHOW_CURSOR in seen.written[seen.written.rindex(ON) :]


async def test_a_thousand_tasks_are_shown_and_q_gives_the_terminal_back(
    crowd: FakeDaemon, url: str, tmp_path: Path
) -> None:
    async with watching(url, tmp_path) as seen:
        await seen.shows("996 queued")
        await seen.shows("more")
        seen.type("q")
        assert await seen.ended() == 0
    assert given_back(seen)
    assert "Traceback" not in seen.written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_gives_the_terminal_back(
    crowd: FakeDaemon, url: str, tmp_path: Path, number: signal.Signals
) -> None:
    async with watching(url, tmp_path) as seen:
        await seen.shows("996 queued")
        if number is signal.SIGINT:
            seen.type("\x03")
        else:
            seen.process.send_signal(number)
        assert await seen.ended() == 130
    assert given_back(seen)
    assert "Traceback" not in seen.written


async def test_another_size_is_used_at_once(crowd: FakeDaemon, url: str, tmp_path: Path) -> None:
    async with watching(url, tmp_path) as seen:
        await seen.shows("PRIORITY")
        seen.resize(50, 20)
        async with asyncio.timeout(50):
            while not narrow(seen.written):
                await seen.news()
        seen.type("q")
        assert await seen.ended() == 0


def narrow(written: str) -> bool:
    """Whether the last whole picture is one for few columns."""
    *_, last, _ = ["", "", *written.split("\x1b[H")]
    return "TOKENS/S" in last and "PRIORITY" not in last


async def test_a_daemon_that_goes_away_and_comes_back_is_waited_for(crowd: FakeDaemon, tmp_path: Path) -> None:
    async with Returning(crowd) as server, watching(f"http://127.0.0.1:{server.port}", tmp_path) as seen:
        await seen.shows("996 queued")
        await server.stop()
        await seen.shows("trying again")
        assert "996 queued" in seen.written[seen.written.rindex("trying again") - 400 :]
        crowd.task_list = busy.tasks(20)
        crowd.pool_list = (busy.pool("gpu9"),)
        await server.start()
        await seen.shows("16 queued")
        seen.type("q")
        assert await seen.ended() == 0


async def test_it_may_be_there_before_the_daemon_and_a_wrong_token_is_said(
    crowd: FakeDaemon, url: str, tmp_path: Path
) -> None:
    async with watching("http://127.0.0.1:9", tmp_path) as seen:
        await seen.shows("trying again")
        seen.type("q")
        assert await seen.ended() == 0
    async with watching(url, tmp_path, LLORCH_API_TOKEN="another") as seen:
        assert await seen.ended() == 1
        await seen.shows("MISSING_TOKEN")
    assert given_back(seen)


async def test_ctrl_z_gives_the_terminal_back_until_fg(crowd: FakeDaemon, url: str, tmp_path: Path) -> None:
    async with watching(url, tmp_path) as seen:
        await seen.shows("996 queued")
        seen.process.send_signal(signal.SIGTSTP)
        await seen.shows(OFF)
        await until(lambda: procfs_state(seen.process.pid) == "T", "the stop")
        before = len(seen.written)
        seen.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(50):
            while ON not in seen.written[before:]:
                await seen.news()
        seen.type("q")
        assert await seen.ended() == 0
    assert given_back(seen)


@pytest.mark.parametrize("more", [{"TERM": "dumb"}, {"TERM": "unknown"}])
async def test_a_dumb_terminal_gets_one_look(crowd: FakeDaemon, url: str, tmp_path: Path, more: dict[str, str]) -> None:
    async with watching(url, tmp_path, **more) as seen:
        assert await seen.ended() == 0
        text = await seen.all_written()
    assert "\x1b" not in seen.written
    assert "996" in text


async def test_a_pipe_and_json_get_one_look(crowd: FakeDaemon, cli: Cli) -> None:
    done = await cli("top")
    assert (done.status, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout.replace("さくら-\x1b[31mtask", "")
    shown = json.loads((await cli("top", "--json")).stdout)
    assert (shown["queue_depth"], len(shown["queued"]), len(shown["running"])) == (996, 996, 4)
    assert (await cli("top", "--once", "--url", "http://127.0.0.1:9")).status == 75


async def test_the_lines_of_the_terminal_are_edited_again_afterwards(
    crowd: FakeDaemon, url: str, tmp_path: Path
) -> None:
    """The settings of the terminal itself, not only what is on it."""
    async with watching(url, tmp_path) as seen:
        await seen.shows("996 queued")
        assert termios.tcgetattr(seen.master)[3] != seen.given[3]
        seen.type("q")
        assert await seen.ended() == 0
        assert termios.tcgetattr(seen.master)[3] == seen.given[3]


def procfs_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


class Returning:
    """The stand-in on a port that it comes back to."""

    def __init__(self, fake: FakeDaemon) -> None:
        self._fake = fake
        self._runner: web.AppRunner | None = None
        self._held = HeldPort()
        self.port = self._held.number

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self._held.close()

    async def start(self) -> None:
        self._runner = web.AppRunner(self._fake.app(), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

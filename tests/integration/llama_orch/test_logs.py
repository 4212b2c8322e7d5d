"""`llama-orch logs` as a user runs it, with a journal of our own making and with the files of the pools."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from llama_orch.cli import main
from tests.integration.llama_orch.conftest import Outcome, environment, started
from tests.support.terminal import terminal

# As the real one, it ends when the one who follows is gone, however that came.
JOURNAL = """\
#!/bin/sh
echo "$@" >> "$HOME/asked"
case "$*" in *nonsense*) echo 'Failed to parse timestamp: nonsense' >&2; exit 1 ;; esac
case "$*" in *t-gone*) exit 0 ;; esac
echo $$ > "$HOME/journalctl.pid"
cat "$HOME/entries"
case "$*" in *--follow*) exec tail --follow /dev/null ;; esac
exit $(cat "$HOME/status")
"""


def entry(message: str, priority: int = 6, **more: str) -> dict[str, str]:
    known = {
        "MESSAGE": message,
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "orchestratord",
        "LLAMA_ORCH_TIME_MS": "1796040257225",
    }
    return known | more


ENGINE = {"SYSLOG_IDENTIFIER": "engine-gpu0", "LLAMA_ORCH_SOURCE": "engine", "LLAMA_ORCH_POOL": "gpu0"}
ENTRIES = (
    entry("task t-1 admitted", LLAMA_ORCH_TASK_ID="t-1", LLAMA_ORCH_CORRELATION_ID="c-1"),
    entry("task t-2 admitted", LLAMA_ORCH_TASK_ID="t-2", LLAMA_ORCH_CORRELATION_ID="c-1"),
    entry("slot \x1b[31m released", 4, LLAMA_ORCH_CORRELATION_ID="c-1", **ENGINE),
    entry("it failed\nTraceback", 3, SYSLOG_IDENTIFIER="pool-managerd"),
    entry("Started orchestratord.", SYSLOG_IDENTIFIER="systemd"),
)
WHEN = "Nov 30 12:04:17.225"
TEXT = (
    f"{WHEN} INFO     orchestratord: task t-1 admitted\n"
    f"{WHEN} INFO     orchestratord: task t-2 admitted\n"
    f"{WHEN} WARNING  engine gpu0: slot \x1b[31m released\n"
    f"{WHEN} ERROR    pool-managerd: it failed\n    Traceback\n"
    f"{WHEN} INFO     systemd: Started orchestratord.\n"
)
CONFIG = {
    "profile": "home",
    "pools": [
        {"id": name, "engine": "llamacpp", "model": "/m.gguf", "devices": [number]}
        for number, name in enumerate(("gpu0", "gpu1"))
    ],
}


class Machine:
    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        self.environ = {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "TZ": "UTC"}
        (home / "bin").mkdir()
        (home / ".config/llama-orch").mkdir(parents=True)
        self.logs = home / ".local/state/llama-orch/logs"
        self.logs.mkdir(parents=True)
        self.configure(CONFIG)
        self.holds(ENTRIES)
        (home / "status").write_text("0")
        (home / "bin/journalctl").write_text(JOURNAL)
        (home / "bin/journalctl").chmod(0o755)

    def configure(self, config: object) -> None:
        (self.home / ".config/llama-orch/config.yaml").write_text(json.dumps(config))

    def holds(self, entries: tuple[dict[str, str], ...]) -> None:
        (self.home / "entries").write_text("".join(f"{json.dumps(each)}\n" for each in entries))

    def without_journal(self) -> None:
        """A PATH on which there is none."""
        self.environ["PATH"] = str(self.home / "bin")
        (self.home / "bin/journalctl").unlink()

    @property
    def asked(self) -> list[str]:
        return (self.home / "asked").read_text().splitlines()

    def logs_of(self, *arguments: str, **more: str) -> Outcome:
        """In this process: starting another one takes longer than all that is looked at here."""
        with self._monkeypatch.context() as patched:
            for name in os.environ:
                patched.delenv(name)
            for name, value in environment(self.home, **(self.environ | more)).items():
                patched.setenv(name, value)
            time.tzset()
            status = main(("logs", *arguments))
        time.tzset()
        return Outcome(status, *self._capfd.readouterr())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Machine:
    return Machine(tmp_path, monkeypatch, capfd)


# --- the journal ------------------------------------------------------------------------------------------------------


@pytest.mark.req("OP-01")
def test_a_pipe_gets_plain_lines(here: Machine) -> None:
    assert here.logs_of() == Outcome(0, TEXT, "")
    assert "--lines=100" in here.asked[0]


def test_programs_get_a_json_object_for_each_line(here: Machine) -> None:
    done = here.logs_of("--json", "-n", "7", "--pool", "gpu0", "--engine", "--since", "today")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.status, len(lines)) == (0, len(ENTRIES))
    assert lines[2] == {
        "time": "2026-11-30T12:04:17.225Z",
        "level": "warning",
        "message": "slot \x1b[31m released",
        "service": "engine",
        "pool_id": "gpu0",
        "correlation_ids": ["c-1"],
    }
    assert here.asked[0].endswith("--since=today --lines=7 LLAMA_ORCH_POOL=gpu0 LLAMA_ORCH_SOURCE=engine")


@pytest.mark.req("HP-22")
def test_a_task_is_followed_into_the_engine_by_its_correlation_id(here: Machine) -> None:
    here.holds(ENTRIES[:3])
    done = here.logs_of("--task", "t-1")
    assert done.stdout.splitlines() == [TEXT.splitlines()[number] for number in (0, 2)]
    first, second = here.asked
    assert first.endswith("--lines=1 LLAMA_ORCH_TASK_ID=t-1")
    assert second.endswith("--lines=all LLAMA_ORCH_TASK_ID=t-1 + LLAMA_ORCH_CORRELATION_ID=c-1")


async def test_a_terminal_gets_colours_by_priority_and_nothing_that_drives_it(here: Machine) -> None:
    command = (sys.executable, "-m", "llama_orch", "logs")
    environ = environment(here.home, **here.environ)
    async with terminal(command, environ, here.home, columns=40) as screen:
        assert await screen.ended() == 0
        await screen.all_written()
    coloured = screen.written.replace("\r\n", "\n")
    assert f"\x1b[33m{WHEN} WARNING  engine gpu0: slot [31m released\x1b[0m\n" in coloured
    assert f"\x1b[31m{WHEN} ERROR    pool-managerd: it failed\x1b[0m\n" in coloured
    assert f"{WHEN} INFO     orchestratord: task t-1 admitted\n" in coloured  # a long line is not broken
    async with terminal(command, environ | {"NO_COLOR": "1"}, here.home) as screen:
        assert await screen.ended() == 0
        assert await screen.all_written() == TEXT.replace("\x1b", "")
    assert "\x1b[3" not in screen.written


async def test_ctrl_c_ends_it_and_what_it_started(here: Machine) -> None:
    command = (sys.executable, "-m", "llama_orch", "logs", "-f", "-n", "3")
    async with terminal(command, environment(here.home, **here.environ), here.home) as screen:
        await screen.shows("Started orchestratord.")
        pid = int((here.home / "journalctl.pid").read_text())
        screen.type("\x03")
        assert await screen.ended() == 130
        assert "Traceback (" not in screen.written
    assert not Path(f"/proc/{pid}").exists()
    assert "--follow" in here.asked[-1]


async def test_a_reader_that_goes_ends_it_too(here: Machine) -> None:
    async with started(here.home, ("logs", "-f"), **here.environ) as process:
        assert process.stdout is not None
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


@pytest.mark.parametrize(
    ("arguments", "status", "message", "hint"),
    [
        (("--pool", "gpu2"), 2, "there is no pool 'gpu2'", "did you mean 'gpu1'?"),
        (("--pool", "x"), 2, "there is no pool 'x'", "valid here: gpu0, gpu1"),
        (("--task", "t-gone"), 1, "there is no line about task t-gone", "llama-orch logs shows what there is"),
        (
            ("--since", "nonsense"),
            2,
            "--since: Failed to parse timestamp: nonsense",
            "as journalctl takes it: -10min, '10 min ago', today, '2026-11-30 12:00'",
        ),
        (
            ("--url", "https://box.lan:8080"),
            2,
            "logs are read on the machine itself, and box.lan is another one",
            "ssh box.lan llama-orch logs; for this machine leave --url and LLORCH_URL out",
        ),
    ],
)
def test_what_cannot_be_shown_is_said(
    here: Machine, arguments: tuple[str, ...], status: int, message: str, hint: str
) -> None:
    assert here.logs_of(*arguments) == Outcome(status, "", f"llama-orch: {message}\n  hint: {hint}\n")
    if status == 2:
        told = json.loads((here.logs_of(*arguments, "--json")).stdout)
        assert told == {"error": {"message": message, "hint": hint}}


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080"])
def test_this_machine_is_no_other(here: Machine, url: str) -> None:
    assert (here.logs_of(LLORCH_URL=url)).status == 0


async def test_an_empty_journal_is_no_success_and_is_waited_for(here: Machine) -> None:
    here.holds(())
    start = "llama-orch up starts both daemons"
    assert here.logs_of() == Outcome(1, "", f"llama-orch: nothing is logged yet\n  hint: {start}\n")
    async with started(here.home, ("logs", "-f"), **here.environ) as process:
        assert process.stderr is not None
        assert await process.stderr.readline() == b"nothing is logged yet; this waits for it, until Ctrl-C\n"


def test_a_journal_that_cannot_be_read_says_why(here: Machine) -> None:
    (here.home / "status").write_text("1")
    done = here.logs_of()
    assert done.status == 1
    assert done.stderr.startswith("llama-orch: the journal cannot be read: it ended with status 1 and said nothing\n")


def test_a_broken_configuration_does_not_hide_what_is_said_about_it(here: Machine) -> None:
    here.configure({"profile": "holiday"})
    done = here.logs_of("--pool", "whatever")
    assert (done.status, done.stdout) == (0, TEXT)
    assert "the configuration is not used" in done.stderr
    assert (here.logs_of("--config", str(here.home / "none.yaml"))).status == 78


# --- the files of the pools -------------------------------------------------------------------------------------------

WITHOUT = "there is no journalctl on PATH: here is what the engines print"


@pytest.fixture
def bare(here: Machine) -> Machine:
    here.without_journal()
    (here.logs / "gpu0.log.1").write_text("older\n")
    (here.logs / "gpu0.log").write_text("--- starting\nslot released  correlation_ids=c-1,c-2\n")
    (here.logs / "gpu1.log").write_text("hello\n")
    return here


def test_without_a_journal_the_engines_lines_are_read_from_their_files(bare: Machine) -> None:
    text = "engine gpu0: older\nengine gpu0: --- starting\nengine gpu0: slot released\nengine gpu1: hello\n"
    assert bare.logs_of() == Outcome(0, text, f"{WITHOUT}\n")
    assert (bare.logs_of("-n", "1")).stdout == "engine gpu0: slot released\nengine gpu1: hello\n"
    assert (bare.logs_of("--pool", "gpu1")).stdout == "engine gpu1: hello\n"
    done = bare.logs_of("--correlation-id", "c-2", "--json")
    assert json.loads(done.stdout) == {
        "level": "info",
        "message": "slot released",
        "service": "engine",
        "pool_id": "gpu0",
        "correlation_ids": ["c-1", "c-2"],
    }


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--task", "t"), f"{WITHOUT}; its files name no tasks\n  hint: use --correlation-id"),
        (("--since", "today"), f"{WITHOUT}; its files have no times\n  hint: use --lines"),
    ],
)
def test_what_the_files_do_not_know_is_said(bare: Machine, arguments: tuple[str, ...], why: str) -> None:
    assert bare.logs_of(*arguments) == Outcome(2, "", f"llama-orch: {why}\n")


def test_without_a_journal_and_without_files_there_is_nothing(here: Machine) -> None:
    here.without_journal()
    done = here.logs_of()
    assert (done.status, done.stderr.splitlines()[0]) == (
        1,
        f"llama-orch: {WITHOUT}; but they have printed nothing yet",
    )


async def test_a_file_is_followed_over_its_replacement(bare: Machine) -> None:
    async with started(bare.home, ("logs", "-f", "--pool", "gpu0", "-n", "1"), **bare.environ) as process:
        assert process.stdout is not None

        async def next_line() -> str:
            assert process.stdout is not None
            return (await asyncio.wait_for(process.stdout.readline(), 50)).decode()

        assert await next_line() == "engine gpu0: slot released\n"
        file = bare.logs / "gpu0.log"
        with file.open("a") as same:
            same.write("half ")
            same.flush()
            same.write("a line\nlast of this one\n")
        assert await next_line() == "engine gpu0: half a line\n"
        assert await next_line() == "engine gpu0: last of this one\n"
        file.replace(bare.logs / "gpu0.log.1")
        file.write_text("first of the next\n")
        assert await next_line() == "engine gpu0: first of the next\n"
        file.write_text("emptied\n")  # in its place, as who needs the room does
        assert await next_line() == "engine gpu0: emptied\n"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


async def test_where_up_runs_the_daemons_their_terminal_has_what_they_say(here: Machine) -> None:
    (here.logs / "gpu0.log").write_text("hello\n")
    with TemporaryDirectory() as runtime, socket.socket(socket.AF_UNIX) as manager:  # a path that is short enough
        here.configure(CONFIG | {"paths": {"runtime": runtime}})
        manager.bind(f"{runtime}/pool-managerd.sock")
        manager.listen()
        done = here.logs_of()
    why = "llama-orch up runs the daemons and shows what they say: here is what their engines print\n"
    assert done == Outcome(0, "engine gpu0: hello\n", why)

"""Real children: how they start, how they end, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from daemon_core.child_environment import child_env
from pool_managerd import proc
from pool_managerd.diagnosis import Exit
from pool_managerd.engine_log import EngineLog
from pool_managerd.process import EngineProcess, end_all, free_port, marked, port_taken
from pool_managerd.reconcile import MARKER, ProcessSeen
from tests.integration.pool_managerd.scopes import a_service
from tests.integration.pool_managerd.support import alive, log_at, python
from tests.support.waiting import until

UP = "print('up', flush=True); import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + UP
# A child in its group and one in a session of its own; both outlive a parent that is killed.
FAMILY = (
    "import subprocess, sys\n"
    "def start(**how): return subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], **how).pid\n"
    "print('pids', start(), start(start_new_session=True), flush=True)\n"
)


@pytest.fixture
def log(tmp_path: Path) -> EngineLog:
    return log_at(tmp_path / "gpu0.log")


@pytest.fixture
async def spawned(tmp_path: Path, log: EngineLog) -> AsyncIterator[list[EngineProcess]]:
    """Whatever a test puts in here is ended after it."""
    running: list[EngineProcess] = []
    yield running
    for process in running:
        await process.end(0)


async def start(code: str, tmp_path: Path, log: EngineLog, spawned: list[EngineProcess], **env: str) -> EngineProcess:
    log.begin("starting")
    process = await EngineProcess.spawn(python(code, tmp_path / "gpu0.json", **env), log)
    spawned.append(process)
    return process


async def said(log: EngineLog, word: str) -> str:
    await until(lambda: word in log.tail(), f"{word!r} in the output")
    return next(line for line in log.tail().splitlines() if word in line)


async def test_a_child_reads_nothing_and_leads_a_session_of_its_own(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    code = "import os, sys; print('me', repr(sys.stdin.read()), os.getpgid(0), os.getsid(0), os.getpid(), flush=True)"
    process = await start(code, tmp_path, log, spawned)
    assert await said(log, "me") == f"me '' {process.pid} {process.pid} {process.pid}"
    assert await process.wait() == Exit(status=0)


@pytest.mark.req("EP-13")
async def test_a_child_gets_its_key_and_nothing_that_is_the_daemons_own(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    ours = {
        "PATH": "/bin",
        "HOME": "/root",
        "TOKENIZERS_PARALLELISM": "1",
        "LLORCH_API_TOKEN": "a",
        "HF_TOKEN": "b",
        "OPENAI_API_KEY": "c",
        "AWS_SECRET_ACCESS_KEY": "d",
        "NOTIFY_SOCKET": "e",
        "WATCHDOG_USEC": "f",
        "CREDENTIALS_DIRECTORY": "g",
    }
    env = child_env(ours, {"GGML": "1", "HOME": "/engine"}, {"LLAMA_API_KEY": "per-spawn"})
    assert env == {
        "PATH": "/bin",
        "HOME": "/engine",
        "TOKENIZERS_PARALLELISM": "1",
        "GGML": "1",
        "LLAMA_API_KEY": "per-spawn",
    }
    process = await start(UP, tmp_path, log, spawned, LLAMA_API_KEY="per-spawn")
    await said(log, "up")
    environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    assert b"LLAMA_API_KEY=per-spawn" in environ
    assert f"{MARKER}={tmp_path / 'gpu0.json'}".encode() in environ
    assert b"per-spawn" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


@pytest.mark.trap(20, by="pool_managerd")
@pytest.mark.parametrize(
    ("code", "ending", "words"),
    [
        ("raise SystemExit(3)", Exit(status=3), "exited with status 3"),
        ("pass", Exit(status=0), "exited with status 0"),
        ("import os; os.kill(os.getpid(), 9)", Exit(signal=9), "was ended by SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", Exit(signal=11), "was ended by SIGSEGV"),
    ],
    ids=["status", "zero", "killed", "crashed"],
)
async def test_a_status_and_a_signal_are_told_apart(
    code: str, ending: Exit, words: str, *, tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    process = await start(code, tmp_path, log, spawned)
    found = await process.wait()
    assert found == ending
    assert str(found) == words


async def test_the_last_words_are_in_the_log_when_the_exit_is_known(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    code = "import sys; print('out'); sys.stdout.flush(); print('err', file=sys.stderr); raise SystemExit(1)"
    process = await start(code, tmp_path, log, spawned)
    await process.wait()
    assert log.tail() == "out\nerr"


@pytest.mark.req("EP-17")
async def test_a_child_that_listens_to_term_ends_at_once(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    process = await start(UP, tmp_path, log, spawned)
    await said(log, "up")
    await process.end(60_000)
    assert await process.wait() == Exit(signal=signal.SIGTERM)
    assert process.members() == ()


@pytest.mark.req("EP-17")
async def test_a_child_that_ignores_term_is_killed_after_its_time(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    process = await start(STUBBORN, tmp_path, log, spawned)
    await said(log, "up")
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await process.end(300)
    assert loop.time() - begun >= 0.3
    assert await process.wait() == Exit(signal=signal.SIGKILL)
    assert not alive(process.pid)


@pytest.mark.trap(21, by="pool_managerd")
@pytest.mark.req("EP-17")
@pytest.mark.parametrize("last", [UP, "raise SystemExit(1)", "import os; os.kill(os.getpid(), 9)"])
async def test_children_are_ended_too_whether_their_parent_lives_or_not(
    last: str, tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    process = await start(FAMILY + last, tmp_path, log, spawned)
    pids = [int(word) for word in (await said(log, "pids")).split()[1:]]
    if last != UP:
        await process.wait()
        assert not alive(process.pid)
    assert all(alive(pid) for pid in pids)
    await process.end(2000)
    assert not any(alive(pid) for pid in (process.pid, *pids))
    assert process.members() == ()


async def test_ending_twice_is_ending_once(tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]) -> None:
    process = await start("pass", tmp_path, log, spawned)
    await process.wait()
    await process.end(100)
    await process.end(100)


async def test_a_program_that_is_not_there_cannot_be_started(tmp_path: Path, log: EngineLog) -> None:
    spec = replace(python("", tmp_path / "gpu0.json"), argv=("/no/such/engine",))
    with pytest.raises(FileNotFoundError):
        await EngineProcess.spawn(spec, log)


@pytest.mark.req("OP-01", "EP-16")
async def test_in_a_scope_an_engine_has_its_own_environment_and_outlives_its_manager(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    daemon = a_service(tmp_path / "bin")
    code = "import os; print('has', sorted(os.environ)); " + UP
    scope = (str(tmp_path / "bin" / "systemd-run"), "--")
    spec = replace(python(code, tmp_path / "gpu0.json"), scope=scope, environ=dict(daemon))
    spec = replace(spec, env={"PATH": "/usr/bin:/bin", **{k: v for k, v in spec.env.items() if k.startswith("LLAMA_")}})
    log.begin("starting")
    process = await EngineProcess.spawn(spec, log)
    spawned.append(process)
    has = await said(log, "has")
    assert process.outlives
    assert {"PATH", MARKER} <= set(re.findall(r"\w+", has))
    assert not {"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "INVOCATION_ID"} & set(re.findall(r"\w+", has))
    missing = replace(spec, argv=("/no/such/engine",))
    with pytest.raises(FileNotFoundError, match="/no/such/engine"):
        await EngineProcess.spawn(missing, log)
    nothing = replace(spec, argv=(str(tmp_path),))
    with pytest.raises(PermissionError):
        await EngineProcess.spawn(nothing, log)


@pytest.mark.req("PM-07")
async def test_an_engine_that_is_left_goes_on_when_the_loop_that_started_it_is_over(tmp_path: Path) -> None:
    log = log_at(tmp_path / "left.log")
    spec = python(UP, tmp_path / "left.json")

    async def start_and_leave() -> int:
        process = await EngineProcess.spawn(spec, log)
        await until(lambda: bool(marked(spec.marker)), "the engine")
        await process.leave()
        return process.pid

    pid = await asyncio.to_thread(asyncio.run, start_and_leave())
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path, log: EngineLog) -> None:
    spec = python(STUBBORN, tmp_path / "gpu0.json")
    task = asyncio.get_running_loop().create_task(EngineProcess.spawn(spec, log))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    try:
        process = await task
    except asyncio.CancelledError:
        process = None

    await until(lambda: bool(marked(spec.marker)), "its environment, which a program shows a moment after its start")
    started = [seen.pid for seen in marked(spec.marker)]
    await end_all(lambda: marked(spec.marker), 0)
    assert marked(spec.marker) == ()
    # What is known of it last is how it ended, which the loop asks then.
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "the end to be known")
    if process is not None:
        await process.end(0)


@pytest.mark.req("EP-12", "PM-07")
async def test_a_signal_never_hits_another_process_that_got_the_pid(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    code = (
        "import signal\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('hit', flush=True))\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('asked', flush=True))\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()\n"
    )
    process = await start(code, tmp_path, log, spawned)
    await said(log, "up")
    seen = cast("ProcessSeen", proc.process_of(process.pid))
    # Had it arrived, the lower number would have been handled first.
    proc.send(replace(seen, start_time_ticks=seen.start_time_ticks + 1), signal.SIGUSR1)
    proc.send(seen, signal.SIGUSR2)
    await said(log, "asked")
    assert "hit" not in log.tail()
    proc.send(seen, signal.SIGKILL)
    assert await process.wait() == Exit(signal=signal.SIGKILL)
    proc.send(seen, signal.SIGKILL)


def test_a_process_is_seen_with_its_start_time_whatever_its_name() -> None:
    me = cast("ProcessSeen", proc.process_of(os.getpid()))
    assert (me.pid, me.group, me.session) == (os.getpid(), os.getpgid(0), os.getsid(0))
    assert me.start_time_ticks > 0
    assert proc.process_of(2**22 + 1) is None


@pytest.mark.req("EP-15")
def test_a_taken_port_is_seen_and_a_lingering_connection_takes_none() -> None:
    port = free_port()
    assert not port_taken(port)
    listener = socket.create_server(("127.0.0.1", port))
    assert port_taken(port)
    client = socket.create_connection(("127.0.0.1", port))
    accepted, _ = listener.accept()
    # Closed by the server's side first: the kernel keeps the pair for a minute.
    accepted.close()
    client.close()
    listener.close()
    assert not port_taken(port)


def test_a_spec_shows_no_values_of_its_environment() -> None:
    assert "hidden" not in repr(python("", Path("/m"), LLAMA_API_KEY="hidden"))
    assert sys.executable in repr(python("", Path("/m")))


# --- taking over ------------------------------------------------------------------------------------------------------

TALKER = (
    "import signal, sys\n"
    "signal.signal(signal.SIGUSR1, lambda *_: print('still here', flush=True))\n"
    "print('up', flush=True)\n"
    "while True: signal.pause()\n"
)


@pytest.mark.req("PM-07", "EP-16")
async def test_who_takes_an_engine_over_hears_what_it_said_meanwhile_and_sees_its_end(
    tmp_path: Path, spawned: list[EngineProcess]
) -> None:
    first, second = log_at(tmp_path / "first.log"), log_at(tmp_path / "second.log")
    process = await start(TALKER, tmp_path, first, spawned)
    await said(first, "up")
    seen = cast("ProcessSeen", proc.process_of(process.pid))
    process.deafen()  # as a manager that died
    proc.send(seen, signal.SIGUSR1)
    spec = python(TALKER, tmp_path / "gpu0.json")
    adopted = await EngineProcess.adopt(seen, spec.marker, spec.output, second)
    await said(second, "still here")
    assert process.pid in await adopted.pids()
    proc.send(seen, signal.SIGKILL)
    assert await adopted.wait() == Exit()
    assert str(Exit()) == "has ended"
    await adopted.end(0)
    assert "still here" not in first.tail()


@pytest.mark.req("PM-07", "EP-12")
async def test_the_group_of_a_stranger_who_got_the_pid_is_nobodys_engine(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    stranger = await start(UP, tmp_path, log, spawned)
    await said(log, "up")
    seen = cast("ProcessSeen", proc.process_of(stranger.pid))
    spec = python(UP, tmp_path / "gpu0.json")
    ours = await EngineProcess.adopt(seen, str(tmp_path / "other.json"), spec.output, log)
    assert [one.pid for one in ours.members()] == [stranger.pid]
    ours._leader.start_time_ticks -= 1  # noqa: SLF001 - ours died, and its number was given away
    assert ours.members() == ()
    ours.deafen()


async def test_an_engine_that_is_gone_cannot_be_taken_over(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    process = await start(UP, tmp_path, log, spawned)
    seen = cast("ProcessSeen", proc.process_of(process.pid))
    spec = python(UP, tmp_path / "gpu0.json")
    with pytest.raises(ProcessLookupError):
        await EngineProcess.adopt(replace(seen, start_time_ticks=1), spec.marker, spec.output, log)
    await process.end(0)
    with pytest.raises(ProcessLookupError):
        await EngineProcess.adopt(seen, spec.marker, spec.output, log)


@pytest.mark.req("PM-07")
async def test_an_engine_to_which_nobody_listens_is_neither_ended_nor_held_up(
    tmp_path: Path, log: EngineLog, spawned: list[EngineProcess]
) -> None:
    done = tmp_path / "done"
    code = (
        "import os, signal\n"
        "print('up', flush=True)\n"
        "signal.sigwait({signal.SIGUSR1})\n"
        "for _ in range(4096):\n"
        "    try: os.write(1, b'x' * 1023 + b'\\n')\n"
        "    except BlockingIOError: pass\n"
        f"open({str(done)!r}, 'w').close()\n"
        "signal.pause()\n"
    )
    process = await start("import signal; signal.pthread_sigmask(0, {signal.SIGUSR1})\n" + code, tmp_path, log, spawned)
    await said(log, "up")
    process.deafen()
    proc.send(cast("ProcessSeen", proc.process_of(process.pid)), signal.SIGUSR1)
    await until(done.exists, "four megabytes of output that nobody reads")
    assert alive(process.pid)

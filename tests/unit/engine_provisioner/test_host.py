from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from daemon_core import procfs
from engine_provisioner import host as commands
from engine_provisioner.host import (
    LINE_LIMIT,
    OUTPUT_LIMIT,
    CommandError,
    CommandResult,
    free_bytes,
    resources,
    sha256_of,
    unix_ms,
)
from tests.support.waiting import until
from tests.unit.engine_provisioner.conftest import MakeHost

SHELL = "/bin/sh"


async def has_ended(pid: int) -> None:
    """Wait for the end of a process that need not be our child."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(30):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def test_both_streams_and_the_status_come_back(make_host: MakeHost) -> None:
    result = await make_host().run((SHELL, "-c", "echo out; echo err >&2; echo; exit 3"), timeout_s=60)
    assert result == CommandResult(status=3, output="out\nerr\n\n")
    assert result.last_line == "err"
    assert CommandResult(status=0, output="\n").last_line == "(it said nothing)"


async def test_a_command_has_no_input_and_this_environment_only(make_host: MakeHost) -> None:
    host = make_host(environ={"A": "1", "B": "1"})
    result = await host.run((SHELL, "-c", '/bin/cat; echo "$A$B$HOME"'), timeout_s=60, env={"B": "2"})
    assert result.output == "12\n"


@pytest.mark.req("EP-13")
async def test_a_command_gets_no_secret_of_the_daemon_but_what_it_is_given(make_host: MakeHost) -> None:
    host = make_host(
        environ={"LLORCH_API_TOKEN": "ours", "HF_TOKEN": "ours", "LLAMA_ARG_HOST": "x", "https_proxy": "p"}
    )
    argv = (SHELL, "-c", 'echo "$LLORCH_API_TOKEN$HF_TOKEN$LLAMA_ARG_HOST$https_proxy"')
    assert (await host.run(argv, timeout_s=60)).output == "p\n"
    assert (await host.run(argv, timeout_s=60, env={"HF_TOKEN": "given "})).output == "given p\n"


async def test_a_command_that_talks_without_end_is_cut_short(make_host: MakeHost) -> None:
    result = await make_host().run((SHELL, "-c", "/usr/bin/head -c 3000000 /dev/zero"), timeout_s=60)
    assert (result.status, len(result.output)) == (0, OUTPUT_LIMIT)


async def test_a_command_that_takes_too_long_ends_with_its_children(
    make_host: MakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is over when its child is there, and not before."""
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    limits: list[asyncio.Timeout] = []

    def unlimited(_seconds: float) -> asyncio.Timeout:
        limits.append(asyncio.Timeout(None))
        return limits[-1]

    script = f"/bin/sleep 600 & echo $! > {fifo}; wait"
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "timeout", unlimited)
        task = asyncio.get_running_loop().create_task(make_host().run((SHELL, "-c", script), timeout_s=0.5))
        pid = int(await asyncio.to_thread(fifo.read_text))
        await until(lambda: bool(limits), "the wait for it, which begins a moment after it")
    (limit,) = limits
    limit.reschedule(asyncio.get_running_loop().time())
    with pytest.raises(CommandError, match=r"/bin/sh did not answer within 0\.5 s"):
        await task
    await has_ended(pid)


async def test_a_command_that_leaves_a_child_behind_does_not_keep_us(make_host: MakeHost) -> None:
    result = await make_host().run((SHELL, "-c", "/bin/sleep 600 >/dev/null 2>&1 & echo $!"), timeout_s=60)
    await has_ended(int(result.output))


async def test_a_cancelled_command_is_ended(make_host: MakeHost, tmp_path: Path) -> None:
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    async with asyncio.TaskGroup() as group:
        script = f"echo $$ > {fifo}; exec /bin/sleep 600"
        task = group.create_task(make_host().run((SHELL, "-c", script), timeout_s=60))
        pid = int(await asyncio.to_thread(fifo.read_text))
        task.cancel()
    await has_ended(pid)


async def test_a_command_that_does_not_exist_is_said(make_host: MakeHost) -> None:
    with pytest.raises(CommandError, match=r"/nowhere/x cannot be started: No such file or directory"):
        await make_host().run(("/nowhere/x",), timeout_s=60)


async def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert await sha256_of(tmp_path / "x") == expected


def test_the_clock_counts_milliseconds_since_1970() -> None:
    assert unix_ms() > 1_700_000_000_000


async def test_lines_are_seen_as_they_come_and_kept_in_a_log(make_host: MakeHost, tmp_path: Path) -> None:
    seen: list[str] = []
    log = tmp_path / "log"
    log.write_text("before\n")
    result = await make_host().run(
        (SHELL, "-c", "echo one; printf 'two\\r\\n'; printf three"), timeout_s=60, log=log, on_line=seen.append
    )
    assert seen == ["one", "two", "three"]
    assert log.read_bytes().decode() == f"before\n{result.output}"
    seen.clear()
    await make_host().run((SHELL, "-c", "/usr/bin/head -c 3000000 /dev/zero"), timeout_s=60, on_line=seen.append)
    assert [len(line) for line in seen] == [LINE_LIMIT]


async def test_a_variable_can_be_taken_out_and_a_place_given(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(environ={"A": "1", "B": "1"})
    result = await host.run((SHELL, "-c", 'echo "${A-none}$B"; pwd'), timeout_s=60, env={"A": None}, cwd=tmp_path)
    assert result.output == f"none1\n{tmp_path}\n"


async def test_a_descriptor_can_be_inherited(make_host: MakeHost, tmp_path: Path) -> None:
    with (tmp_path / "held").open("w") as file:
        await make_host().run(
            (SHELL, "-c", f"echo x > /proc/self/fd/{file.fileno()}"), timeout_s=60, keep_open=(file.fileno(),)
        )
    assert (tmp_path / "held").read_text() == "x\n"


async def test_a_cancelled_command_takes_the_groups_it_made_along(make_host: MakeHost, tmp_path: Path) -> None:
    """As ninja's jobs are: in a group of their own, which a signal to ninja's does not reach."""
    fifo = tmp_path / "started"
    os.mkfifo(fifo)
    script = "import os, signal, sys; os.setpgid(0, 0); open(sys.argv[1], 'w').write(str(os.getpid())); signal.pause()"
    async with asyncio.TaskGroup() as group:
        argv = (SHELL, "-c", f'{sys.executable} -c "$0" {fifo} & wait', script)
        task = group.create_task(make_host().run(argv, timeout_s=60))
        pid = int(await asyncio.to_thread(fifo.read_text))
        assert os.getpgid(pid) == pid
        task.cancel()
    await has_ended(pid)


@pytest.mark.req("EP-03")
async def test_a_command_with_a_lock_of_ours_ends_when_we_are_killed_with_the_groups_it_made(tmp_path: Path) -> None:
    fifo = tmp_path / "pids"
    os.mkfifo(fifo)
    # As ninja: a job in a group of its own.
    script = (
        "import os, signal, sys\n"
        "leader, job = os.getpid(), os.fork()\n"
        "if not job: os.setpgid(0, 0); open(sys.argv[1], 'w').write(f'{leader} {os.getpid()}')\n"
        "signal.pause()\n"
    )
    us = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from catalog_core.engines import FsEngineCatalog\n"
        "from contracts.config import Policy\n"
        "from engine_provisioner.host import Host\n"
        "here = Path(sys.argv[1])\n"
        "host = Host(environ={}, catalog=FsEngineCatalog(here), cache=here, policy=Policy())\n"
        "with (here / 'lock').open('w') as lock:\n"
        "    argv = (sys.executable, '-c', sys.argv[2], str(here / 'pids'))\n"
        "    asyncio.run(host.run(argv, timeout_s=60, keep_open=(lock.fileno(),)))\n"
    )
    ours = await asyncio.create_subprocess_exec(sys.executable, "-c", us, str(tmp_path), script)
    leader, job = map(int, (await asyncio.to_thread(fifo.read_text)).split())
    # The watcher is there a moment after the command.
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 30
    while not any(stat.parent == ours.pid and stat.pid != leader for stat in procfs.stats()):
        assert loop.time() < deadline
        await asyncio.to_thread(lambda: None)
    ours.kill()
    await ours.wait()
    await has_ended(leader)
    await has_ended(job)
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_this_machine_has_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resources()
    assert found.cores == len(os.sched_getaffinity(0))
    assert found.memory_bytes is not None
    assert found.memory_bytes > 1 << 20
    real, looked = shutil.disk_usage, []

    def once(path: Path) -> object:
        looked.append((path, real(path)))  # another look may find more or less: others write as well
        return looked[-1][1]

    monkeypatch.setattr(shutil, "disk_usage", once)
    free = free_bytes(tmp_path / "not" / "yet")
    assert [(path, usage.free) for path, usage in looked] == [(tmp_path, free)]


@pytest.mark.parametrize("turns", range(6))
async def test_a_command_that_is_given_up_while_it_starts_leaves_nothing(
    make_host: MakeHost, tmp_path: Path, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "DRAIN_S", 60.0)  # nobody leaves: its end is waited for
    mark = str(tmp_path / "mark")
    host = make_host(environ={"PATH": "/usr/bin:/bin", "A_MARK": mark})
    task = asyncio.get_running_loop().create_task(host.run(("sh", "-c", "sleep 1000 & sleep 1000"), timeout_s=60))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [entry for entry in Path("/proc").iterdir() if mark.encode() in _environ(entry)]


def _environ(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


async def test_a_command_that_is_cancelled_in_the_middle_of_a_flood_is_ended(make_host: MakeHost) -> None:
    """What it has written and nobody has read must not keep us."""

    def stop(_: str) -> None:
        task.cancel()

    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        flood = (SHELL, "-c", "echo; exec /usr/bin/head -c 100000000 /dev/zero")
        task = group.create_task(make_host().run(flood, timeout_s=60, on_line=stop))
    assert task.cancelled()


@pytest.mark.parametrize("speaks", ["", ">/dev/null 2>&1"], ids=["with the pipe", "silent"])
async def test_a_child_that_leaves_does_not_keep_us(make_host: MakeHost, tmp_path: Path, speaks: str) -> None:
    """As a compiler cache's server: in a session of its own. On uvloop a silent one holds the pipe too."""
    os.mkfifo(tmp_path / "left")
    script = "import os, signal, sys; os.setsid(); open(sys.argv[1], 'w').close(); signal.pause()"
    leave = f'{sys.executable} -c "$0" {tmp_path}/left {speaks} & echo $!; /bin/cat {tmp_path}/left'
    result = await make_host().run((SHELL, "-c", leave, script), timeout_s=50)
    assert result.status == 0
    pid = int(result.output)
    os.kill(pid, signal.SIGKILL)
    await has_ended(pid)

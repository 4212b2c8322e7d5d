"""What a manager does about processes that it may not signal, and about files that the disk does not let go."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from contracts.config import Engine, Pool, Timeouts
from daemon_core import procfs
from daemon_core.heartbeat import Heartbeats
from pool_managerd import proc
from pool_managerd.condemned import Condemned
from pool_managerd.errors import StillRunningError
from pool_managerd.handles import HandleFiles
from pool_managerd.host import Host
from pool_managerd.leftovers import clear
from pool_managerd.process import EngineProcess, end_all, kill_now
from pool_managerd.reconcile import Handle, ProcessSeen
from pool_managerd.supervisor import Supervisor
from pool_managerd.taking_over import TakingOver
from tests.integration.pool_managerd.support import alive, log_at, python
from tests.support.waiting import until

POOL = Pool(id="gpu0", engine=Engine.LLAMACPP, model="m", timeouts=Timeouts(stop_ms=500))
UP = "import signal; print('up', flush=True); signal.pause()"


@pytest.fixture
def files(tmp_path: Path) -> HandleFiles:
    for name in ("handles", "run", "run/engines"):
        (tmp_path / name).mkdir()
    return HandleFiles(handles=tmp_path / "handles", runtime=tmp_path / "run", engines=tmp_path / "run/engines")


async def engine(name: str, tmp_path: Path) -> tuple[EngineProcess, ProcessSeen]:
    log = log_at(tmp_path / f"{name}.log")
    process = await EngineProcess.spawn(python(UP, tmp_path / "handles" / f"{name}.json"), log)
    await until(lambda: "up" in log.tail(), "the engine")
    return process, cast("ProcessSeen", proc.process_of(process.pid))


def forbid(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    """The kernel's answer for a process of another user, as sudo or a helper with more rights makes one."""
    send = proc.send

    def refused(process: ProcessSeen, number: signal.Signals) -> None:
        if process.pid != pid:
            send(process, number)
            dead(process.pid)  # else a busy machine might not have ended it when the time is over
            return
        with monkeypatch.context() as patched:
            patched.setattr(signal, "pidfd_send_signal", _eperm)
            send(process, number)

    monkeypatch.setattr(proc, "send", refused)


def dead(pid: int) -> None:
    """Wait for the end of a child that has got a signal."""
    descriptor = os.pidfd_open(pid)
    try:
        assert select.select([descriptor], [], [], 30)[0]
    finally:
        os.close(descriptor)


def _eperm(*_: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.req("EP-17")
async def test_a_process_of_another_user_keeps_nobody_else_alive_and_is_named(
    files: HandleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (theirs, its), (ours, mine) = await engine("a", tmp_path), await engine("b", tmp_path)
    with monkeypatch.context() as patched:
        forbid(patched, theirs.pid)
        patched.setattr("pool_managerd.process.KILL_WAIT_S", 0.2)
        left = {one.pid: one for one in (its, mine)}
        with pytest.raises(StillRunningError) as refused:
            await end_all(lambda: tuple(one for one in left.values() if alive(one.pid)), 200)
        assert refused.value.pids == (theirs.pid,)
        assert not alive(ours.pid)
        kill_now((its,))
        assert alive(theirs.pid)
    for process in (theirs, ours):
        await process.end(0)


@pytest.mark.req("PM-07")
async def test_an_engine_is_ended_also_where_its_files_cannot_be_removed(
    files: HandleFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process, _ = await engine("gpu0", tmp_path)
    refuses(files, "gpu0")
    await clear(POOL, "blue", cast("Host", SimpleNamespace(files=files, boot_id=procfs.boot_id())))
    assert not alive(process.pid)
    assert "gpu0.out" in caplog.text
    await process.end(0)


def refuses(files: HandleFiles, instance: str) -> None:
    """A file that no unlink removes, whoever tries, as on a disk that has become read-only."""
    files.output(instance).unlink(missing_ok=True)
    files.output(instance).mkdir()


def refuses_twice(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """The manager has no descriptor left for a while; the answer counts its tries."""
    tries: list[None] = []

    async def ends(members: Callable[[], tuple[ProcessSeen, ...]], stop_ms: int) -> None:
        tries.append(None)
        if len(tries) < 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        await end_all(members, stop_ms)

    monkeypatch.setattr("pool_managerd.process.end_all", ends)
    monkeypatch.setattr("pool_managerd.supervisor.END_AGAIN_S", 0.01)
    return tries


@pytest.mark.req("PM-07")
async def test_the_leftover_of_a_pool_that_is_gone_ends_no_daemon_however_hard_it_is_to_clear_away(
    files: HandleFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, seen = await engine("gone", tmp_path)
    boot = procfs.boot_id()
    for name, pid, ticks in (("gone", seen.pid, seen.start_time_ticks), ("old", 2**22 + 1, 1)):
        refuses(files, name)
        files.write(
            Handle(
                pool_id=name,
                boot_id=boot,
                port=1,
                launch_hash="h",
                engine_version="1",
                pid=pid,
                start_time_ticks=ticks,
            )
        )
    nothing: Any = None
    it = Supervisor(
        pools={},
        files=files,
        containers=nothing,
        hub=nothing,
        watch=None,
        condemned=Condemned(),
        taking_over=TakingOver(),
        boot_id=boot,
        heartbeats=Heartbeats(),
    )
    tries = refuses_twice(monkeypatch)
    with caplog.at_level(logging.WARNING):
        running = asyncio.get_running_loop().create_task(it.run())
        await until(lambda: running.done() or "gone.out" in caplog.text, "the end of the leftover")
        assert not running.done(), running.exception()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert not alive(process.pid)
    assert "old.out" in caplog.text
    assert len(tries) == 3
    assert caplog.text.count("Too many open files") == 1
    await process.end(0)

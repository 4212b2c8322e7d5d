"""How all pools end together, with effects that a test scripts; the owners and engines have tests of their own."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from daemon_core.heartbeat import Heartbeats
from pool_managerd import supervisor
from pool_managerd.condemned import Condemned
from pool_managerd.handles import HandleFiles
from pool_managerd.supervisor import SupervisedPool, Supervisor
from pool_managerd.taking_over import TakingOver


class Ends:
    """The effects of a pool, as far as its end goes; ``stuck`` is a container runtime that does not answer."""

    def __init__(self, *, outlives: bool = False, stuck: bool = False) -> None:
        self.outlives = outlives
        self.stuck = stuck
        self.done: list[str] = []

    async def leave(self) -> None:
        self.done.append("left")

    async def kill(self) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        self.done.append("killed")


class Idle:
    """An owner that has nothing to end."""

    def post(self, event: object) -> None:
        pass

    def ping(self, answer: object) -> None:
        pass

    async def stopped(self) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()


def supervised(folder: Path, heartbeats: Heartbeats | None = None, **effects: Ends) -> Supervisor:
    pools = {name: cast("SupervisedPool", Pair(each)) for name, each in effects.items()}
    nothing: Any = None
    return Supervisor(
        pools=pools,
        files=HandleFiles(handles=folder, runtime=folder, engines=folder),
        containers=nothing,
        hub=nothing,
        watch=None,
        condemned=Condemned(),
        taking_over=TakingOver(),
        boot_id="boot",
        heartbeats=heartbeats,
    )


class Pair:
    """What a ``SupervisedPool`` is."""

    def __init__(self, effects: Ends) -> None:
        self.owner, self.effects = Idle(), effects


async def run_and_end(it: Supervisor, *, stop: bool) -> None:
    running = asyncio.get_running_loop().create_task(it.run())
    await asyncio.sleep(0)
    if stop:
        await it.stop(1.0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


@pytest.mark.req("PM-07")
async def test_a_container_runtime_that_does_not_answer_keeps_no_other_engine_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "KILL_S", 0.05)
    first, second = Ends(stuck=True), Ends()
    with caplog.at_level(logging.ERROR):
        await run_and_end(supervised(tmp_path, a=first, b=second), stop=True)
    assert (first.done, second.done) == ([], ["killed"])
    assert "a container may be left" in caplog.text


async def test_without_a_stop_what_outlives_its_manager_is_left_and_the_rest_killed(tmp_path: Path) -> None:
    lives, dies = Ends(outlives=True), Ends()
    await run_and_end(supervised(tmp_path, lives=lives, dies=dies), stop=False)
    assert (lives.done, dies.done) == (["left"], ["killed"])


@pytest.mark.req("PM-07")
async def test_a_stop_while_leftovers_are_still_looked_for_ends_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go_on = threading.Event(), threading.Event()

    def looks(_self: Supervisor) -> None:
        looking.set()
        go_on.wait(10)

    monkeypatch.setattr(Supervisor, "_reconcile", looks)
    left = Ends(outlives=True)
    it = supervised(tmp_path, left=left)
    running = asyncio.get_running_loop().create_task(it.run())
    await asyncio.to_thread(looking.wait, 10)
    await it.stop(1.0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    go_on.set()
    assert left.done == ["killed"]


async def test_an_owner_that_raises_is_not_named_for_what_ends_with_it(tmp_path: Path) -> None:
    beats, well = Heartbeats(), Ends()
    it = supervised(tmp_path, heartbeats=beats, well=well)

    async def defect(_self: Idle) -> None:
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Idle, "run", defect)
        with pytest.raises(ExceptionGroup):
            await it.run()
    assert beats.failing
    assert well.done == ["killed"]

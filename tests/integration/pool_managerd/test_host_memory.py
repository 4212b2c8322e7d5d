"""What is told where the kernel ends processes for want of memory: which engine it was, and that it was no other."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.pools import Cause, PoolSnapshot, PoolState
from pool_managerd import app, proc
from pool_managerd.hub import Hub
from pool_managerd.oom_kills import OomKills
from tests.integration.pool_managerd.scopes import a_service
from tests.integration.pool_managerd.support import until
from tests.integration.pool_managerd.test_pools import TRIAL, World

SLICE = "/user@0.service/llama.slice/llama-orch.slice/llama-orch-engines.slice"


class Kernel:
    """What it counts in each control group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.killed: dict[str, int] = {}
        monkeypatch.setattr(proc, "own_cgroup", lambda: "/user@0.service/pool-managerd.service")
        monkeypatch.setattr(proc, "oom_kills", lambda group: self.killed.get(group, 0))
        monkeypatch.setattr(
            "pool_managerd.scopes.is_engines",
            lambda _group: True,  # the stand-in for systemd-run makes no scope
        )

    def kill(self, group: str, pid: int | None = None) -> None:
        self.killed[group] = self.killed.get(group, 0) + 1
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture
def two(tmp_path: Path) -> World:
    """Two pools, each with its engine in a scope, and none that is started again."""
    service = {**a_service(tmp_path / "bin"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    world = World(tmp_path, TRIAL, service=service)
    first = replace(TRIAL, restart=replace(TRIAL.restart, max_failures=1))
    config = replace(world.context.config, pools=(first, replace(first, id="gpu1", devices=(1,))))
    world.context = dataclasses.replace(world.context, config=config)
    return world


def pool(hub: Hub, pool_id: str) -> PoolSnapshot:
    found = hub.pool(pool_id)
    assert found is not None
    return found


async def ready(parts: app.Parts) -> None:
    await until(lambda: all(each.ready for each in parts.hub.pools().pools), "both pools")


async def cause(parts: app.Parts, pool_id: str, end: Callable[[], None]) -> Cause:
    """Why its engine ended, as it is told."""
    end()
    await until(lambda: pool(parts.hub, pool_id).state is PoolState.BROKEN, "the end of the engine")
    error = pool(parts.hub, pool_id).last_error
    assert error is not None
    return error.cause


@pytest.mark.req("PM-06")
async def test_what_the_kernel_ended_of_one_engine_explains_no_other_end(two: World, kernel: Kernel) -> None:
    async with two.running() as parts:
        await ready(parts)
        first = two.pid("gpu0")
        assert await cause(parts, "gpu0", lambda: kernel.kill(SLICE, first)) is Cause.HOST_OOM
        second = two.pid("gpu1")  # it ran all along
        assert await cause(parts, "gpu1", lambda: os.kill(second, signal.SIGKILL)) is Cause.ENGINE_EXIT


@pytest.mark.req("PM-06")
async def test_two_engines_that_the_kernel_ended_are_both_told(two: World, kernel: Kernel) -> None:
    async with two.running() as parts:
        await ready(parts)
        first, second = two.pid("gpu0"), two.pid("gpu1")
        kernel.kill(SLICE)  # the second one's, which is seen later
        assert await cause(parts, "gpu0", lambda: kernel.kill(SLICE, first)) is Cause.HOST_OOM
        assert await cause(parts, "gpu1", lambda: os.kill(second, signal.SIGKILL)) is Cause.HOST_OOM


@pytest.mark.req("PM-06")
async def test_a_compiler_that_the_kernel_ended_is_no_process_of_an_engine(two: World, kernel: Kernel) -> None:
    async with two.running() as parts:
        await ready(parts)
        kernel.kill("/user@0.service/pool-managerd.service")
        engine = two.pid("gpu0")
        assert await cause(parts, "gpu0", lambda: os.kill(engine, signal.SIGKILL)) is Cause.ENGINE_EXIT


def test_what_nobody_counts_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OomKills(None).since(0) == frozenset()
    monkeypatch.setattr(proc, "oom_kills", lambda _group: 3)
    kills = OomKills("/group")
    assert kills.since(1) == {2, 3}
    kills.explain(frozenset({2}))
    assert kills.since(0) == {1, 3}
    assert kills.since(3) == frozenset()

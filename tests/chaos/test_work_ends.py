"""Engines that are to end once their work has: a drain and a reload take no longer than the last task."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.installation import Installation, alive, parse_events
from tests.support.tiny_gguf import slow_model

LONG = {"prompt": "once upon a time", "max_tokens": 300, "seed": 7}
FOR_EVER_MS = 86_400_000


@pytest.fixture
async def lab(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with Installation(tmp_path / "home", slow_model(tmp_path_factory), slots=2, ctx=1024) as installation:
        yield await installation.up()


async def gone(pid: int) -> None:
    """Wait for the end of a process; far less than a deadline of a day."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop.add_reader(watched, ended.set)
    try:
        async with asyncio.timeout(20):
            await ended.wait()
    finally:
        loop.remove_reader(watched)
        os.close(watched)


async def ask(lab: Installation, verb: str, **body: object) -> None:
    async with lab.http.post(f"/v1/pools/{lab.pool_id}/{verb}", json=body) as response:
        assert response.status == 202, await response.text()


@pytest.mark.req("PM-04")
async def test_a_drain_ends_with_the_last_task(lab: Installation) -> None:
    engine = lab.engine_pid()
    async with lab.streaming(LONG | {"max_tokens": 30}) as long, lab.streaming(LONG | {"max_tokens": 400}) as longer:
        await long.content.readany()
        await longer.content.readany()
        await ask(lab, "drain", deadline_ms=FOR_EVER_MS)
        assert parse_events(await long.read())[-1][0] == "end"
        assert alive(engine), "one task is left"
        assert parse_events(await longer.read())[-1][0] == "end"
    await gone(engine)
    await lab.orchestrator.logged("pool trial is stopped")


@pytest.mark.req("PM-04", "HP-11")
async def test_a_drain_ends_when_the_last_task_is_cancelled(lab: Installation) -> None:
    engine = lab.engine_pid()
    async with lab.streaming(LONG) as long:
        await long.content.readany()
        await ask(lab, "drain", deadline_ms=FOR_EVER_MS)
        async with lab.http.post(long.headers["Location"] + "/cancel") as canceled:
            assert canceled.status == 204
        assert parse_events(await long.read())[-1][1]["finish_reason"] == "canceled"
    await gone(engine)


@pytest.mark.req("PM-04")
async def test_a_reload_breaks_nothing_and_the_old_engine_ends_with_its_last_task(
    lab: Installation, tmp_path: Path
) -> None:
    old = lab.engine_pid()
    other = tmp_path / "other.gguf"
    other.write_bytes(Path(await lab.model_id()).read_bytes())
    seen = len(lab.orchestrator.lines)
    async with lab.streaming(LONG | {"max_tokens": 400}) as running:
        await running.content.readany()
        os.kill(old, signal.SIGSTOP)  # so that its task cannot be over before all of this is
        await ask(lab, "reload", new_model_ref=str(other), deadline_ms=FOR_EVER_MS)
        await lab.orchestrator.logged("pool trial serves", str(other), since=seen)
        # The new engine has all of its slots, whatever still runs on the old one.
        async with lab.streaming({"prompt": "a", "max_tokens": 4}) as one:
            async with lab.streaming({"prompt": "b", "max_tokens": 4}) as two:
                assert parse_events(await two.read())[-1][0] == "end"
            assert parse_events(await one.read())[-1][0] == "end"
        assert alive(old)
        os.kill(old, signal.SIGCONT)
        assert parse_events(await running.read())[-1][0] == "end"
    await gone(old)
    assert (await lab.get("/v1/pools/trial/health"))["ready"] is True


@pytest.mark.req("PM-04")
async def test_a_reload_of_a_pool_without_work_leaves_one_engine_at_once(lab: Installation, tmp_path: Path) -> None:
    old = lab.engine_pid()
    other = tmp_path / "other.gguf"
    other.write_bytes(Path(await lab.model_id()).read_bytes())
    await ask(lab, "reload", new_model_ref=str(other), deadline_ms=FOR_EVER_MS)
    await lab.orchestrator.logged("pool trial serves", str(other))
    await gone(old)

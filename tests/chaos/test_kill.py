"""kill -9 of each part while it works: what the client sees, what comes back, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.kill.__main__ import said
from bench.kill.play import play
from tests.plugins.told import Told
from tests.support.installation import Installation, alive, parse_events, text_of
from tests.support.tiny_gguf import slow_model

LONG = {"prompt": "once upon a time", "max_tokens": 400, "seed": 7}


@pytest.fixture
async def lab(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with Installation(tmp_path / "home", slow_model(tmp_path_factory)) as installation:
        yield await installation.up()


@pytest.mark.req("HP-17", "PM-01")
async def test_an_engine_killed_mid_stream_gives_one_error_at_once_and_the_pool_recovers(lab: Installation) -> None:
    engine = lab.engine_pid()
    received = b""
    async with lab.streaming(LONG) as response:
        async for chunk in response.content.iter_any():
            received += chunk
            if b"event: token" in received and alive(engine):
                os.kill(engine, signal.SIGKILL)
    events = parse_events(received)
    errors = [data for name, data in events if name == "error"]
    assert len(errors) == 1
    assert events[-1][0] == "error"
    assert (errors[0]["code"], errors[0]["retriable"]) == ("WORKER_RESET", True)
    again = await lab.run({"prompt": "and then", "max_tokens": 4})
    assert again[-1][0] == "end"
    health = await lab.get("/v1/pools/trial/health")
    assert (health["ready"], health["restarts"]) == (True, 1)
    assert lab.engine_pid() != engine
    assert not alive(engine)


@pytest.mark.req("PM-07")
async def test_a_stream_and_its_engine_outlive_their_manager(lab: Installation) -> None:
    engine = lab.engine_pid()
    strict = LONG | {"determinism": "strict"}
    undisturbed = text_of(await lab.run(strict))
    received = b""
    seen = len(lab.orchestrator.lines)
    async with lab.streaming(strict) as response:
        async for chunk in response.content.iter_any():
            if not received:
                await lab.manager.kill()
                await lab.manager.start()
                await lab.manager.logged("taking over the engine")
            received += chunk
    events = parse_events(received)
    assert events[-1][0] == "end"
    assert text_of(events) == undisturbed
    assert not [line for line in lab.orchestrator.lines[seen:] if '"pool trial is ' in line]
    assert (lab.engine_pid(), alive(engine)) == (engine, True)
    assert (await lab.run({"prompt": "and then", "max_tokens": 4}))[-1][0] == "end"
    assert await lab.manager.kill(signal.SIGTERM) == 0
    assert not alive(engine)


@pytest.mark.req("PM-04")
async def test_a_reload_breaks_no_stream_and_turns_no_task_away(lab: Installation, tmp_path: Path) -> None:
    old = lab.engine_pid()
    other = tmp_path / "other.gguf"
    other.write_bytes(Path(await lab.model_id()).read_bytes())
    seen = len(lab.orchestrator.lines)
    async with lab.streaming(LONG) as running:
        await running.content.readany()
        os.kill(old, signal.SIGSTOP)  # so that its task cannot be over before all of this is
        body = {"new_model_ref": str(other)}
        async with lab.http.post(f"/v1/pools/{lab.pool_id}/reload", json=body) as response:
            assert response.status == 202
        await lab.orchestrator.logged("pool trial serves", str(other), since=seen)
        assert await lab.model_id() == str(other)
        assert alive(old)
        os.kill(old, signal.SIGCONT)
        assert parse_events(await running.read())[-1][0] == "end"
    events = await lab.run({"prompt": "and then", "max_tokens": 4})
    assert events[-1][0] == "end"


async def test_tasks_wait_while_a_crashed_engine_comes_back(lab: Installation) -> None:
    async with lab.streaming(LONG) as running:
        await running.content.readuntil(b"event: token")
        async with lab.streaming({"prompt": "next", "max_tokens": 4}) as waiting:
            os.kill(lab.engine_pid(), signal.SIGKILL)
            assert parse_events(await running.read())[-1][0] == "error"
            assert parse_events(await waiting.read())[-1][0] == "end"


@pytest.mark.req("PM-05")
async def test_orchestratord_goes_on_while_its_manager_is_away(lab: Installation) -> None:
    await lab.manager.kill()
    assert (await lab.run({"prompt": "still", "max_tokens": 4}))[-1][0] == "end"
    assert (await lab.get("/v1/pools"))["managed"] is False


async def test_orchestratord_killed_leaves_the_engine_serving(lab: Installation) -> None:
    engine = lab.engine_pid()
    first = await lab.run({"prompt": "before", "max_tokens": 8, "seed": 3, "determinism": "strict"})
    await lab.orchestrator.kill()
    seen = len(lab.orchestrator.lines)
    await lab.orchestrator.start()
    await lab.orchestrator.logged("pool trial is ready", since=seen)
    assert lab.engine_pid() == engine
    again = await lab.run({"prompt": "before", "max_tokens": 8, "seed": 3, "determinism": "strict"})
    assert text_of(again) == text_of(first)


@pytest.mark.req("HP-19")
async def test_a_client_that_comes_back_reads_the_same_bytes_as_one_that_never_left(lab: Installation) -> None:
    async with lab.streaming(LONG | {"max_tokens": 60}) as response:
        path = response.headers["Location"] + "/stream"
        first = await response.content.readuntil(b"\n\n")
        for _ in range(5):
            first += await response.content.readuntil(b"\n\n")
    seen = parse_events(first)[-1][1]["i"]
    async with lab.http.get(path, headers={"Last-Event-ID": str(seen)}) as response:
        rest = await response.read()
    async with lab.http.get(path) as response:
        whole = await response.read()
    assert parse_events(whole)[-1][0] == "end"
    assert first + rest == whole


@pytest.mark.req("HP-11")
async def test_a_cancel_frees_the_engines_slot_and_no_token_follows(lab: Installation) -> None:
    async with lab.streaming(LONG) as response:
        task = response.headers["Location"]
        received = await response.content.readuntil(b"\n\n")
        async with lab.http.post(f"{task}/cancel") as canceled:
            assert canceled.status == 204
        received += await response.read()
    async with lab.http.post(f"{task}/cancel") as again:
        assert again.status == 204
    events = parse_events(received)
    assert events[-1][0] == "end"
    assert events[-1][1]["finish_reason"] == "canceled"
    assert (await lab.run({"prompt": "next", "max_tokens": 2}))[-1][0] == "end"


@pytest.mark.req("HP-19")
async def test_an_interactive_task_whose_last_listener_left_is_cancelled(lab: Installation) -> None:
    async with lab.streaming(LONG) as response:
        task = response.headers["Location"]
        await response.content.readany()
    await lab.orchestrator.logged(task.rpartition("/")[2], "ended: canceled")


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.req("HP-17", "HP-19", "HP-21", "PM-07")
async def test_nothing_is_lost_while_everything_is_killed_at_any_moment(tmp_path: Path, told: Told) -> None:
    """``python -m bench.kill`` is the same with thousands of tasks, and says what is looked at."""
    outcome = await play(tmp_path / "house", tasks=300, at_once=24, seed=1, every=250)
    told("\n".join(said(outcome)))
    assert outcome.wrong == ()
    assert {"orchestratord", "pool_managerd", "engine"} <= outcome.killed.keys()

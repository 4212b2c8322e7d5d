"""Engines that die, stall or lie: what the client is told, how soon, and whether the next task finds an engine."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from contracts.config import Timeouts
from contracts.pools import PoolState
from tests.integration.orchestratord.house import complete, house, read_until, tokens_in, unattended
from tests.plugins.failures import OperatorSees
from tests.standin.knobs import Fault, HttpError, Knobs, Stats
from tests.standin.process import standin_process
from tests.standin.server import StandIn
from tests.unit.orchestratord.frames import events_of, frames_of
from tests.unit.orchestratord.world import pool

NO_LIMIT = Timeouts(wall_ms=600_000, idle_ms=600_000)
"""An error that is told before the test is over was told for another reason than that a limit was reached."""


def left_alone(stats: Stats) -> bool:
    """Whatever the engine was asked for, it was left with; a limit may be reached before a question gets there."""
    return stats.running == stats.waiting == 0 and stats.cancelled == stats.requests


def error_of(stream: bytes) -> dict[str, Any]:
    frames = frames_of(stream)
    assert [frame.event for frame in frames if frame.event in {"end", "error"}] == ["error"]
    assert frames[-1].event == "error"
    return frames[-1].data  # type: ignore[no-any-return]


@pytest.mark.req("HP-17")
async def test_an_engine_that_is_killed_is_told_at_once_and_replaced(tmp_path: Path) -> None:
    slow = Knobs(tokens=100_000, token_delay_ms=5, tokens_per_write=1)
    async with house(tmp_path, timeouts=NO_LIMIT) as here:
        async with standin_process(slow) as engine:
            here.report(engine.url)
            task_id = await here.submit(max_tokens=100_000)
            async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
                got = await read_until(answer, lambda got: tokens_in(got) >= 3)
                engine.kill()
                got += await answer.read()
        error = error_of(got)
        assert (error["code"], error["retriable"], error["retry_after_ms"]) == ("WORKER_RESET", True, 0)
        assert error["engine"] == "llamacpp"
        assert tokens_in(got) >= 3
        waiting = await here.submit()
        here.report("http://127.0.0.1:1", state=PoolState.BACKOFF, endpoint=None)
        async with StandIn(Knobs()) as next_engine:
            here.report(next_engine.url, restarts=1)
            assert events_of(await here.stream(waiting))[-1] == "end"


@pytest.mark.req("HP-17")
async def test_an_engine_that_stalls_is_given_up_at_the_idle_limit(tmp_path: Path, operator_sees: OperatorSees) -> None:
    knobs = Knobs(fault=Fault.HANG, fault_after=3, tokens=9)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url, timeouts=Timeouts(idle_ms=400)) as here:
        stream = await here.stream(await here.submit(max_tokens=9))
        error = error_of(stream)
        assert (error["code"], error["retriable"]) == ("DECODE_TIMEOUT", True)
        assert error["message"] == "the engine was given up after 400 ms (idle limit)"
        assert error["hint"] == "timeouts.idle_ms of the pool sets this limit"
        operator_sees("supervision/engine-stalls", f"{error['code']}: {error['message']}\n  mend: {error['hint']}")
        assert tokens_in(stream) == knobs.fault_after
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


@pytest.mark.req("HP-17")
async def test_a_prompt_may_take_longer_than_the_idle_limit(tmp_path: Path) -> None:
    knobs = Knobs(first_token_delay_ms=700, tokens=3, ping_ms=50)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url, timeouts=Timeouts(idle_ms=150)) as here:
        stream = await here.stream(await here.submit())
        assert (events_of(stream)[-1], tokens_in(stream)) == ("end", 3)


@pytest.mark.req("HP-17")
async def test_an_engine_that_never_begins_is_given_up_at_the_wall_limit(
    tmp_path: Path, operator_sees: OperatorSees
) -> None:
    knobs = Knobs(first_token_delay_ms=60_000, ping_ms=20)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url, timeouts=Timeouts(wall_ms=300)) as here:
        error = error_of(await here.stream(await here.submit()))
        operator_sees(
            "supervision/engine-never-begins", f"{error['code']}: {error['message']}\n  mend: {error['hint']}"
        )
        await engine.until(left_alone)


@pytest.mark.req("HP-17")
async def test_an_engine_that_never_ends_is_given_up_at_the_wall_limit(tmp_path: Path) -> None:
    endless = Knobs(tokens=1_000_000, token_delay_ms=1, tokens_per_write=1)
    async with StandIn(endless) as engine, house(tmp_path, engine.url, timeouts=Timeouts(wall_ms=2_000)) as here:
        error = error_of(await here.stream(await here.submit(max_tokens=1_000_000)))
        assert (error["code"], error["message"]) == (
            "DECODE_TIMEOUT",
            "the engine was given up after 2000 ms (wall limit)",
        )
        await engine.until(left_alone)


async def test_pings_of_the_engine_are_no_sign_of_life(tmp_path: Path) -> None:
    knobs = Knobs(tokens=3, token_delay_ms=60_000, tokens_per_write=1, ping_ms=20)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url, timeouts=Timeouts(idle_ms=300)) as here:
        stream = await here.stream(await here.submit())
        assert (error_of(stream)["code"], tokens_in(stream)) == ("DECODE_TIMEOUT", 1)
        await engine.until(lambda stats: stats.cancelled == 1)


# What the stand-in reports inside a stream is a context that filled up, but for the string, which says nothing.
FAULTS = [
    (Fault.CLOSE, "WORKER_RESET", True),
    (Fault.RESET, "WORKER_RESET", True),
    (Fault.EOF, "WORKER_RESET", True),
    (Fault.GARBAGE, "WORKER_RESET", True),
    (Fault.ERROR, "INVALID_PARAMS", False),
    (Fault.ERROR_DONE, "INVALID_PARAMS", False),
    (Fault.ERROR_FIELD, "INVALID_PARAMS", False),
    (Fault.ERROR_STRING, "WORKER_RESET", True),
]


@pytest.mark.req("HP-17")
@pytest.mark.parametrize(("fault", "code", "retriable"), FAULTS)
@pytest.mark.parametrize("after", [0, 3])
async def test_a_broken_stream_ends_in_one_error_and_the_next_task_runs(
    tmp_path: Path, fault: Fault, code: str, retriable: bool, after: int
) -> None:
    async with StandIn(Knobs(fault=fault, fault_after=after)) as engine, house(tmp_path, engine.url) as here:
        stream = await here.stream(await here.submit())
        error = error_of(stream)
        assert (error["code"], error["retriable"]) == (code, retriable)
        assert tokens_in(stream) == after
        engine.set(Knobs())
        assert events_of(await here.stream(await here.submit()))[-1] == "end"


async def test_an_answer_that_is_no_stream_is_an_error(tmp_path: Path) -> None:
    async with StandIn(Knobs(not_sse=True)) as engine, house(tmp_path, engine.url) as here:
        error = error_of(await here.stream(await here.submit()))
        assert error["code"] == "WORKER_RESET"
        assert error["message"] == "an event stream was due, and text/html came"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b'{"error":{"code":400,"message":"bad grammar","type":"invalid_request_error"}}', "INVALID_PARAMS"),
        (500, b'{"error":{"code":500,"message":"boom","type":"server_error"}}', "WORKER_RESET"),
        (503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}', "POOL_UNREADY"),
    ],
)
async def test_a_refusal_of_the_engine_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, code: str
) -> None:
    unattended(monkeypatch)
    knobs = Knobs(http_error=HttpError(status, body.decode()))
    async with StandIn(knobs) as engine, house(tmp_path, engine.url) as here:
        stream = await here.stream(await here.submit())
        assert error_of(stream)["code"] == code
        attempts = 1 if code == "INVALID_PARAMS" else 3
        assert events_of(stream) == ["started", *["metrics"] * (attempts - 1), "error"]
        assert engine.stats.requests == attempts


@pytest.mark.req("HP-17")
async def test_a_task_that_finds_nobody_at_the_endpoint_waits_for_the_next_engine(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(StandIn())
        async with house(tmp_path, engine.url) as here:
            await here.stream(await here.submit())
            await stack.aclose()
            task_id = await here.submit()
            async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
                got = await read_until(answer, lambda got: b"event: started" in got)
                while (await here.get(f"/v1/tasks/{task_id}"))["state"] != "queued":
                    pass
                async with StandIn() as next_engine:
                    here.report(next_engine.url, restarts=1)
                    got += await answer.read()
            assert events_of(got)[:2] == ["started", "metrics"]
            assert events_of(got)[-1] == "end"
            assert (await here.get(f"/v1/tasks/{task_id}"))["attempts"] == 2


@pytest.mark.req("HP-17", "HP-06")
async def test_another_replica_takes_over_from_one_that_is_killed_before_its_first_token(tmp_path: Path) -> None:
    slow = Knobs(first_token_delay_ms=60_000)
    pools = (pool("a", timeouts=NO_LIMIT), pool("b", timeouts=NO_LIMIT))
    async with StandIn() as other, house(tmp_path, None, *pools) as here, standin_process(slow) as engine:
        here.report(engine.url, "a")
        here.report(other.url, "b")
        task_id = await here.submit()
        async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
            got = await read_until(answer, lambda got: b"event: started" in got)
            engine.kill()
            got += await answer.read()
        frames = frames_of(got)
        assert events_of(got) == ["started", "metrics", *["token"] * 8, "end"]
        assert [frame.data["replica_id"] for frame in frames[:2]] == ["a-0", "b-0"]


async def test_a_huge_event_is_one_token(tmp_path: Path) -> None:
    knobs = Knobs(fault=Fault.HUGE, fault_after=2, tokens=4, huge_bytes=500_000)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url) as here:
        stream = await here.stream(await here.submit())
        assert tokens_in(stream) == 5
        assert max(len(frame.raw) for frame in complete(stream)) > 500_000
        assert events_of(stream)[-1] == "end"

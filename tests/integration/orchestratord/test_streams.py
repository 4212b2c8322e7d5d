"""Tasks and their streams over HTTP: order, listeners, resumption, cancel."""

import asyncio
import hashlib
import socket
from pathlib import Path
from typing import Any

import pytest

from contracts.config import Sessions
from tests.integration.orchestratord.house import BODY, EVENT_STREAM, house, json_of, read_until, tokens_in
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.unit.orchestratord.frames import events_of, frames_of, text_of

STUCK = Knobs(fault=Fault.HANG, fault_after=5, tokens=100)
"""Five tokens, then silence until the client leaves."""


def end_of(stream: bytes) -> dict[str, Any]:
    last = frames_of(stream)[-1]
    assert last.event == "end", last
    return last.data  # type: ignore[no-any-return]


@pytest.mark.req("HP-03", "HP-10")
async def test_a_task_is_accepted_and_streams_in_order(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        async with here.client.post("/v1/tasks", json=BODY | {"seed": 3}) as answer:
            assert answer.status == 202
            assert answer.headers["Location"] == "/v1/tasks/task-n1"
            assert await answer.json() == {
                "task_id": "task-n1",
                "job_id": "job-n2",
                "queue_position": 0,
                "predicted_start_ms": 0,
                "backoff_ms": 0,
                "streams": {"sse": "/v1/tasks/task-n1/stream"},
                "predicted_start_low_ms": 0,
                "predicted_start_high_ms": 0,
                "on_time_probability": None,
            }
        async with here.client.get("/v1/tasks/task-n1/stream") as answer:
            assert answer.status == 200
            assert answer.content_type == EVENT_STREAM
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.headers["X-Accel-Buffering"] == "no"
            stream = await answer.read()
        assert events_of(stream) == ["started", *["token"] * 8, "end"]
        tokens = [frame for frame in frames_of(stream) if frame.event == "token"]
        assert [frame.number for frame in tokens] == [frame.data["i"] for frame in tokens] == list(range(8))
        started = frames_of(stream)[0].data
        assert (started["queue_position"], started["predicted_start_ms"], started["seed"]) == (0, 0, 3)
        words = Knobs().words
        assert text_of(stream) == "".join(words[(3 + i) % len(words)] for i in range(8))
        end = end_of(stream)
        assert (end["tokens_out"], end["finish_reason"]) == (8, "length")
        assert end["stream_sha256"] == hashlib.sha256(text_of(stream).encode()).hexdigest()


@pytest.mark.req("HP-10")
async def test_one_post_is_enough(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        async with here.client.post("/v1/tasks", json=BODY, headers={"Accept": EVENT_STREAM}) as answer:
            assert answer.status == 200
            assert answer.content_type == EVENT_STREAM
            assert answer.headers["Location"] == "/v1/tasks/task-n1"
            stream = await answer.read()
        assert events_of(stream)[-1] == "end"
        assert stream == await here.stream("task-n1")


async def test_a_refusal_of_such_a_post_is_still_a_status(tmp_path: Path) -> None:
    async with (
        house(tmp_path) as here,
        here.client.post("/v1/tasks", json=BODY, headers={"Accept": EVENT_STREAM}) as answer,
    ):
        assert answer.status == 503
        assert answer.content_type == "application/json"
        assert (await answer.json())["code"] == "POOL_UNAVAILABLE"


async def test_what_the_client_asks_for_reaches_the_engine(tmp_path: Path) -> None:
    sampling = {"temperature": 0.5, "top_k": 7, "stop": ["."]}
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url, report={"slots": 1}) as here:
        await here.stream(await here.submit(seed=9, determinism="strict", sampling=sampling))
        sent = next(each for each in engine.requests if b'"prompt"' in each.body)
        body = json_of(sent.body)
        assert (body["seed"], body["cache_prompt"], body["n_predict"], body["prompt"]) == (9, False, 8, "hello")
        assert (body["temperature"], body["top_k"], body["stop"]) == (0.5, 7, ["."])


async def test_a_chat(tmp_path: Path) -> None:
    chat = {"workload": "chat", "prompt": None, "messages": [{"role": "user", "content": "hi"}]}
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        stream = await here.stream(await here.submit(**chat))
        assert tokens_in(stream) == 8
        assert end_of(stream)["tokens_out"] == 8


# --- listeners --------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-19")
async def test_a_returning_client_gets_the_bytes_that_it_missed_at_every_position(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit(max_tokens=40)
        whole = await here.stream(task_id)
        for seen in range(40):
            behind = whole.index(b"\n\n", whole.index(b"\nid: %d\n" % seen)) + 2
            assert await here.stream(task_id, after=seen) == whole[behind:]
        async with here.client.get(f"/v1/tasks/{task_id}/stream?after=38") as answer:
            last = frames_of(await answer.read())
        assert [frame.data.get("i") for frame in last] == [39, None]
        assert events_of(await here.stream(task_id, after=39)) == ["end"]
        assert events_of(await here.stream(task_id, after=1000)) == ["end"]


@pytest.mark.req("HP-19")
async def test_clients_that_return_during_the_run_miss_nothing(tmp_path: Path) -> None:
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit(max_tokens=100)
        async with here.client.get(f"/v1/tasks/{task_id}/stream") as first:
            seen = await read_until(first, lambda got: tokens_in(got) == 5)
            async with asyncio.TaskGroup() as group:
                late = [group.create_task(here.stream(task_id, after=position)) for position in range(-1 + 1, 5)]
                late_from_the_start = group.create_task(here.stream(task_id))
                await engine.until(lambda stats: stats.tokens == 5)
                assert await here.cancel(task_id) == 204
            whole = seen + await first.read()
        assert late_from_the_start.result() == whole
        for position, reader in enumerate(late):
            behind = whole.index(b"\n\n", whole.index(b"\nid: %d\n" % position)) + 2
            assert reader.result() == whole[behind:]


@pytest.mark.req("HP-10")
async def test_many_listeners_get_the_same_bytes(tmp_path: Path) -> None:
    async with (
        StandIn(Knobs(tokens=500, token_delay_ms=0.2, tokens_per_write=5)) as engine,
        house(tmp_path, engine.url) as here,
    ):
        task_id = await here.submit(max_tokens=500)
        async with asyncio.TaskGroup() as group:
            readers = [group.create_task(here.stream(task_id)) for _ in range(50)]
        assert len({reader.result() for reader in readers}) == 1
        assert tokens_in(readers[0].result()) == 500
        assert engine.stats.requests == 1


async def test_a_slow_listener_slows_nobody_and_loses_nothing(tmp_path: Path) -> None:
    knobs = Knobs(words=("x" * 1_000,), tokens=8_000)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit(max_tokens=8_000, priority="batch")
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            host, port = here.url.removeprefix("http://").split(":")
            await loop.sock_connect(slow, (host, int(port)))
            head = f"GET /v1/tasks/{task_id}/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            await loop.sock_sendall(slow, head.encode())
            whole = await here.stream(task_id)
            assert engine.stats.completed == 1
            assert tokens_in(whole) == 8_000
            got = b""
            while more := await loop.sock_recv(slow, 1 << 20):
                got += more
        _, _, body = got.partition(b"\r\n\r\n")
        assert dechunked(body) == whole


def dechunked(body: bytes) -> bytes:
    whole = bytearray()
    at = 0
    while at < len(body):
        line = body.index(b"\r\n", at)
        size = int(body[at:line], 16)
        whole += body[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
    return bytes(whole)


async def test_silence_is_filled_with_pings_between_whole_events(tmp_path: Path) -> None:
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, ping_interval_ms=10) as here:
        task_id = await here.submit(max_tokens=100)
        async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
            got = await read_until(answer, lambda got: got.count(b": ping\n\n") >= 3)
            assert await here.cancel(task_id) == 204
            got += await answer.read()
        quiet = got.replace(b": ping\n\n", b"")
        assert quiet == (await here.stream(task_id)).replace(b": ping\n\n", b"")
        assert events_of(quiet)[-1] == "end"


async def test_one_client_has_only_so_many_streams(tmp_path: Path) -> None:
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, max_streams_per_client=2) as here:
        task_id = await here.submit(max_tokens=100)
        path = f"/v1/tasks/{task_id}/stream"
        async with here.client.get(path) as one, here.client.get(path) as two:
            assert (one.status, two.status) == (200, 200)
            for method, where in (("GET", path), ("POST", "/v1/tasks")):
                headers = {"Accept": EVENT_STREAM}
                async with here.client.request(method, where, json=BODY, headers=headers) as answer:
                    assert answer.status == 429
                    body = await answer.json()
                    assert body["message"] == "2 streams of this client are open"
                    assert body["policy_label"] == "max_streams_per_client"
                    assert int(answer.headers["X-Backoff-Ms"]) > 1_000
                    assert int(answer.headers["Retry-After"]) * 1_000 >= body["retry_after_ms"]
            await here.cancel(task_id)
            await one.read()
            await two.read()
        assert events_of(await here.stream(task_id))[-1] == "end"
        assert engine.stats.requests == 1
        async with here.client.get("/metrics") as answer:
            said = await answer.text()
        counted = [line for line in said.splitlines() if 'policy="max_streams_per_client"' in line]
        assert [line.rpartition(" ")[2] for line in counted if "_created" not in line] == ["2.0"]


@pytest.mark.req("HP-04")
async def test_streams_that_are_asked_for_at_once_are_counted_before_their_tasks_are_in(tmp_path: Path) -> None:
    sessions = Sessions(token_budget=10_000)  # so that each prompt is counted, and each request waits for that
    async with (
        StandIn(STUCK) as engine,
        house(tmp_path, engine.url, sessions=sessions, max_streams_per_client=1) as here,
        asyncio.TaskGroup() as group,
    ):

        async def status(session_id: str) -> int:
            body = BODY | {"session_id": session_id}
            async with here.client.post("/v1/tasks", json=body, headers={"Accept": EVENT_STREAM}) as answer:
                if answer.status == 200:
                    await read_until(answer, lambda got: tokens_in(got) == 5)
                    await refused.wait()
                else:
                    refused.set()
                return answer.status

        refused = asyncio.Event()
        asked = [group.create_task(status(each)) for each in ("a", "b")]
        assert sorted([await each for each in asked]) == [200, 429]


@pytest.mark.req("HP-19")
async def test_an_interactive_task_ends_when_its_only_listener_goes(tmp_path: Path) -> None:
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, disconnect_grace_ms=1) as here:
        async with here.client.post(
            "/v1/tasks", json=BODY | {"max_tokens": 100}, headers={"Accept": EVENT_STREAM}
        ) as answer:
            await read_until(answer, lambda got: tokens_in(got) == 5)
            answer.close()
        await engine.until(lambda stats: stats.cancelled == 1)
        stream = await here.stream("task-n1")
        assert end_of(stream)["finish_reason"] == "canceled"
        assert tokens_in(stream) == 5


@pytest.mark.req("HP-19")
async def test_a_batch_task_goes_on_when_its_only_listener_goes(tmp_path: Path) -> None:
    knobs = Knobs(tokens=40, token_delay_ms=2, tokens_per_write=1)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url, disconnect_grace_ms=0) as here:
        body = BODY | {"max_tokens": 40, "priority": "batch"}
        async with here.client.post("/v1/tasks", json=body, headers={"Accept": EVENT_STREAM}) as answer:
            await read_until(answer, lambda got: tokens_in(got) >= 1)
            answer.close()
        stream = await here.stream("task-n1")
        assert end_of(stream)["finish_reason"] == "length"
        assert engine.stats.cancelled == 0


# --- cancel -----------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-11")
async def test_a_cancel_ends_the_stream_and_frees_the_engines_slot(tmp_path: Path) -> None:
    async with (
        StandIn(Knobs(tokens=100_000, token_delay_ms=1, tokens_per_write=1)) as engine,
        house(tmp_path, engine.url) as here,
    ):
        task_id = await here.submit(max_tokens=100_000)
        async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
            got = await read_until(answer, lambda got: tokens_in(got) >= 3)
            assert await here.cancel(task_id) == 204
            so_far = (await here.get(f"/v1/tasks/{task_id}"))["tokens_out"]
            got += await answer.read()
        assert end_of(got)["finish_reason"] == "canceled"
        assert tokens_in(got) == so_far == end_of(got)["tokens_out"]
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)
        assert [await here.cancel(task_id) for _ in range(3)] == [204, 204, 204]
        assert await here.stream(task_id) == got


@pytest.mark.req("HP-11")
async def test_a_cancel_while_the_prompt_is_worked_on(tmp_path: Path) -> None:
    async with StandIn(Knobs(first_token_delay_ms=60_000)) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit()
        await engine.until(lambda stats: stats.running == 1)
        assert await here.cancel(task_id) == 204
        stream = await here.stream(task_id)
        assert events_of(stream) == ["started", "end"]
        assert end_of(stream)["finish_reason"] == "canceled"
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


@pytest.mark.req("HP-11")
async def test_a_cancel_in_the_queue(tmp_path: Path) -> None:
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, report={"slots": 1}) as here:
        running, waiting = await here.submit(max_tokens=100), await here.submit()
        assert (await here.get(f"/v1/tasks/{waiting}"))["state"] == "queued"
        assert await here.cancel(waiting) == 204
        assert events_of(await here.stream(waiting)) == ["end"]
        assert (await here.get(f"/v1/tasks/{waiting}"))["state"] == "canceled"
        assert (await here.get(f"/v1/tasks/{running}"))["state"] == "running"
        await here.cancel(running)
        await engine.until(lambda stats: stats.cancelled == 1)
        assert engine.stats.requests == 1


# --- what can be read about tasks -------------------------------------------------------------------------------------


async def test_status_and_list(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        ids = [await here.submit(task_id=f"t{number}") for number in range(3)]
        for task_id in ids:
            await here.stream(task_id)
        status = await here.get("/v1/tasks/t1")
        assert (status["state"], status["finish_reason"], status["pool_id"]) == ("done", "length", "p")
        assert status["streams"] == {"sse": "/v1/tasks/t1/stream"}
        assert status["stream_sha256"] == end_of(await here.stream("t1"))["stream_sha256"]
        assert [task["task_id"] for task in (await here.get("/v1/tasks"))["tasks"]] == ["t2", "t1", "t0"]
        assert [task["task_id"] for task in (await here.get("/v1/tasks?limit=1"))["tasks"]] == ["t2"]
        assert (await here.get("/v1/tasks?state=running"))["tasks"] == []
        assert len((await here.get("/v1/tasks?state=done&limit=2"))["tasks"]) == 2


async def test_the_same_id_and_body_is_answered_with_the_same_task(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        answers = []
        for _ in range(2):
            async with here.client.post("/v1/tasks", json=BODY | {"task_id": "mine"}) as answer:
                answers.append((answer.status, answer.headers["Location"], await answer.json()))
            await here.stream("mine")
        assert answers[0] == answers[1]
        assert engine.stats.requests == 1
        async with here.client.post("/v1/tasks", json=BODY | {"task_id": "mine", "prompt": "else"}) as answer:
            assert answer.status == 409
            assert (await answer.json())["code"] == "CONFLICT"


# --- slots ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-01", "HP-08")
@pytest.mark.parametrize("slots", [1, 3])
async def test_the_engine_never_sees_more_than_its_slots(tmp_path: Path, slots: int) -> None:
    knobs = Knobs(tokens=5, token_delay_ms=1, tokens_per_write=1, slots=slots)
    full = asyncio.Event()
    async with StandIn(knobs) as engine, house(tmp_path, engine.url, report={"slots": slots}) as here:
        acquire = engine.acquire

        async def acquired() -> int:
            slot = await acquire()
            await full.wait()
            return slot

        engine.acquire = acquired  # type: ignore[method-assign]
        tasks = [await here.submit(prompt=str(number), max_tokens=5) for number in range(12)]
        await engine.until(lambda stats: stats.running == slots)
        full.set()
        async with asyncio.TaskGroup() as group:
            streams = [group.create_task(here.stream(task_id)) for task_id in tasks]
        assert all(end_of(stream.result())["finish_reason"] == "length" for stream in streams)
        assert engine.stats.peak == slots
        assert engine.stats.waiting == 0
        prompts = [json_of(each.body)["prompt"] for each in engine.requests if b'"prompt"' in each.body]
        assert prompts == [str(number) for number in range(12)]


@pytest.mark.req("HP-05")
async def test_a_prompt_beyond_the_context_is_refused_with_the_engines_own_count(tmp_path: Path) -> None:
    async with StandIn(Knobs(ctx=64)) as engine, house(tmp_path, engine.url, report={"ctx_max": 64}) as here:
        async with here.client.post("/v1/tasks", json=BODY | {"prompt": "word " * 200}) as answer:
            assert answer.status == 400
            body = await answer.json()
        assert (body["code"], body["field"]) == ("INVALID_PARAMS", "prompt")
        assert "and the context holds 64" in body["message"]
        assert engine.stats.requests == 0

"""The same task through every engine's adapter: one contract at our end, whatever is spoken behind it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.config import Engine, Queue, Timeouts
from contracts.tasks import Workload
from tests.integration.adapters.subjects import ANSWERED, DOCUMENTS, STREAMED, Subject
from tests.integration.orchestratord.house import House, house, read_until, tokens_in, unattended
from tests.integration.orchestratord.test_engine_faults import left_alone
from tests.standin.knobs import Fault, Knobs
from tests.standin.process import standin_process
from tests.standin.server import StandIn
from tests.unit.orchestratord.frames import Frame, events_of, frames_of, text_of
from tests.unit.orchestratord.world import pool

pytestmark = pytest.mark.req("AD-01", "HP-10")

streamed = pytest.mark.parametrize("subject", STREAMED, ids=lambda subject: subject.name)
answered = pytest.mark.parametrize("subject", ANSWERED, ids=lambda subject: subject.name)
COMPLETIONS = [each for each in STREAMED if each.workload is Workload.COMPLETION]
one_each = pytest.mark.parametrize("subject", COMPLETIONS, ids=lambda subject: subject.name)
TASKS: dict[Workload, dict[str, Any]] = {
    Workload.COMPLETION: {"workload": "completion", "prompt": "hello"},
    Workload.CHAT: {"workload": "chat", "prompt": None, "messages": [{"role": "user", "content": "hi"}]},
    Workload.EMBEDDING: {"workload": "embedding", "prompt": None, "inputs": list(DOCUMENTS), "max_tokens": None},
    Workload.RERANK: {"workload": "rerank", "prompt": "a cat", "inputs": list(DOCUMENTS), "max_tokens": None},
}
END = {
    "tokens_in": int,
    "tokens_out": int,
    "decode_time_ms": int,
    "decode_ms": int,
    "first_token_ms": int,
    "queue_time_ms": int,
    "finish_reason": str,
    "stream_sha256": str,
    "artifact_id": str,
}
"""The fields of the end, and what each of them is."""


@asynccontextmanager
async def ready(
    folder: Path,
    url: str,
    engine: Engine,
    timeouts: Timeouts | None = None,
    **server: Any,  # noqa: ANN401
) -> AsyncIterator[House]:
    """A house whose only pool is this engine, which is known to serve."""
    own = pool(engine=engine, timeouts=timeouts or Timeouts(), queue=Queue())
    async with house(folder, url, own, report={"engine": engine}, **server) as here:
        yield here


@asynccontextmanager
async def serving(
    folder: Path,
    subject: Subject,
    knobs: Knobs,
    **more: Any,  # noqa: ANN401
) -> AsyncIterator[tuple[StandIn, House]]:
    async with subject.serve(knobs) as engine, ready(folder, engine.url, subject.engine, **more) as here:
        yield engine, here


async def submitted(here: House, subject: Subject, **changes: Any) -> str:  # noqa: ANN401 - any field of the request
    return await here.submit(**TASKS[subject.workload] | changes)


def shape(frame: Frame) -> tuple[str, list[tuple[str, str]]]:
    """An event without what differs from one task to the next."""
    return frame.event, [(name, type(value).__name__) for name, value in frame.data.items()]


def checked(stream: bytes, reason: str) -> list[Frame]:
    """The events of a stream that ended well, of which the contract holds."""
    frames = frames_of(stream)
    tokens = [frame for frame in frames if frame.event == "token"]
    assert events_of(stream) == ["started", *["token"] * len(tokens), "end"]
    assert [frame.number for frame in tokens] == [frame.data["i"] for frame in tokens] == list(range(len(tokens)))
    assert all(frame.data.keys() == {"t", "i"} for frame in tokens)
    assert frames[0].number is None
    end = frames[-1].data
    assert {name: type(value) for name, value in end.items()} == END
    assert end["finish_reason"] == reason
    assert end["stream_sha256"] == hashlib.sha256(text_of(stream).encode()).hexdigest()
    return frames


@streamed
async def test_the_same_task_has_the_same_stream(tmp_path: Path, subject: Subject) -> None:
    async with serving(tmp_path, subject, subject.knobs(tokens=6)) as (_, here):
        stream = await here.stream(await submitted(here, subject, seed=3, max_tokens=50))
    frames = checked(stream, "stop")
    words = Knobs().words
    assert text_of(stream) == "".join(words[(3 + i) % len(words)] for i in range(6))
    assert tokens_in(stream) == frames[-1].data["tokens_out"] == 6
    started = frames[0].data
    assert (started["engine"], started["seed"], started["pool_id"]) == (subject.engine, 3, "p")


async def test_the_shape_of_a_stream_tells_nothing_of_the_engine(tmp_path: Path) -> None:
    shapes = set()
    for subject in STREAMED:
        folder = tmp_path / subject.name.replace(" ", "-")
        folder.mkdir()
        async with serving(folder, subject, subject.knobs(tokens=6)) as (_, here):
            stream = await here.stream(await submitted(here, subject, max_tokens=50))
        shapes.add(str([shape(frame) for frame in frames_of(stream)]))
    assert len(shapes) == 1


@streamed
async def test_the_limit_of_a_task_ends_it(tmp_path: Path, subject: Subject) -> None:
    async with serving(tmp_path, subject, subject.knobs()) as (_, here):
        stream = await here.stream(await submitted(here, subject, max_tokens=4))
    frames = checked(stream, "length" if subject.tells else "stop")
    assert tokens_in(stream) == frames[-1].data["tokens_out"] == 4


@pytest.mark.req("HP-19")
@streamed
async def test_who_returns_gets_the_same_bytes(tmp_path: Path, subject: Subject) -> None:
    async with serving(tmp_path, subject, subject.knobs(tokens=12, tokens_per_write=3)) as (_, here):
        task_id = await submitted(here, subject, max_tokens=50)
        whole = await here.stream(task_id)
        assert await here.stream(task_id) == whole
        for seen in range(12):
            behind = whole.index(b"\n\n", whole.index(b"\nid: %d\n" % seen)) + 2
            assert await here.stream(task_id, after=seen) == whole[behind:]


@pytest.mark.req("HP-11")
@streamed
async def test_nothing_comes_after_a_cancel(tmp_path: Path, subject: Subject) -> None:
    knobs = subject.knobs(tokens=100_000, token_delay_ms=1, tokens_per_write=1)
    async with serving(tmp_path, subject, knobs) as (engine, here):
        task_id = await submitted(here, subject, max_tokens=100_000)
        async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
            got = await read_until(answer, lambda got: tokens_in(got) >= 3)
            assert await here.cancel(task_id) == 204
            so_far = (await here.get(f"/v1/tasks/{task_id}"))["tokens_out"]
            got += await answer.read()
        checked_end = frames_of(got)[-1]
        assert (checked_end.event, checked_end.data["finish_reason"]) == ("end", "canceled")
        assert tokens_in(got) == so_far == checked_end.data["tokens_out"]
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)
        assert await here.stream(task_id) == got


@pytest.mark.req("HP-11")
@pytest.mark.trap(9)
@streamed
async def test_a_cancel_before_the_first_token_frees_the_engine(tmp_path: Path, subject: Subject) -> None:
    async with serving(tmp_path, subject, subject.knobs(first_token_delay_ms=60_000)) as (engine, here):
        task_id = await submitted(here, subject)
        await engine.until(lambda stats: stats.running == 1)
        assert await here.cancel(task_id) == 204
        assert events_of(await here.stream(task_id)) == ["started", "end"]
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


@pytest.mark.req("HP-17")
@pytest.mark.trap(20)
@one_each
@pytest.mark.parametrize("fault", [Fault.EXIT, Fault.EXIT_ZERO])
async def test_an_engine_that_dies_is_told_as_such(tmp_path: Path, subject: Subject, fault: Fault) -> None:
    knobs = subject.knobs(tokens=100, tokens_per_write=1, token_delay_ms=2, fault=fault, fault_after=3)
    async with standin_process(knobs, engine=subject.engine) as engine:
        async with ready(tmp_path, engine.url, subject.engine) as here:
            stream = await here.stream(await submitted(here, subject, max_tokens=50))
        await engine.process.wait()
    assert events_of(stream) == ["started", *["token"] * tokens_in(stream), "error"]
    error = frames_of(stream)[-1].data
    assert (error["code"], error["retriable"], error["retry_after_ms"]) == ("WORKER_RESET", True, 0)
    assert error["engine"] == subject.engine


@pytest.mark.req("HP-17")
@pytest.mark.trap(18)
@streamed
async def test_a_stalled_engine_is_given_up_at_the_idle_limit(tmp_path: Path, subject: Subject) -> None:
    knobs = subject.knobs(tokens=9, fault=Fault.HANG, fault_after=3)
    async with serving(tmp_path, subject, knobs, timeouts=Timeouts(idle_ms=300)) as (engine, here):
        stream = await here.stream(await submitted(here, subject, max_tokens=50))
        await engine.until(lambda stats: stats.running == 0 and stats.cancelled == 1)
    assert tokens_in(stream) == 3
    assert frames_of(stream)[-1].data["code"] == "DECODE_TIMEOUT"


@pytest.mark.req("HP-17")
@pytest.mark.trap(3)
@streamed
async def test_pings_of_an_engine_are_no_sign_of_life(tmp_path: Path, subject: Subject) -> None:
    knobs = subject.knobs(tokens=3, token_delay_ms=60_000, tokens_per_write=1, ping_ms=20)
    async with serving(tmp_path, subject, knobs, timeouts=Timeouts(idle_ms=300)) as (engine, here):
        stream = await here.stream(await submitted(here, subject))
        await engine.until(lambda stats: stats.cancelled == 1)
    assert frames_of(stream)[-1].data["code"] == "DECODE_TIMEOUT"


@pytest.mark.trap(14)
@streamed
async def test_an_engine_that_never_ends_is_given_up_at_the_wall_limit(tmp_path: Path, subject: Subject) -> None:
    knobs = subject.knobs(tokens=1_000_000, token_delay_ms=1, tokens_per_write=1)
    async with serving(tmp_path, subject, knobs, timeouts=Timeouts(wall_ms=150)) as (engine, here):
        stream = await here.stream(await submitted(here, subject, max_tokens=900_000))
        await engine.until(left_alone)
    assert frames_of(stream)[-1].data["code"] == "DECODE_TIMEOUT"


@streamed
@pytest.mark.parametrize("claims", ["-5", "18446744073709551616", "9" * 400])
async def test_counts_that_cannot_be_reach_nobody(tmp_path: Path, subject: Subject, claims: str) -> None:
    async with serving(tmp_path, subject, subject.knobs(tokens=4, claims=claims)) as (_, here):
        stream = await here.stream(await submitted(here, subject, max_tokens=50))
    end = frames_of(stream)[-1]
    assert tokens_in(stream) == 4
    assert end.event == "end"
    assert end.data["tokens_out"] == 4
    assert 0 <= end.data["tokens_in"] < 1 << 31


@streamed
async def test_a_failure_is_told_once_and_the_next_task_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: Subject
) -> None:
    unattended(monkeypatch)  # the next one waits until the engine was looked at
    async with serving(tmp_path, subject, subject.knobs(tokens=9, fault=Fault.CLOSE, fault_after=2)) as (engine, here):
        stream = await here.stream(await submitted(here, subject, max_tokens=50))
        error = frames_of(stream)[-1]
        assert (error.event, error.data["code"]) == ("error", "WORKER_RESET")
        assert tokens_in(stream) == 2
        engine.set(subject.knobs(tokens=3))
        checked(await here.stream(await submitted(here, subject, max_tokens=50)), "stop")


@answered
async def test_results_are_tokens_of_the_same_contract(tmp_path: Path, subject: Subject) -> None:
    async with serving(tmp_path, subject, subject.knobs()) as (_, here):
        task_id = await submitted(here, subject)
        stream = await here.stream(task_id)
        assert await here.stream(task_id, after=0) == stream[stream.index(b"event: token\nid: 1\n") :]
    frames = checked(stream, "stop")
    said = [msgspec.json.decode(frame.data["t"]) for frame in frames if frame.event == "token"]
    assert [each["index"] for each in said] == list(range(len(DOCUMENTS)))
    name = "embedding" if subject.workload is Workload.EMBEDDING else "score"
    assert all(each.keys() == {"index", name} for each in said)


@answered
async def test_a_cancel_of_results_frees_the_engine(tmp_path: Path, subject: Subject) -> None:
    async with serving(tmp_path, subject, subject.knobs(first_token_delay_ms=60_000)) as (engine, here):
        task_id = await submitted(here, subject)
        await engine.until(lambda stats: stats.running == 1)
        assert await here.cancel(task_id) == 204
        assert events_of(await here.stream(task_id)) == ["started", "end"]
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


async def test_all_engines_serve_side_by_side(tmp_path: Path) -> None:
    """One house with a pool of each engine; every pool's task is its own."""
    subjects = [each for each in COMPLETIONS if each.tells]
    own = [pool(str(each.engine), engine=each.engine, queue=Queue()) for each in subjects]
    async with house(tmp_path, None, *own) as here:
        engines = [subject.serve(subject.knobs(tokens=3 + at)) for at, subject in enumerate(subjects)]
        async with engines[0], engines[1], engines[2], engines[3], engines[4], asyncio.TaskGroup() as group:
            for subject, engine in zip(subjects, engines, strict=True):
                here.report(engine.url, str(subject.engine), engine=subject.engine)
            running = []
            for subject in subjects:
                placement = {"mode": "pin", "pool_id": str(subject.engine)}
                task_id = await submitted(here, subject, max_tokens=50, placement=placement)
                running.append(group.create_task(here.stream(task_id)))
    assert [tokens_in(task.result()) for task in running] == [3, 4, 5, 6, 7]

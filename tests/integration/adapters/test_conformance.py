"""One suite for every adapter, over real sockets: what engines do to their clients, and what must become of it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from adapters.base import Adapter, Batch, EngineError, Failure, Finished, Health
from adapters.http import EngineHttp
from adapters.registry import ADAPTERS
from contracts.events import FinishReason
from tests.integration.adapters.subjects import SUBJECTS, Subject
from tests.standin.knobs import Fault, HttpError, Knobs
from tests.standin.process import standin_process
from tests.standin.server import StandIn

pytestmark = pytest.mark.req("AD-03")

WORDS = Knobs().words
FOR_EVER_MS = 1e9


def text_of(count: int) -> str:
    return "".join(WORDS[i % len(WORDS)] for i in range(count))


class Answer:
    """All that one generation brought."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.failure: EngineError | None = None

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch.texts]

    @property
    def finished(self) -> Finished | None:
        return self.batches[-1].finished if self.batches else None


async def generate(adapter: Adapter, subject: Subject, answer: Answer | None = None) -> Answer:
    """Run one generation to its end, good or bad."""
    answer = answer or Answer()
    try:
        async with adapter.submit(subject.generation) as batches:
            async for batch in batches:
                assert answer.finished is None, "a batch came after the end"
                answer.batches.append(batch)
    except EngineError as error:
        answer.failure = error
    return answer


@asynccontextmanager
async def facing(subject: Subject, http: EngineHttp, knobs: Knobs) -> AsyncIterator[tuple[StandIn, Adapter]]:
    async with subject.serve(knobs) as engine:
        yield engine, subject.adapter(engine.url, http)


async def drain(batches: AsyncIterator[Batch]) -> None:
    async for _ in batches:
        pass


async def outcome(subject: Subject, http: EngineHttp, knobs: Knobs) -> Answer:
    async with facing(subject, http, knobs) as (_, adapter):
        return await generate(adapter, subject)


def test_every_adapter_is_in_this_suite() -> None:
    assert {subject.engine for subject in SUBJECTS} == set(ADAPTERS)


# --- good ends --------------------------------------------------------------------------------------------------------


async def test_a_stream_comes_whole_with_the_engines_own_counts(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, Knobs(tokens=20, tokens_per_write=1, token_delay_ms=0.1))
    assert answer.texts == [WORDS[i % len(WORDS)] for i in range(20)]
    assert answer.finished is not None
    assert answer.finished.reason is FinishReason.STOP
    assert answer.finished.tokens_out == 20
    assert answer.finished.tokens_in is not None
    assert answer.finished.cached_tokens == 0
    assert answer.finished.decode_ms is not None
    assert len(answer.batches) > 1  # it did not wait for the end


@pytest.mark.parametrize("split_every", [1, 2, 3, 7, 100])
async def test_cuts_inside_events_and_characters_change_nothing(
    subject: Subject, http: EngineHttp, split_every: int
) -> None:
    answer = await outcome(subject, http, Knobs(tokens=10, split_every=split_every))
    assert "".join(answer.texts) == text_of(10)
    assert answer.finished is not None


async def test_many_events_in_one_read_are_one_batch(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, Knobs(tokens=20_000, tokens_per_write=500))
    assert "".join(answer.texts) == text_of(20_000)
    assert len(answer.batches) < 1_000


async def test_no_token_at_all_is_a_good_end(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, Knobs(tokens=0))
    assert answer.texts == []
    assert answer.finished is not None


async def test_pings_are_no_progress(subject: Subject, http: EngineHttp) -> None:
    knobs = Knobs(tokens=3, tokens_per_write=1, first_token_delay_ms=20, token_delay_ms=10, ping_ms=1)
    answer = await outcome(subject, http, knobs)
    assert "".join(answer.texts) == text_of(3)
    assert all(batch.texts or batch.finished for batch in answer.batches)


async def test_an_event_that_is_large_but_within_the_limit_comes_whole(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, Knobs(tokens=2, fault=Fault.HUGE, fault_after=1, huge_bytes=300_000))
    assert [len(text) for text in answer.texts] == [len(WORDS[0]), 300_000, len(WORDS[1])]
    assert answer.failure is None


# --- bad ends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.ERROR, (Failure.CONTEXT, "the engine answered: Context size has been exceeded.")),
        (Fault.ERROR_DONE, (Failure.CONTEXT, "the engine answered: Context size has been exceeded.")),
        (Fault.ERROR_FIELD, (Failure.CONTEXT, "the engine answered: Context size has been exceeded.")),
        (Fault.ERROR_STRING, (Failure.BROKEN, "the engine answered: the worker died")),
        (Fault.GARBAGE, (Failure.PROTOCOL, "the engine sent an event that cannot be read: Input data was truncated")),
        (Fault.EOF, (Failure.BROKEN, "the engine's stream ended without its final event")),
        (Fault.CUT, (Failure.BROKEN, "the engine's stream ended inside an event")),
        (Fault.CLOSE, (Failure.BROKEN, "the engine's connection broke: ClientPayloadError")),
    ],
)
@pytest.mark.parametrize("after", [0, 3])
async def test_a_failure_in_the_stream_comes_after_what_was_said_before(
    subject: Subject, http: EngineHttp, fault: Fault, expected: tuple[Failure, str], after: int
) -> None:
    answer = await outcome(subject, http, Knobs(tokens=8, fault=fault, fault_after=after))
    assert answer.failure is not None
    assert (answer.failure.failure, answer.failure.message) == expected
    assert "".join(answer.texts) == text_of(after)
    assert answer.finished is None


async def test_a_connection_that_is_reset_is_broken(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, Knobs(tokens=8, fault=Fault.RESET, fault_after=3))
    assert answer.failure is not None
    assert answer.failure.failure is Failure.BROKEN


@pytest.mark.parametrize("after", [0, 3])
async def test_an_engine_that_dies_is_broken_at_once(subject: Subject, http: EngineHttp, after: int) -> None:
    async with standin_process(Knobs(tokens=8, fault=Fault.EXIT, fault_after=after)) as engine:
        answer = await generate(subject.adapter(engine.url, http), subject)
        assert answer.failure is not None
        assert answer.failure.failure is Failure.BROKEN
        assert await engine.process.wait() == 9


async def test_an_engine_that_is_killed_is_broken_at_once(subject: Subject, http: EngineHttp) -> None:
    async with standin_process(Knobs(tokens=8, fault=Fault.HANG, fault_after=3)) as engine:
        adapter = subject.adapter(engine.url, http)
        async with adapter.submit(subject.generation) as batches:
            await anext(batches)
            engine.process.send_signal(signal.SIGKILL)
            with pytest.raises(EngineError) as caught:
                await anext(batches)
        assert caught.value.failure is Failure.BROKEN
        assert await adapter.health() is Health.DOWN


async def test_a_failure_is_raised_again_and_nothing_comes_after_it(subject: Subject, http: EngineHttp) -> None:
    async with (
        facing(subject, http, Knobs(tokens=8, fault=Fault.ERROR, fault_after=3)) as (_, adapter),
        adapter.submit(subject.generation) as batches,
    ):
        with pytest.raises(EngineError):
            await drain(batches)
        with pytest.raises(EngineError):
            await anext(batches)


async def test_an_answer_that_is_no_event_stream_is_a_breach_of_protocol(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, Knobs(not_sse=True))
    assert answer.failure is not None
    assert answer.failure.failure is Failure.PROTOCOL
    assert answer.failure.message == "an event stream was due, and text/html came"


@pytest.mark.parametrize("split_every", [None, 5_000])
async def test_a_huge_event_is_refused_before_it_is_kept(subject: Subject, split_every: int | None) -> None:
    knobs = Knobs(tokens=2, fault=Fault.HUGE, fault_after=1, huge_bytes=300_000, split_every=split_every)
    async with EngineHttp(max_event_bytes=100_000) as http:
        answer = await outcome(subject, http, knobs)
    assert answer.failure is not None
    assert answer.failure.failure is Failure.PROTOCOL
    assert answer.failure.message == "the engine sent an event of more than 100000 bytes"


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (401, '{"error":"Unauthorized"}', Failure.UNAUTHORIZED),
        (400, '{"error":{"message":"no such sampler","type":"invalid_request_error"}}', Failure.INVALID),
        (429, '{"error":{"message":"queue full"}}', Failure.OVERLOADED),
        (500, "Internal Server Error", Failure.BROKEN),
        (500, "", Failure.BROKEN),
    ],
)
async def test_a_refusal_is_an_error_of_one_taxonomy(
    subject: Subject, http: EngineHttp, status: int, body: str, failure: Failure
) -> None:
    answer = await outcome(subject, http, Knobs(http_error=HttpError(status, body)))
    assert answer.failure is not None
    assert (answer.failure.failure, answer.failure.status) == (failure, status)


async def test_a_prompt_over_the_context_is_refused_with_both_numbers(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, Knobs(ctx=2))
    assert answer.failure is not None
    assert answer.failure.failure is Failure.CONTEXT
    assert "tokens and the context holds 2" in answer.failure.message


async def test_refused_loading_and_serving_are_three_states(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, Knobs(loading_ms=FOR_EVER_MS, tokens=2)) as (engine, adapter):
        assert await adapter.health() is Health.LOADING
        loading = await generate(adapter, subject)
        engine.set(Knobs(tokens=2))
        assert await adapter.health() is Health.OK
        assert (await generate(adapter, subject)).failure is None
    assert await adapter.health() is Health.DOWN
    refused = await generate(adapter, subject)
    assert loading.failure is not None
    assert loading.failure.failure is Failure.LOADING
    assert refused.failure is not None
    assert refused.failure.failure is Failure.REFUSED
    assert refused.failure.message == f"nobody listens at {engine.url}"


# --- leaving ----------------------------------------------------------------------------------------------------------


async def test_cancelled_before_the_first_token_the_slot_is_free(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, Knobs(first_token_delay_ms=FOR_EVER_MS, slots=1)) as (engine, adapter):
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(generate(adapter, subject))
            await engine.until(lambda stats: stats.running == 1)
            waiting.cancel()
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)
        engine.set(Knobs(tokens=2, slots=1))
        assert (await generate(adapter, subject)).failure is None


async def test_cancelled_while_it_waits_for_a_slot(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, Knobs(fault=Fault.HANG, fault_after=1, slots=1)) as (engine, adapter):
        async with adapter.submit(subject.generation) as batches, asyncio.TaskGroup() as tasks:
            await anext(batches)
            waiting = tasks.create_task(generate(adapter, subject))
            await engine.until(lambda stats: stats.waiting == 1)
            waiting.cancel()
            await engine.until(lambda stats: stats.waiting == 0 and stats.cancelled == 1)
        await engine.until(lambda stats: stats.running == 0 and stats.cancelled == 2)
        assert engine.stats.peak == 1


async def test_leaving_an_endless_stream_ends_it(subject: Subject, http: EngineHttp) -> None:
    knobs = Knobs(tokens=10**9, tokens_per_write=8, token_delay_ms=0.01)
    async with facing(subject, http, knobs) as (engine, adapter):
        async with adapter.submit(subject.generation) as batches:
            for _ in range(20):
                assert (await anext(batches)).texts
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


async def test_an_engine_that_is_not_read_has_to_wait(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, Knobs(tokens=10**9)) as (engine, adapter):
        async with adapter.submit(subject.generation) as batches:
            await anext(batches)
            sent = -1
            while sent != engine.stats.tokens:  # until the buffers between us are full
                sent = engine.stats.tokens
                for _ in range(1_000):
                    await asyncio.sleep(0)
            assert sent < 10**6
        await engine.until(lambda stats: stats.cancelled == 1)


async def test_a_stalled_stream_is_silence_until_somebody_gives_it_up(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, Knobs(tokens=8, fault=Fault.HANG, fault_after=3)) as (engine, adapter):
        answer = Answer()
        with pytest.raises(TimeoutError):  # the watchdog's own, not an engine's error
            await asyncio.wait_for(generate(adapter, subject, answer), 0.1)
        assert "".join(answer.texts) == text_of(3)
        assert await adapter.health() is Health.OK
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


async def test_an_exception_of_the_consumer_stays_what_it_is(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, Knobs(tokens=10**9)) as (engine, adapter):

        async def stumble() -> None:
            async with adapter.submit(subject.generation) as batches:
                await anext(batches)
                raise ConnectionResetError("ours")

        with pytest.raises(ConnectionResetError, match="ours"):
            await stumble()
        await engine.until(lambda stats: stats.cancelled == 1)


# --- the rest of the protocol -----------------------------------------------------------------------------------------


async def test_an_engine_says_what_it_is(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, Knobs(slots=3, ctx=777, build="b1234-abc")) as (_, adapter):
        props = await adapter.props()
    assert (props.engine_version, props.slots, props.ctx_max) == ("b1234-abc", 3, 777)


async def test_tokens_are_counted_as_the_engine_will_count_them(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, Knobs(tokens=1)) as (_, adapter):
        answer = await generate(adapter, subject)
        assert answer.finished is not None
        assert await adapter.count_tokens(subject.generation) == answer.finished.tokens_in


async def test_many_generations_at_once_do_not_mix(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, Knobs(tokens=50, tokens_per_write=3, slots=20)) as (engine, adapter):
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(generate(adapter, subject)) for _ in range(40)]
        assert all("".join(task.result().texts) == text_of(50) for task in running)
        assert engine.stats.peak <= 20

"""Every adapter before engines that are slow, stall or never end, and clients that leave them."""

import asyncio

import pytest

from adapters.base import Health
from adapters.http import EngineHttp
from tests.integration.adapters.harness import FOR_EVER_MS, facing, generate, text_of
from tests.integration.adapters.subjects import Subject
from tests.standin.knobs import Fault

pytestmark = pytest.mark.req("AD-03")


@pytest.mark.trap(9)
async def test_cancelled_before_the_first_token_the_slot_is_free(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(first_token_delay_ms=FOR_EVER_MS, slots=1)) as (engine, adapter):
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(generate(adapter, subject))
            await engine.until(lambda stats: stats.running == 1)
            waiting.cancel()
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)
        engine.set(subject.knobs(tokens=2, slots=1))
        assert (await generate(adapter, subject)).failure is None


async def test_cancelled_while_it_waits_for_a_slot(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(fault=Fault.HANG, fault_after=1, slots=1)) as (engine, adapter):
        async with adapter.submit(subject.generation) as batches, asyncio.TaskGroup() as tasks:
            await anext(batches)
            waiting = tasks.create_task(generate(adapter, subject))
            await engine.until(lambda stats: stats.waiting == 1)
            waiting.cancel()
            await engine.until(lambda stats: stats.waiting == 0 and stats.cancelled == 1)
        await engine.until(lambda stats: stats.running == 0 and stats.cancelled == 2)
        assert engine.stats.peak == 1


@pytest.mark.trap(14)
async def test_leaving_an_endless_stream_ends_it(subject: Subject, http: EngineHttp) -> None:
    endless = subject.knobs(tokens=10**9, tokens_per_write=8, token_delay_ms=0.01)
    async with facing(subject, http, endless) as (engine, adapter):
        async with adapter.submit(subject.generation) as batches:
            for _ in range(20):
                assert (await anext(batches)).texts
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


@pytest.mark.trap(14)
async def test_an_engine_that_is_not_read_has_to_wait(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(tokens=10**9)) as (engine, adapter):
        async with adapter.submit(subject.generation) as batches:
            await anext(batches)
            sent = -1
            while sent != engine.stats.tokens:  # until the buffers between us are full
                sent = engine.stats.tokens
                for _ in range(1_000):
                    await asyncio.sleep(0)
            assert sent < 10**6
        await engine.until(lambda stats: stats.cancelled == 1)


@pytest.mark.trap(18)
async def test_a_stalled_stream_is_silence_until_somebody_gives_it_up(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(tokens=8, fault=Fault.HANG, fault_after=3)) as (engine, adapter):
        text = ""
        async with adapter.submit(subject.generation) as batches:
            while text != text_of(3):
                text += "".join((await anext(batches)).texts)
            with pytest.raises(TimeoutError):  # the watchdog's own, not an engine's error
                await asyncio.wait_for(anext(batches), 0.05)
            assert await adapter.health() is Health.OK
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


@pytest.mark.trap(3)
async def test_pings_do_not_keep_a_stalled_stream_alive(subject: Subject, http: EngineHttp) -> None:
    """Whoever waits for tokens sees none, however many comments come."""
    knobs = subject.knobs(first_token_delay_ms=FOR_EVER_MS, ping_ms=1)
    async with facing(subject, http, knobs) as (engine, adapter):
        async with adapter.submit(subject.generation) as batches:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(batches), 0.05)
        await engine.until(lambda stats: stats.cancelled == 1)


async def test_an_exception_of_the_consumer_stays_what_it_is(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(tokens=10**9)) as (engine, adapter):

        async def stumble() -> None:
            async with adapter.submit(subject.generation) as batches:
                await anext(batches)
                raise ConnectionResetError("ours")

        with pytest.raises(ConnectionResetError, match="ours"):
            await stumble()
        await engine.until(lambda stats: stats.cancelled == 1)


async def test_many_generations_at_once_do_not_mix(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(tokens=50, tokens_per_write=3, slots=20)) as (engine, adapter):
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(generate(adapter, subject)) for _ in range(40)]
        assert all(task.result().text == text_of(50) for task in running)
        assert engine.stats.peak <= 20

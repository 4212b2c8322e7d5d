"""Every adapter before engines that die: the process, its worker, before the first token and in the middle."""

import signal

import pytest

from adapters.base import EngineError, Failure, Health
from adapters.http import EngineHttp
from contracts.config import Engine
from tests.integration.adapters.harness import FOR_EVER_MS, Answer, facing, generate, outcome, text_of
from tests.integration.adapters.subjects import ONE_EACH, Subject
from tests.standin.knobs import Fault
from tests.standin.process import standin_process
from tests.standin.server import WIRES
from tests.standin.wires.base import WorkerDeath

pytestmark = pytest.mark.req("AD-03")

each_engine = pytest.mark.parametrize("subject", ONE_EACH, ids=lambda subject: subject.name)


@each_engine
async def test_an_engine_that_dies_is_broken_at_once(subject: Subject, http: EngineHttp) -> None:
    knobs = subject.knobs(tokens=8, fault=Fault.EXIT, fault_after=3)
    async with standin_process(knobs, engine=subject.engine) as engine:
        answer = await generate(subject.adapter(engine.url, http), subject)
        assert answer.failure is Failure.BROKEN
        assert await engine.process.wait() == 9


@pytest.mark.trap(20)
@each_engine
@pytest.mark.parametrize("after", [0, 3])
async def test_an_engine_that_is_gone_with_status_zero_is_broken_all_the_same(
    subject: Subject, http: EngineHttp, after: int
) -> None:
    knobs = subject.knobs(tokens=8, fault=Fault.EXIT_ZERO, fault_after=after)
    async with standin_process(knobs, engine=subject.engine) as engine:
        adapter = subject.adapter(engine.url, http)
        answer = await generate(adapter, subject)
        assert answer.failure is Failure.BROKEN
        assert text_of(after).startswith(answer.text)
        assert await engine.process.wait() == 0
        assert await adapter.health() is Health.DOWN
        assert (await generate(adapter, subject)).failure is Failure.REFUSED


@pytest.mark.trap(6)
@each_engine
async def test_an_engine_that_is_killed_is_broken_at_once(subject: Subject, http: EngineHttp) -> None:
    knobs = subject.knobs(tokens=8, fault=Fault.HANG, fault_after=3)
    async with standin_process(knobs, engine=subject.engine) as engine:
        adapter = subject.adapter(engine.url, http)
        async with adapter.submit(subject.generation) as batches:
            await anext(batches)
            engine.process.send_signal(signal.SIGKILL)
            with pytest.raises(EngineError) as caught:
                await anext(batches)
        assert caught.value.failure is Failure.BROKEN
        assert await adapter.health() is Health.DOWN


@pytest.mark.trap(6)
async def test_refused_loading_and_serving_are_three_states(subject: Subject, http: EngineHttp) -> None:
    """Two, for an engine that listens only when it can serve."""
    late = WIRES[subject.engine].listens_late
    async with facing(subject, http, subject.knobs(loading_ms=FOR_EVER_MS, tokens=2)) as (engine, adapter):
        assert await adapter.health() is (Health.DOWN if late else Health.LOADING)
        loading = await generate(adapter, subject)
        engine.set(subject.knobs(tokens=2))
        await engine.listening()
        assert await adapter.health() is Health.OK
        assert (await generate(adapter, subject)).failure is None
    assert await adapter.health() is Health.DOWN
    refused = await generate(adapter, subject)
    assert loading.failure is subject.manners.loading
    assert refused.error is not None
    assert refused.failure is Failure.REFUSED
    assert refused.error.message == f"nobody listens at {engine.url}"


async def test_a_worker_that_dies_is_never_a_good_end(subject: Subject, http: EngineHttp) -> None:
    """Each engine has its own way to lose the process that computes; one of them only falls silent."""
    death = WIRES[subject.engine].worker_death
    knobs = subject.knobs(tokens=8, fault=Fault.WORKER, fault_after=3)
    if death is WorkerDeath.HANGS:
        async with facing(subject, http, knobs) as (engine, adapter):
            answer = Answer()
            async with adapter.submit(subject.generation) as batches:
                answer.batches.append(await anext(batches))
                assert await adapter.health() is Health.OK
            assert answer.text == text_of(3)
            await engine.until(lambda stats: stats.cancelled == 1)
        return
    answer = await outcome(subject, http, knobs)
    assert answer.failure is Failure.BROKEN
    assert text_of(3).startswith(answer.text)


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.TGI])
async def test_a_server_whose_worker_died_is_not_well(engine: Engine, http: EngineHttp) -> None:
    subject = next(each for each in ONE_EACH if each.engine is engine)
    async with facing(subject, http, subject.knobs(tokens=8, fault=Fault.WORKER)) as (_, adapter):
        assert await adapter.health() is Health.OK
        await generate(adapter, subject)
        assert await adapter.health() is not Health.OK

"""How busy an engine says that it is: what a slot's release is believed by."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.base import EngineError, Failure
from adapters.http import EngineHttp
from adapters.registry import adapter_for
from contracts.config import Engine
from contracts.pools import Endpoint
from tests.integration.adapters.harness import drain, facing, names
from tests.integration.adapters.subjects import MANY, ONE_EACH, Subject
from tests.integration.adapters.test_degrading import Scripted, adapter_at, server  # noqa: F401 - a fixture
from tests.support.raw_http import raw
from tests.support.real_llamacpp import real_llamacpp
from tests.support.tiny_gguf import slow_model

TELLING = [each for each in ONE_EACH if each.engine in {Engine.LLAMACPP, Engine.VLLM, Engine.TGI}]
SILENT = [each for each in ONE_EACH if each not in TELLING]


@pytest.mark.req("HP-11", "AD-01")
@pytest.mark.parametrize("subject", TELLING, ids=names(TELLING))
async def test_an_engine_tells_how_many_generations_it_works_on(subject: Subject, http: EngineHttp) -> None:
    knobs = subject.knobs(tokens=MANY, token_delay_ms=1, tokens_per_write=1, slots=3)
    async with facing(subject, http, knobs) as (engine, adapter):
        assert await adapter.busy() == 0
        async with asyncio.TaskGroup() as group:
            for count in (1, 2):
                async with adapter.submit(subject.generation) as batches:
                    reading = group.create_task(drain(batches))
                    await engine.until(lambda stats: stats.running == 1)
                    assert await adapter.busy() == 1, count
                    reading.cancel()
                await engine.until(lambda stats: stats.running == 0)
                assert await adapter.busy() == 0


@pytest.mark.parametrize("subject", SILENT, ids=names(SILENT))
async def test_an_engine_that_has_no_such_question_tells_nothing(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(tokens=1)) as (engine, adapter):
        assert await adapter.busy() is None
        assert engine.stats.requests == 0


@pytest.mark.req("HP-12")
@pytest.mark.parametrize("subject", ONE_EACH, ids=names(ONE_EACH))
async def test_an_engine_that_takes_any_request_for_its_own_model_says_which_it_is(
    subject: Subject, http: EngineHttp
) -> None:
    async with facing(subject, http, subject.knobs(model="one")) as (engine, adapter):
        first = await adapter.model()
        engine.set(subject.knobs(model="another"))
        second = await adapter.model()
    if subject.engine in {Engine.LLAMACPP, Engine.TGI}:
        assert (first, second) == ("one", "another")
    else:
        assert (first, second) == (None, None)


@pytest.mark.trap(12)
@pytest.mark.parametrize("metrics", ["", "vllm:renamed 1\ntgi_renamed 1\n", "not a metric at all {"])
@pytest.mark.parametrize("subject", [each for each in TELLING if each.engine is not Engine.LLAMACPP], ids=str)
async def test_a_figure_that_is_gone_or_renamed_is_not_told(subject: Subject, http: EngineHttp, metrics: str) -> None:
    async with facing(subject, http, subject.knobs(metrics=metrics)) as (_, adapter):
        assert await adapter.busy() is None


async def test_a_llama_server_without_slots_tells_by_its_metrics(server: Scripted, http: EngineHttp) -> None:  # noqa: F811 - a fixture
    adapter = adapter_at(server, Engine.LLAMACPP, http)
    server.routes["GET /slots"] = 501, {"error": {"code": 501, "message": "no slots", "type": "not_supported_error"}}
    server.routes["GET /metrics"] = 200, b"llamacpp:requests_processing 2\nllamacpp:requests_deferred 0\n"
    assert await adapter.busy() == 2
    server.routes["GET /slots"] = 200, {"something": "else"}
    assert await adapter.busy() == 2
    server.routes["GET /metrics"] = 501, {"error": {"code": 501, "message": "no metrics"}}
    assert await adapter.busy() is None
    server.routes["GET /slots"] = 503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    with pytest.raises(EngineError) as caught:
        await adapter.busy()
    assert caught.value.failure is Failure.LOADING


@pytest.mark.req("HP-11")
async def test_the_real_llama_server_tells_when_a_slot_is_free(
    http: EngineHttp, tmp_path_factory: pytest.TempPathFactory
) -> None:
    subject = TELLING[0]
    model: Path = slow_model(tmp_path_factory)
    async with real_llamacpp(model, slots=2, ctx=2048) as url:
        adapter = adapter_for(Engine.LLAMACPP, Endpoint(url=url), http)
        assert await adapter.busy() == 0
        async with adapter.submit(subject.generation) as batches:
            await anext(aiter(batches))
            assert await adapter.busy() == 1
            assert (await raw(url, "/slots")).body.count(b'"is_processing":true') == 1
        async with asyncio.timeout(30):
            while await adapter.busy():
                pass

"""An application on the real Ray Serve as an external pool: what lies between us and it, and who owns it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from adapters.base import Adapter, Batch, Failure, Generation, Health
from adapters.http import EngineHttp
from adapters.registry import adapter_for
from contracts.config import Engine
from contracts.events import FinishReason
from contracts.pools import Endpoint
from contracts.tasks import ChatMessage, Role, Workload
from tests.engines.generating import Answer, generate, under_profile
from tests.integration.orchestratord.house import house
from tests.support.real_ray_serve import RealRayServe, real_ray_serve
from tests.unit.orchestratord.frames import events_of, frames_of, text_of
from tests.unit.orchestratord.world import pool

pytestmark = [
    pytest.mark.engine("ray"),
    pytest.mark.needs("unshare", "ip", "mount"),
    pytest.mark.req("AD-01", "AD-03"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]

BACK_S = 60.0
"""Within which Ray has another replica."""
CHAT = (ChatMessage(role=Role.USER, content="rain on me"),)


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRayServe]:
    with real_ray_serve(tmp_path_factory.mktemp("ray")) as application:
        yield application


@pytest.fixture
def adapter(serve: RealRayServe, http: EngineHttp) -> Adapter:
    return adapter_for(Engine.OPENAI, Endpoint(url=serve.url), http)


async def is_back(adapter: Adapter) -> None:
    """Wait until a short generation ends well: calls in between are refused, broken, or left hanging."""
    async with asyncio.timeout(BACK_S):
        while (await generate(adapter, Generation(prompt="rain", max_tokens=1))).finished is None:
            pass


async def test_it_says_what_it_serves(adapter: Adapter) -> None:
    props = await adapter.props()
    assert props.workloads == (Workload.COMPLETION, Workload.CHAT)
    assert (props.engine_version, props.ctx_max) == (None, None)
    assert await adapter.health() is Health.OK


@pytest.mark.parametrize(
    "generation",
    [
        pytest.param(Generation(prompt="rain on me", max_tokens=30, seed=5), id="completion"),
        pytest.param(Generation(messages=CHAT, max_tokens=30, seed=5), id="chat"),
    ],
)
async def test_a_stream_passes_through(adapter: Adapter, generation: Generation) -> None:
    answer = await generate(adapter, generation)
    assert len(answer.texts) == 30
    assert answer.finished is not None
    assert answer.finished.reason is FinishReason.LENGTH
    assert (answer.finished.tokens_in, answer.finished.tokens_out) == (3, 30)
    assert (await generate(adapter, generation)).texts == answer.texts


@pytest.mark.req("HP-10")
async def test_our_stream_is_the_same_as_of_any_engine(serve: RealRayServe, adapter: Adapter, tmp_path: Path) -> None:
    asked = await under_profile(adapter, Engine.OPENAI, Generation(prompt="rain", max_tokens=20, seed=7))
    direct = await generate(adapter, asked)
    async with house(tmp_path, serve.url, pool(engine=Engine.OPENAI)) as here:
        stream = await here.stream(await here.submit(prompt="rain", max_tokens=20, seed=7))
    assert events_of(stream) == ["started", *["token"] * 20, "end"]
    assert text_of(stream) == direct.text


async def test_its_backpressure_is_overload(adapter: Adapter) -> None:
    """While one request is answered another one may wait, and the proxy refuses the others in plain words."""
    slowly = Generation(prompt="slowly", max_tokens=100)  # five seconds, in which the others get as far as the proxy
    async with adapter.submit(slowly) as batches:
        await anext(batches)  # it has the replica: nothing that comes now is the first
        answers = await asyncio.gather(*(generate(adapter, slowly) for _ in range(4)), _rest(batches))
    *others, first = answers
    refused = [answer.failure for answer in others if answer.failure is not None]
    assert first.finished is not None
    assert [answer.finished is not None for answer in others].count(True) == 1
    assert {(error.failure, error.status) for error in refused} == {(Failure.OVERLOADED, 503)}
    assert "dropped due to backpressure" in refused[0].message


async def _rest(batches: AsyncIterator[Batch]) -> Answer:
    answer = Answer()
    async for batch in batches:
        answer.texts += batch.texts
        answer.finished = batch.finished
    return answer


@pytest.mark.req("HP-17")
async def test_a_replica_that_dies_is_no_good_end_and_is_replaced(
    serve: RealRayServe, adapter: Adapter, tmp_path: Path
) -> None:
    """The proxy stops in the middle of the body, without an error event."""
    answer = await generate(adapter, Generation(prompt="die after 3", max_tokens=9))
    assert len(answer.texts) <= 3
    assert answer.finished is None
    assert answer.failure is not None
    assert answer.failure.failure is Failure.BROKEN
    await is_back(adapter)
    async with house(tmp_path, serve.url, pool(engine=Engine.OPENAI)) as here:
        stream = await here.stream(await here.submit(prompt="die after 3", max_tokens=9))
    last = frames_of(stream)[-1]
    assert (last.event, last.data["code"], last.data["retriable"]) == ("error", "WORKER_RESET", True)
    await is_back(adapter)


async def test_it_serves_on_when_what_started_it_is_gone(serve: RealRayServe, adapter: Adapter) -> None:
    """The pool is external: the application belongs to the cluster, not to the process that brought it there."""
    os.kill(serve.runner(), signal.SIGKILL)
    answer = await generate(adapter, Generation(prompt="rain", max_tokens=5))
    assert answer.failure is None
    assert await adapter.health() is Health.OK

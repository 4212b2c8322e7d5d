"""The real Triton server behind its adapter: what only it can vouch for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from adapters.base import Adapter, Failure, Generation, Health
from adapters.http import EngineHttp
from adapters.registry import adapter_for
from contracts.config import Engine, Timeouts
from contracts.events import FinishReason
from contracts.pools import Endpoint
from contracts.tasks import Sampling, Workload
from tests.engines.generating import generate, under_profile
from tests.integration.orchestratord.house import house, json_of, read_until
from tests.support.raw_http import raw
from tests.support.real_triton import COUNTS, VLLM_BACKEND, RealTriton, real_triton, write_toy
from tests.support.waiting import until
from tests.unit.orchestratord.frames import events_of, frames_of, text_of
from tests.unit.orchestratord.world import pool

pytestmark = [pytest.mark.engine("triton"), pytest.mark.req("AD-01", "AD-03"), pytest.mark.timeout(180)]

AT_ONCE_S = 30.0
PLAIN, COUNTING = "toy", "counting"
SLOWLY = Generation(prompt="rain, slowly", max_tokens=5000)
"""Two minutes of work and more: far from at once, whatever else the machine does."""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealTriton]:
    """A server with two models: one of somebody's own, one as the vLLM backend has it."""
    repository = write_toy(tmp_path_factory.mktemp("models"), PLAIN)
    write_toy(repository, COUNTING, inputs=VLLM_BACKEND, outputs=COUNTS)
    with real_triton(repository) as server:
        yield server


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[RealTriton]:
    """A server of the test's own, with one model."""
    with real_triton(write_toy(tmp_path / "models", PLAIN)) as server:
        yield server


def adapter_at(server: RealTriton, http: EngineHttp, model: str | None = None) -> Adapter:
    return adapter_for(Engine.TRITON, Endpoint(url=server.url), http, model)


async def heard(server: RealTriton, *words: str) -> str:
    """What the model says, when it says it."""
    return await asyncio.to_thread(server.process.said, "toy: ", *words, within_s=AT_ONCE_S)


async def status(server: RealTriton, path: str, body: bytes | None = None) -> int:
    """Of one question on a connection of its own."""
    return int((await raw(server.url, path, body)).status_line.split()[1])


# --- what it serves ---------------------------------------------------------------------------------------------------


async def test_it_says_what_it_is_and_what_its_model_takes(triton: RealTriton, http: EngineHttp) -> None:
    plain = await adapter_at(triton, http, PLAIN).props()
    assert (plain.engine_version, plain.workloads) == ("2.51.0", (Workload.COMPLETION,))
    assert plain.features == ("cancel_on_close", "max_tokens", "seed", "stop", "temperature")
    counting = await adapter_at(triton, http, COUNTING).props()
    assert {"seed", "stop", "top_p", "top_k", "min_p", "repeat_penalty"} < set(counting.features)


async def test_one_of_several_models_has_to_be_named(triton: RealTriton, http: EngineHttp) -> None:
    answer = await generate(adapter_at(triton, http, "toys"), Generation(prompt="rain", max_tokens=1))
    assert answer.failure is not None
    assert answer.failure.failure is Failure.INVALID
    assert f"set the pool's model to one of {COUNTING}, {PLAIN}" in answer.failure.message


async def test_a_model_that_was_unloaded_is_said_to_be_unknown(tmp_path: Path, http: EngineHttp) -> None:
    options = "--model-control-mode=explicit", f"--load-model={PLAIN}"
    with real_triton(write_toy(tmp_path / "models", PLAIN), *options) as server:
        adapter = adapter_at(server, http)
        assert (await generate(adapter, Generation(prompt="rain", max_tokens=2))).failure is None
        assert await status(server, f"/v2/repository/models/{PLAIN}/unload", b"{}") == 200
        async with asyncio.timeout(AT_ONCE_S):
            while await status(server, f"/v2/models/{PLAIN}/ready") == 200:
                pass
        answer = await generate(adapter, Generation(prompt="rain", max_tokens=2))
        assert answer.failure is not None
        assert answer.failure.failure is Failure.PROTOCOL
        assert "is not found" in answer.failure.message or "no available versions" in answer.failure.message
        assert await adapter.health() is Health.LOADING


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_comes_word_by_word(triton: RealTriton, http: EngineHttp) -> None:
    adapter = adapter_at(triton, http, PLAIN)
    answer = await generate(adapter, Generation(prompt="rain", max_tokens=64, seed=3))
    assert answer.failure is None
    assert len(answer.texts) == 64
    assert {" météo", " 雨", " 🌧"} < set(answer.texts)
    assert answer.finished is not None
    assert (answer.finished.reason, answer.finished.tokens_out) == (FinishReason.STOP, None)  # it does not say
    again = await generate(adapter, Generation(prompt="rain", max_tokens=64, seed=3))
    other = await generate(adapter, Generation(prompt="rain", max_tokens=64, seed=4))
    assert again.texts == answer.texts != other.texts


async def test_a_model_that_counts_is_believed(triton: RealTriton, http: EngineHttp) -> None:
    answer = await generate(adapter_at(triton, http, COUNTING), Generation(prompt="rain on me", max_tokens=12))
    assert answer.finished is not None
    assert len(answer.texts) == 12
    assert (answer.finished.reason, answer.finished.tokens_out) == (FinishReason.LENGTH, 12)
    assert answer.finished.tokens_in is not None


@pytest.mark.parametrize("model", [PLAIN, COUNTING])
async def test_every_parameter_reaches_the_model(triton: RealTriton, http: EngineHttp, model: str) -> None:
    sampling = Sampling(temperature=0.5, stop=(" moon", " stone"))
    generation = Generation(prompt=f"all for {model}", max_tokens=200, seed=11, sampling=sampling)
    answer = await generate(adapter_at(triton, http, model), generation)
    line = await heard(triton, "begins with", f"all for {model}")
    asked = json_of(line.partition("begins with ")[2].encode())
    wanted = {"max_tokens": 200, "seed": 11, "temperature": 0.5, "stop": [" moon", " stone"], "stream": True}
    assert wanted.items() <= asked.items()
    assert answer.texts
    assert not {" moon", " stone"} & set(answer.texts)
    assert answer.finished is not None
    assert answer.finished.reason is FinishReason.STOP


async def test_no_word_at_all_is_a_good_end(triton: RealTriton, http: EngineHttp) -> None:
    answer = await generate(adapter_at(triton, http, PLAIN), Generation(prompt="rain", max_tokens=0))
    assert (answer.texts, answer.failure) == ([], None)
    assert answer.finished is not None


async def test_a_model_that_does_not_declare_a_parameter_is_not_sent_it(triton: RealTriton, http: EngineHttp) -> None:
    asked = Generation(prompt="rain", max_tokens=1, sampling=Sampling(top_k=3))
    answer = await generate(adapter_at(triton, http, PLAIN), asked)
    assert answer.failure is not None
    assert (answer.failure.failure, "top_k" in answer.failure.message) == (Failure.INVALID, True)


# --- failures ---------------------------------------------------------------------------------------------------------


async def test_a_model_that_breaks_is_told_after_what_it_said(triton: RealTriton, http: EngineHttp) -> None:
    answer = await generate(adapter_at(triton, http, PLAIN), Generation(prompt="break after 3", max_tokens=9))
    assert len(answer.texts) == 3
    assert answer.finished is None
    assert answer.failure is not None
    assert answer.failure.failure is Failure.BROKEN
    assert answer.failure.message == "the engine answered: the model broke after 3 tokens"


async def test_a_model_that_refuses_says_why(triton: RealTriton, http: EngineHttp) -> None:
    answer = await generate(adapter_at(triton, http, PLAIN), Generation(prompt="refuse this", max_tokens=9))
    assert answer.failure is not None
    assert (answer.failure.failure, answer.failure.status) == (Failure.INVALID, 400)
    assert answer.failure.message == "the engine answered: the model refuses this prompt"


async def test_leaving_ends_the_work(triton: RealTriton, http: EngineHttp) -> None:
    async with adapter_at(triton, http, PLAIN).submit(SLOWLY) as batches:
        await anext(batches)
    await heard(triton, "cancelled after")


async def test_loading_serving_and_gone_are_three_states(tmp_path: Path, http: EngineHttp) -> None:
    gate = tmp_path / "gate"
    repository = write_toy(tmp_path / "models", PLAIN, gate=gate)
    with real_triton(repository, "--model-control-mode=explicit") as server:
        adapter = adapter_at(server, http)
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(status(server, f"/v2/repository/models/{PLAIN}/load", b"{}"))
            await heard(server, "loads")
            assert await adapter.health() is Health.LOADING
            answer = await generate(adapter, Generation(prompt="rain", max_tokens=1))
            assert answer.failure is not None
            assert answer.failure.failure is Failure.LOADING
            gate.touch()
            assert await loading == 200
        assert await adapter.health() is Health.OK
        assert (await generate(adapter, Generation(prompt="rain", max_tokens=1))).failure is None
    assert await adapter.health() is Health.DOWN


async def test_a_server_that_is_killed_is_broken_at_once(alone: RealTriton, http: EngineHttp) -> None:
    adapter = adapter_at(alone, http)
    async with asyncio.timeout(AT_ONCE_S), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(generate(adapter, SLOWLY))
        await heard(alone, "begins")
        alone.process.send(signal.SIGKILL)
        answer = await running
    assert answer.failure is not None
    assert answer.failure.failure is Failure.BROKEN
    assert await adapter.health() is Health.DOWN


async def test_a_server_that_is_stopped_ends_its_streams_and_takes_no_more(alone: RealTriton, http: EngineHttp) -> None:
    adapter = adapter_at(alone, http)
    slowly = msgspec.structs.replace(SLOWLY, max_tokens=50)
    async with adapter.submit(slowly) as batches:
        texts = (await anext(batches)).texts
        alone.process.send(signal.SIGTERM)
        await asyncio.to_thread(alone.process.said, "HTTP service connections", within_s=AT_ONCE_S)
        refused = await generate(adapter, SLOWLY)
        assert refused.failure is not None
        assert refused.failure.failure in {Failure.REFUSED, Failure.BROKEN}  # the listener closes meanwhile
        finished = None
        async for batch in batches:
            texts += batch.texts
            finished = batch.finished
    assert len(texts) == 50
    assert finished is not None
    assert await asyncio.to_thread(alone.process.ended, 60) == 0


# --- through the product ----------------------------------------------------------------------------------------------


@pytest.mark.req("HP-10")
async def test_our_stream_is_the_same_as_of_any_engine(alone: RealTriton, tmp_path: Path, http: EngineHttp) -> None:
    adapter = adapter_at(alone, http)
    asked = await under_profile(adapter, Engine.TRITON, Generation(prompt="rain", max_tokens=20, seed=7))
    direct = await generate(adapter, asked)
    async with house(tmp_path, alone.url, pool(engine=Engine.TRITON)) as here:
        stream = await here.stream(await here.submit(prompt="rain", max_tokens=20, seed=7))
    assert events_of(stream) == ["started", *["token"] * 20, "end"]
    assert text_of(stream) == direct.text


@pytest.mark.req("HP-17")
async def test_a_model_that_died_is_no_fault_of_the_next_request(alone: RealTriton, tmp_path: Path) -> None:
    """What is asked while the process dies may hang instead; what is asked when it is dead is refused, with 400."""
    (stub,) = alone.stubs()
    os.kill(stub, signal.SIGKILL)
    await until(lambda: alone.stubs() == [], "the death")
    async with house(tmp_path, alone.url, pool(engine=Engine.TRITON)) as here:
        last = frames_of(await here.stream(await here.submit(prompt="rain", max_tokens=20)))[-1]
    assert (last.event, last.data["code"], last.data["retriable"]) == ("error", "WORKER_RESET", True)
    assert "is not healthy" in last.data["message"]


@pytest.mark.req("HP-17")
async def test_a_model_that_died_while_its_server_says_ready_is_no_good_end(alone: RealTriton, tmp_path: Path) -> None:
    """The stream hangs for ever, and only the idle limit sees it; or Triton says after a second why it ends.

    Which of the two, nobody can choose. /v2/health/ready goes on saying 200.
    """
    watched = pool(engine=Engine.TRITON, timeouts=Timeouts(idle_ms=6_000))
    async with house(tmp_path, alone.url, watched) as here:
        task = await here.submit(prompt="rain, slowly", max_tokens=1000)
        async with here.client.get(f"/v1/tasks/{task}/stream") as answer:
            stream = await read_until(answer, lambda seen: b"event: token" in seen)
            (stub,) = alone.stubs()
            os.kill(stub, signal.SIGKILL)
            stream += await answer.read()
    last = frames_of(stream)[-1]
    assert last.event == "error"
    assert (last.data["code"], last.data["retriable"]) in {("WORKER_RESET", True), ("DECODE_TIMEOUT", True)}
    assert await status(alone, "/v2/health/ready") == 200

"""The real vLLM, built for CPUs, behind its adapter: what only it can vouch for.

It takes half a minute to start, so the tests share one server, and the last of them ends it; what two more servers are
needed for comes after that, and they start together with the first.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from adapters.base import Adapter, EngineError, Failure, Generation, Health
from adapters.http import EngineHttp
from adapters.registry import adapter_for
from contracts.config import Engine, Timeouts
from contracts.events import FinishReason
from contracts.pools import Endpoint
from contracts.tasks import ChatMessage, Role, Sampling, Workload
from tests.engines.generating import generate, under_profile
from tests.integration.orchestratord.house import house, read_until, tokens_in
from tests.support.real_vllm import CONTEXT, RealVllm, hf_models, real_vllms, slow_hf_model
from tests.unit.orchestratord.frames import events_of, frames_of, text_of
from tests.unit.orchestratord.world import pool

pytestmark = [
    pytest.mark.engine("vllm"),
    pytest.mark.req("AD-01", "AD-03"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

LIMIT_S = 60.0
"""Who takes longer has hung. Nothing here measures how fast a busy machine is."""
CHAT = (ChatMessage(role=Role.USER, content="hi"),)
LONG = Generation(prompt="once", max_tokens=CONTEXT - 100)
"""Half a minute of work."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealVllm, ...]]:
    slow, some = slow_hf_model(tmp_path_factory), "--max-num-seqs=4"
    pooling = hf_models(tmp_path_factory)[0], some, "--runner=pooling", "--convert=embed"
    with real_vllms(tmp_path_factory.mktemp("vllm"), (slow, some), (slow, some), pooling) as started:
        yield started


@pytest.fixture
def vllm(servers: tuple[RealVllm, ...]) -> RealVllm:
    """The server that the tests share."""
    return servers[0]


def adapter_at(server: RealVllm, http: EngineHttp) -> Adapter:
    return adapter_for(Engine.VLLM, Endpoint(url=server.url), http)


async def metric(server: RealVllm, name: str) -> float:
    """The value of one of its metrics."""
    async with aiohttp.ClientSession(server.url) as client, client.get("/metrics") as answered:
        metrics = await answered.text()
    found = re.search(rf"^vllm:{name}\{{.*\}} (\S+)$", metrics, re.MULTILINE)
    assert found is not None
    return float(found[1])


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """This process gets no processor meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# --- what it serves ---------------------------------------------------------------------------------------------------


async def test_it_says_what_it_is(vllm: RealVllm, http: EngineHttp) -> None:
    adapter = adapter_at(vllm, http)
    props = await adapter.props()
    assert (props.engine_version, props.ctx_max) == ("0.32.0", CONTEXT)
    assert props.workloads == (Workload.COMPLETION, Workload.CHAT)
    assert {"seed", "stop", "tokenize", "json_schema", "grammar", "cache_prompt", "cancel_on_close"} <= set(
        props.features
    )
    assert await adapter.health() is Health.OK


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "generation",
    [
        pytest.param(Generation(prompt="once upon", max_tokens=40, seed=5), id="completion"),
        pytest.param(Generation(messages=CHAT, max_tokens=40, seed=5), id="chat"),
    ],
)
async def test_a_generation_with_the_engines_own_counts(
    vllm: RealVllm, http: EngineHttp, generation: Generation
) -> None:
    adapter = adapter_at(vllm, http)
    answer = await generate(adapter, generation)
    assert answer.finished is not None
    assert (answer.finished.reason, answer.finished.tokens_out) == (FinishReason.LENGTH, 40)
    assert answer.finished.tokens_in == await adapter.count_tokens(generation)
    assert len(answer.text) == 40  # one character each
    assert (await generate(adapter, generation)).text == answer.text
    assert (await generate(adapter, msgspec.structs.replace(generation, cache_prompt=False))).text == answer.text
    assert (await generate(adapter, msgspec.structs.replace(generation, seed=6))).text != answer.text


async def test_a_stop_word_ends_it_and_is_not_sent(vllm: RealVllm, http: EngineHttp) -> None:
    adapter = adapter_at(vllm, http)
    whole = (await generate(adapter, Generation(prompt="once", max_tokens=60, seed=2))).text
    stop = whole[30:33]
    stopped = Generation(prompt="once", max_tokens=60, seed=2, sampling=Sampling(stop=(stop,)))
    answer = await generate(adapter, stopped)
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finished is not None
    assert answer.finished.reason is FinishReason.STOP


async def test_a_completion_without_a_limit_gets_the_rest_of_the_context(vllm: RealVllm, http: EngineHttp) -> None:
    answer = await generate(adapter_at(vllm, http), Generation(prompt="x" * (CONTEXT - 50)))
    assert answer.finished is not None
    assert (answer.finished.reason, answer.finished.tokens_out) == (FinishReason.LENGTH, 50)


@pytest.mark.parametrize("chat", [False, True])
async def test_a_grammar_and_a_schema_bind_the_text(vllm: RealVllm, http: EngineHttp, chat: bool) -> None:
    what = {"messages": CHAT} if chat else {"prompt": "say"}
    adapter = adapter_at(vllm, http)
    for sampling, texts in (
        (Sampling(grammar='root ::= "abcdef"'), {"abcdef"}),
        (Sampling(json_schema={"enum": ["yes", "no"]}), {'"yes"', '"no"'}),
    ):
        answer = await generate(adapter, Generation(**what, max_tokens=60, sampling=sampling))
        assert answer.text in texts
        assert answer.finished is not None
        assert answer.finished.reason is FinishReason.STOP


@pytest.mark.req("HP-10")
async def test_our_stream_is_the_same_as_of_any_engine(vllm: RealVllm, http: EngineHttp, tmp_path: Path) -> None:
    adapter = adapter_at(vllm, http)
    asked = await under_profile(adapter, Engine.VLLM, Generation(prompt="rain", max_tokens=20, seed=7))
    direct = await generate(adapter, asked)
    async with house(tmp_path, vllm.url, pool(engine=Engine.VLLM)) as here:
        stream = await here.stream(await here.submit(prompt="rain", max_tokens=20, seed=7))
    events = events_of(stream)
    assert events == ["started", *["token"] * (len(events) - 2), "end"]
    assert text_of(stream) == direct.text


# --- refusals and failures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "generation",
    [Generation(prompt="x" * (CONTEXT + 9), max_tokens=9), Generation(prompt="x" * (CONTEXT + 9))],
)
async def test_a_prompt_over_the_context_is_refused(vllm: RealVllm, http: EngineHttp, generation: Generation) -> None:
    answer = await generate(adapter_at(vllm, http), generation)
    assert answer.failure is not None
    assert (answer.failure.failure, answer.failure.status) == (Failure.CONTEXT, 400)


async def test_a_grammar_that_is_none_is_the_clients_fault(vllm: RealVllm, http: EngineHttp) -> None:
    """It is said inside a stream of status 200, and [DONE] follows."""
    asked = Generation(prompt="x", max_tokens=9, sampling=Sampling(grammar="root := (("))
    answer = await generate(adapter_at(vllm, http), asked)
    assert answer.failure is not None
    assert answer.failure.failure is Failure.INVALID
    assert "grammar" in answer.failure.message


async def test_leaving_frees_the_request(vllm: RealVllm, http: EngineHttp) -> None:
    before, adapter = await metric(vllm, "generation_tokens_total"), adapter_at(vllm, http)
    assert await adapter.busy() == 0
    (worker,) = vllm.workers()
    async with asyncio.timeout(LIMIT_S), AsyncExitStack() as there:
        await anext(await there.enter_async_context(adapter.submit(LONG)))
        # It computes nothing until the server has seen us leave: it hears later what it may stop, where all are busy.
        with standing_still(worker):
            while await adapter.busy() != 1:
                pass
            await there.aclose()
            for _ in range(3):  # whoever is answered behind that is answered by one who has seen it
                await metric(vllm, "generation_tokens_total")
        # Both are written together, after a step.
        while await metric(vllm, "generation_tokens_total") == before or await adapter.busy():
            pass
    assert LONG.max_tokens is not None
    assert await metric(vllm, "generation_tokens_total") - before < LONG.max_tokens / 2


@pytest.mark.req("HP-17")
async def test_a_stop_while_it_streams_is_no_good_end(vllm: RealVllm, http: EngineHttp, tmp_path: Path) -> None:
    """The last test of this server.

    It says an error in the stream and then [DONE] as if nothing were; or, where its own processes end in another
    order, it says nothing any more and waits for the client to leave. Then the idle limit sees it.
    """
    watched = pool(engine=Engine.VLLM, timeouts=Timeouts(idle_ms=10_000))
    async with house(tmp_path, vllm.url, watched) as here:
        task = await here.submit(prompt="once", max_tokens=LONG.max_tokens)
        async with here.client.get(f"/v1/tasks/{task}/stream") as answer:
            stream = await read_until(answer, lambda got: tokens_in(got) >= 3)
            vllm.process.send(signal.SIGTERM)
            async with asyncio.timeout(LIMIT_S):
                stream += await answer.read()
    last = frames_of(stream)[-1]
    assert last.event == "error"
    assert (last.data["code"], last.data["retriable"]) in {("WORKER_RESET", True), ("DECODE_TIMEOUT", True)}
    await asyncio.to_thread(vllm.process.ended, LIMIT_S)
    assert await adapter_at(vllm, http).health() is Health.DOWN


async def test_a_worker_that_is_killed_is_broken_at_once(servers: tuple[RealVllm, ...], http: EngineHttp) -> None:
    """The server says 503, and then exits as if all were well."""
    server = servers[1]
    adapter = adapter_at(server, http)
    (worker,) = server.workers()
    async with asyncio.timeout(LIMIT_S), adapter.submit(LONG) as batches:
        await anext(batches)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(EngineError) as caught:
            assert [batch async for batch in batches if batch.finished is not None] == []
    assert caught.value.failure is Failure.BROKEN
    assert await adapter.health() is Health.DOWN
    assert await asyncio.to_thread(server.process.ended, LIMIT_S) == 0


# --- embeddings and scores --------------------------------------------------------------------------------------------


async def test_a_pooling_start_embeds_and_ranks_and_does_nothing_else(
    servers: tuple[RealVllm, ...], http: EngineHttp
) -> None:
    texts = "rain", "snow", "a stone in the river"
    server = servers[2]
    adapter = adapter_at(server, http)
    assert (await adapter.props()).workloads == (Workload.EMBEDDING, Workload.RERANK)
    asked = Generation(workload=Workload.EMBEDDING, inputs=texts)
    answer = await generate(adapter, asked)
    found = [json.loads(text) for text in answer.texts]
    assert [each["index"] for each in found] == [0, 1, 2]
    assert {len(each["embedding"]) for each in found} == {64}
    assert answer.finished is not None
    assert answer.finished.tokens_in == sum(map(len, texts))  # one token for each character
    alone = await generate(adapter, msgspec.structs.replace(asked, inputs=texts[2:]))
    assert json.loads(alone.texts[0])["embedding"] == pytest.approx(found[2]["embedding"], abs=1e-5)

    ranked = await generate(adapter, Generation(workload=Workload.RERANK, prompt="rain", inputs=texts))
    scores = [json.loads(text) for text in ranked.texts]
    assert [each["index"] for each in scores] == [0, 1, 2]
    assert scores[0]["score"] == pytest.approx(1.0, abs=1e-4)  # the query itself
    assert max(each["score"] for each in scores[1:]) < scores[0]["score"]

    long = await generate(adapter, Generation(workload=Workload.EMBEDDING, inputs=("x" * (CONTEXT + 1),)))
    assert long.failure is not None
    assert long.failure.failure is Failure.CONTEXT
    refused = await generate(adapter, Generation(prompt="x", max_tokens=1))
    assert refused.failure is not None
    assert refused.failure.failure is Failure.PROTOCOL

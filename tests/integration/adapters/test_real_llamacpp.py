"""The adapter against the real llama.cpp server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from adapters.base import Adapter, EngineError, Failure, Finished, Generation, Health
from adapters.http import EngineHttp
from adapters.llamacpp_wire import INPUTS_PER_REQUEST
from adapters.registry import adapter_for
from contracts.config import Engine
from contracts.events import FinishReason
from contracts.pools import Endpoint
from contracts.tasks import ChatMessage, Role, Sampling, Workload
from tests.support.raw_http import raw
from tests.support.real_llamacpp import real_llamacpp, real_llamacpp_sharing_its_context
from tests.support.tiny_gguf import slow_model, write_tiny_gguf
from tests.support.waiting import looked_for

KEY = "sesame-open-wide"
CHAT = (ChatMessage(role=Role.SYSTEM, content="be short"), ChatMessage(role=Role.USER, content="hi"))


def adapter_at(url: str, http: EngineHttp, key: str | None = KEY) -> Adapter:
    return adapter_for(Engine.LLAMACPP, Endpoint(url=url, api_key=key), http)


async def run(adapter: Adapter, generation: Generation) -> tuple[list[str], Finished]:
    """The pieces of text and the engine's own account."""
    texts: list[str] = []
    async with adapter.submit(generation) as batches:
        async for batch in batches:
            texts += batch.texts
            if batch.finished is not None:
                return texts, batch.finished
    raise AssertionError("the iterator ended without an end")


async def slots_are_free(url: str) -> None:
    """Wait until no slot works."""

    async def busy() -> list[bool]:
        return [slot["is_processing"] for slot in msgspec.json.decode((await raw(url, "/slots", key=KEY)).body)]

    await looked_for(busy, lambda each: not any(each), "free slots")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
async def url(tiny: Path) -> AsyncIterator[str]:
    async with real_llamacpp(tiny, slots=1, ctx=512, key=KEY) as url:
        yield url


@pytest.mark.parametrize(
    "generation",
    [
        pytest.param(Generation(prompt="once upon", max_tokens=12, seed=5), id="completion"),
        pytest.param(Generation(messages=CHAT, max_tokens=12, seed=5), id="chat"),
    ],
)
@pytest.mark.req("AD-03")
async def test_a_generation_with_the_engines_own_counts(url: str, http: EngineHttp, generation: Generation) -> None:
    adapter = adapter_at(url, http)
    texts, finished = await run(adapter, generation)
    assert "".join(texts)
    assert (finished.reason, finished.tokens_out) == (FinishReason.LENGTH, 12)
    assert finished.tokens_in == await adapter.count_tokens(generation)
    assert finished.cached_tokens == 0
    assert finished.decode_ms is not None
    again, cached = await run(adapter, generation)
    assert again == texts  # the same seed
    assert cached.cached_tokens is not None
    assert cached.cached_tokens > 0
    cold = await run(adapter, msgspec.structs.replace(generation, cache_prompt=False))
    assert (cold[0], cold[1].cached_tokens) == (texts, 0)


async def test_every_sampling_field_reaches_the_engine(url: str, http: EngineHttp) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.75, top_k=7, min_p=0.25, repeat_penalty=1.5, stop=("zzz",))
    generation = Generation(prompt="x", max_tokens=3, seed=9, sampling=sampling, cache_prompt=False)
    await run(adapter_at(url, http), generation)
    params = msgspec.json.decode((await raw(url, "/slots", key=KEY)).body)[0]["params"]
    wanted = {"temperature": 0.5, "top_p": 0.75, "top_k": 7, "min_p": 0.25, "repeat_penalty": 1.5, "seed": 9}
    assert wanted.items() <= params.items()
    assert params["n_predict"] == 3


@pytest.mark.parametrize("chat", [False, True])
async def test_a_grammar_a_schema_and_a_stop_word_bind_the_text(url: str, http: EngineHttp, chat: bool) -> None:
    adapter = adapter_at(url, http)

    async def bound(sampling: Sampling) -> tuple[str, Finished]:
        what = {"messages": CHAT} if chat else {"prompt": "say"}
        texts, finished = await run(adapter, Generation(**what, max_tokens=60, sampling=sampling))
        return "".join(texts), finished

    text, finished = await bound(Sampling(grammar='root ::= "abcdef"'))
    assert (text, finished.reason) == ("abcdef", FinishReason.STOP)
    text, finished = await bound(Sampling(grammar='root ::= "abcdef"', stop=("cd",)))
    assert (text, finished.reason) == ("ab", FinishReason.STOP)
    text, _ = await bound(Sampling(json_schema={"enum": ["yes", "no"]}))
    assert text in {'"yes"', '"no"'}


async def test_it_says_what_it_is(url: str, http: EngineHttp) -> None:
    adapter = adapter_at(url, http)
    props = await adapter.props()
    assert (props.slots, props.ctx_max) == (1, 512)
    assert props.engine_version
    assert props.workloads == (Workload.COMPLETION, Workload.CHAT)
    assert set(props.features) >= {"seed", "grammar", "tokenize"}
    assert await adapter.health() is Health.OK


@pytest.mark.parametrize(
    ("generation", "failure", "message"),
    [
        (Generation(prompt="hello world " * 500), Failure.CONTEXT, "tokens and the context holds 512"),
        (Generation(messages=(ChatMessage(role=Role.USER, content="hello " * 500),)), Failure.CONTEXT, "holds 512"),
        (Generation(prompt="x", sampling=Sampling(grammar="root := ((")), Failure.INVALID, "grammar"),
        (Generation(messages=CHAT, sampling=Sampling(grammar="root := ((")), Failure.INVALID, "grammar"),
    ],
)
async def test_what_the_engine_refuses(
    url: str, http: EngineHttp, generation: Generation, failure: Failure, message: str
) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        await run(adapter_at(url, http), generation)
    assert caught.value.failure is failure


@pytest.mark.parametrize("key", [None, "another-key"])
async def test_without_the_key_nothing_but_health(url: str, http: EngineHttp, key: str | None) -> None:
    adapter = adapter_at(url, http, key)
    assert await adapter.health() is Health.OK
    for asking in (adapter.props(), adapter.count_tokens(Generation(prompt="x")), run(adapter, Generation(prompt="x"))):
        with pytest.raises(EngineError, match="Invalid API Key") as caught:
            await asking
        assert caught.value.failure is Failure.UNAUTHORIZED


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Generation(prompt="hello a"), Generation(prompt="bye bye")),
        (Generation(messages=CHAT), Generation(prompt="bye bye")),
    ],
)
async def test_a_context_that_fills_up_while_it_streams(
    http: EngineHttp, first: Generation, second: Generation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A fast model would be through with the first one before the second one comes, on a machine that is held up."""
    async with real_llamacpp_sharing_its_context(slow_model(tmp_path_factory)) as url:
        adapter = adapter_at(url, http, None)
        results = await asyncio.gather(run(adapter, first), run(adapter, second), return_exceptions=True)
    failures = [result for result in results if isinstance(result, EngineError)]
    assert failures
    assert all(error.failure is Failure.CONTEXT for error in failures)
    assert failures[0].message == "the engine answered: Context size has been exceeded."


async def test_leaving_frees_the_slot_at_any_time(http: EngineHttp, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with real_llamacpp(slow_model(tmp_path_factory), slots=1, ctx=1024, key=KEY) as url:
        adapter = adapter_at(url, http)
        async with adapter.submit(Generation(prompt="once", max_tokens=900)) as batches:
            await anext(batches)
        await slots_are_free(url)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(run(adapter, Generation(prompt="once upon a time " * 50, max_tokens=900)))
            async with asyncio.timeout(30):
                while not msgspec.json.decode((await raw(url, "/slots", key=KEY)).body)[0]["is_processing"]:
                    assert not waiting.done()
            waiting.cancel()  # while the prompt is being read: the slot is free when that is done
        await slots_are_free(url)
        assert (await run(adapter, Generation(prompt="once", max_tokens=2)))[1].tokens_out == 2


# --- embeddings and scores --------------------------------------------------------------------------------------------

EMBEDDER = ("--embeddings", "--pooling", "mean")
INPUTS = ("once", "upon a time", "", "once")


@asynccontextmanager
async def started_with(tiny: Path, http: EngineHttp, *flags: str) -> AsyncIterator[Adapter]:
    async with real_llamacpp(tiny, *flags, key=KEY) as url:
        yield adapter_at(url, http)


def embedding_of(*inputs: str) -> Generation:
    return Generation(workload=Workload.EMBEDDING, inputs=inputs)


@pytest.mark.req("AD-04")
@pytest.mark.parametrize(
    ("flags", "workloads"),
    [
        pytest.param(EMBEDDER, (Workload.COMPLETION, Workload.CHAT, Workload.EMBEDDING), id="embeddings"),
        pytest.param(("--reranking",), (Workload.COMPLETION, Workload.CHAT, Workload.RERANK), id="a ranking head"),
        pytest.param(("--embeddings", "--pooling", "none"), (Workload.COMPLETION, Workload.CHAT), id="no pooling"),
    ],
)
async def test_what_it_serves_is_found_by_asking_it(
    tiny: Path, http: EngineHttp, flags: tuple[str, ...], workloads: tuple[Workload, ...]
) -> None:
    async with started_with(tiny, http, *flags) as adapter:
        assert (await adapter.props()).workloads == workloads


@pytest.mark.req("AD-05")
async def test_each_input_has_its_embedding(tiny: Path, http: EngineHttp) -> None:
    async with started_with(tiny, http, *EMBEDDER) as adapter:
        texts, finished = await run(adapter, embedding_of(*INPUTS))
        results = [msgspec.json.decode(text) for text in texts]
        assert [each["index"] for each in results] == [0, 1, 2, 3]
        assert {len(each["embedding"]) for each in results} == {64}
        assert results[0]["embedding"] == results[3]["embedding"] != results[1]["embedding"]
        counted = [await adapter.count_tokens(embedding_of(text)) for text in INPUTS]
        assert (finished.tokens_in, finished.tokens_out) == (sum(each or 0 for each in counted), 0)
        assert await adapter.count_tokens(embedding_of(*INPUTS)) == max(each or 0 for each in counted)


@pytest.mark.req("AD-05")
async def test_more_inputs_than_one_request_takes_come_in_their_order(tiny: Path, http: EngineHttp) -> None:
    inputs = [f"input {number}" for number in range(2 * INPUTS_PER_REQUEST + 1)]
    async with started_with(tiny, http, *EMBEDDER) as adapter:
        texts, _ = await run(adapter, embedding_of(*inputs))
        alone, _ = await run(adapter, embedding_of(inputs[-1]))
    found = [msgspec.json.decode(text) for text in texts]
    assert [each["index"] for each in found] == list(range(len(inputs)))
    assert found[-1]["embedding"] == pytest.approx(msgspec.json.decode(alone[0])["embedding"], abs=1e-5)


@pytest.mark.req("AD-05")
async def test_each_document_has_its_score(tiny: Path, http: EngineHttp) -> None:
    documents = ("a wolf", "the moon", "a wolf")
    async with started_with(tiny, http, "--reranking") as adapter:
        generation = Generation(workload=Workload.RERANK, prompt="wolves", inputs=documents)
        texts, finished = await run(adapter, generation)
        results = [msgspec.json.decode(text) for text in texts]
        assert [each["index"] for each in results] == [0, 1, 2]
        assert results[0]["score"] == results[2]["score"] != results[1]["score"]
        assert finished.tokens_out == 0
        counted = await adapter.count_tokens(generation)
        assert counted is not None
        assert counted > len("wolves")  # the tiny model has a token per letter


@pytest.mark.parametrize(
    ("flags", "generation", "expected"),
    [
        ((), embedding_of("a"), (Failure.INVALID, "Start it with `--embeddings`")),
        ((), Generation(workload=Workload.RERANK, prompt="a", inputs=("b",)), (Failure.INVALID, "`--reranking`")),
        (EMBEDDER, embedding_of("a", "hello " * 500), (Failure.CONTEXT, "too large to process")),
        (("--reranking",), embedding_of("hello " * 500), (Failure.CONTEXT, "tokens and the context holds 512")),
    ],
)
async def test_what_it_refuses_to_embed(
    tiny: Path, http: EngineHttp, flags: tuple[str, ...], generation: Generation, expected: tuple[Failure, str]
) -> None:
    async with started_with(tiny, http, *flags) as adapter:
        with pytest.raises(EngineError, match=expected[1]) as caught:
            await run(adapter, generation)
    assert caught.value.failure is expected[0]


async def test_leaving_an_embedding_frees_the_slot(http: EngineHttp, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = slow_model(tmp_path_factory)
    async with real_llamacpp(model, *EMBEDDER, slots=1, ctx=512, key=KEY) as url:
        adapter = adapter_at(url, http)
        many = embedding_of(*["once upon a time"] * 1000 * INPUTS_PER_REQUEST)
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(run(adapter, many))
            async with asyncio.timeout(30):
                while not msgspec.json.decode((await raw(url, "/slots", key=KEY)).body)[0]["is_processing"]:
                    assert not waiting.done()
            waiting.cancel()
        await slots_are_free(url)  # when it has finished what it was sent
        assert len((await run(adapter, embedding_of("once")))[0]) == 1

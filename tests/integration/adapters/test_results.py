"""Every adapter that embeds or ranks: answers in one piece become one text per input, in the order of the inputs."""

import asyncio

import msgspec
import pytest

from adapters.base import Failure
from adapters.http import EngineHttp
from contracts.events import FinishReason
from contracts.tasks import Workload
from tests.integration.adapters.harness import FOR_EVER_MS, facing, generate, names, outcome
from tests.integration.adapters.subjects import ANSWERED, DOCUMENTS, GENERATIONS, STREAMED, Subject
from tests.standin.knobs import Fault, HttpError
from tests.standin.wires.base import score, vector

pytestmark = [
    pytest.mark.req("AD-03"),
    pytest.mark.parametrize("subject", ANSWERED, ids=names(ANSWERED)),
]


def both(items: list[tuple[int, list[float], float | None]]) -> str:
    """An answer of either workload: index, embedding and score of each item."""
    said = {
        "data": [{"index": index, "embedding": embedding} for index, embedding, _ in items],
        "results": [{"index": index, "relevance_score": score} for index, _, score in items],
    }
    return msgspec.json.encode(said).decode()


def expected(subject: Subject) -> list[dict[str, object]]:
    if subject.workload is Workload.EMBEDDING:
        return [{"index": index, "embedding": vector(text)} for index, text in enumerate(DOCUMENTS)]
    query = GENERATIONS[Workload.RERANK].prompt or ""
    return [{"index": index, "score": score(query, text)} for index, text in enumerate(DOCUMENTS)]


@pytest.mark.parametrize("split_every", [None, 1])
async def test_each_input_has_one_text_in_its_order(
    subject: Subject, http: EngineHttp, split_every: int | None
) -> None:
    answer = await outcome(subject, http, subject.knobs(split_every=split_every))
    assert [msgspec.json.decode(text) for text in answer.texts] == expected(subject)
    assert answer.finished is not None
    assert answer.finished.reason is FinishReason.STOP
    assert answer.finished.tokens_in is not None


async def test_cancelled_while_it_computes_the_slot_is_free(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(first_token_delay_ms=FOR_EVER_MS, slots=1)) as (engine, adapter):
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(generate(adapter, subject))
            await engine.until(lambda stats: stats.running == 1)
            waiting.cancel()
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


@pytest.mark.parametrize(
    ("fault", "failures"),
    [
        (Fault.CLOSE, {Failure.BROKEN}),
        (Fault.RESET, {Failure.BROKEN}),
        (Fault.GARBAGE, {Failure.PROTOCOL}),
    ],
)
async def test_an_answer_that_is_cut_off_or_no_json(
    subject: Subject, http: EngineHttp, fault: Fault, failures: set[Failure]
) -> None:
    answer = await outcome(subject, http, subject.knobs(fault=fault))
    assert answer.failure in failures
    assert answer.texts == []


async def test_an_answer_that_stalls_is_silence_until_somebody_gives_it_up(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(fault=Fault.HANG)) as (engine, adapter):
        async with adapter.submit(subject.generation) as batches:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(batches), 0.05)
        await engine.until(lambda stats: stats.cancelled == 1)


@pytest.mark.parametrize("claims", ["-5", "18446744073709551616", '"many"', "null", "1e400"])
async def test_a_count_that_cannot_be_is_none_or_an_error(subject: Subject, http: EngineHttp, claims: str) -> None:
    answer = await outcome(subject, http, subject.knobs(claims=claims))
    assert answer.failure in {None, Failure.PROTOCOL}
    if answer.finished is not None:
        assert answer.finished.tokens_in is None or 0 <= answer.finished.tokens_in < 1 << 53


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        both([]),
        both([(0, [1.0], 1)]),
        both([(0, [1], 1), (0, [1], 1), (2, [1], 1)]),
        both([(0, [1], 1), (1, [1, 2], None), (2, [1], 1)]),
        both([(-1, [1], 1), (1, [1], 1), (2, [1], 1)]),
        "<html>hello</html>",
        "",
    ],
    ids=["list", "object", "none", "too few", "twice", "unlike", "negative", "page", "nothing"],
)
async def test_an_answer_to_another_question_is_a_breach_of_protocol(
    subject: Subject, http: EngineHttp, body: str
) -> None:
    answer = await outcome(subject, http, subject.knobs(http_error=HttpError(200, body)))
    assert answer.failure is Failure.PROTOCOL
    assert answer.texts == []


async def test_an_engine_that_was_started_for_something_else_says_so(subject: Subject, http: EngineHttp) -> None:
    other = next(each for each in STREAMED if each.engine is subject.engine)
    async with facing(other, http, other.knobs()) as (_, adapter):
        answer = await generate(adapter, subject)
    assert answer.failure in {Failure.INVALID, Failure.PROTOCOL}

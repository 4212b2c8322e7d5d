"""Every adapter before engines that say what is not so: counts, ends, ids, types, sizes."""

import pytest

from adapters.base import Failure
from adapters.http import EngineHttp
from contracts.config import Engine
from tests.integration.adapters.harness import facing, generate, outcome, text_of
from tests.integration.adapters.subjects import STREAMED, Subject
from tests.standin.knobs import Fault

pytestmark = pytest.mark.req("AD-03")

MOST = 1 << 53
"""No count of tokens is larger, and no JSON parser of a client loses one that is smaller."""
WITH_AN_END = [each for each in STREAMED if each.engine is not Engine.TRITON]
with_an_end = pytest.mark.parametrize("subject", WITH_AN_END, ids=[each.name for each in WITH_AN_END])


@pytest.mark.parametrize("claims", ["0", "7", "1000000"])
async def test_a_count_that_may_be_is_the_engines_to_tell(subject: Subject, http: EngineHttp, claims: str) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=4, claims=claims))
    assert answer.text == text_of(4)
    assert answer.finished is not None
    assert (answer.finished.tokens_out is not None) is subject.tells


@pytest.mark.parametrize("claims", ["-5", "18446744073709551616", "9" * 400, "null"])
async def test_a_count_that_cannot_be_is_none(subject: Subject, http: EngineHttp, claims: str) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=4, claims=claims))
    told = [] if answer.finished is None else [answer.finished.tokens_in, answer.finished.tokens_out]
    assert all(count is None or 0 <= count <= MOST for count in told)
    assert answer.failure in {None, Failure.PROTOCOL}
    if answer.failure is None:
        assert answer.text == text_of(4)


@pytest.mark.parametrize("claims", ['"many"', "true", "1.5", "[]", "1e400", "NaN"])
async def test_a_count_that_is_no_number_is_an_error_or_none(subject: Subject, http: EngineHttp, claims: str) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=4, claims=claims))
    assert answer.failure in {None, Failure.PROTOCOL}
    told = [] if answer.finished is None else [answer.finished.tokens_in, answer.finished.tokens_out]
    assert all(count is None or type(count) is int for count in told)


@with_an_end
@pytest.mark.parametrize("fault", [Fault.TWO_ENDS, Fault.AFTER_END])
@pytest.mark.parametrize("split_every", [None, 40])
async def test_nothing_counts_that_comes_after_the_end(
    subject: Subject, http: EngineHttp, fault: Fault, split_every: int | None
) -> None:
    knobs = subject.knobs(tokens=4, fault=fault, fault_after=4, split_every=split_every)
    async with facing(subject, http, knobs) as (engine, adapter):
        answer = await generate(adapter, subject)
        assert answer.failure is None
        assert answer.text == text_of(4)
        assert sum(batch.finished is not None for batch in answer.batches) == 1
        await engine.until(lambda stats: stats.running == 0)


@pytest.mark.parametrize("fields", ["id: 7", "event: message", "id: 7\nevent: error\nretry: 0", ": a comment"])
async def test_fields_beside_the_data_mean_nothing(subject: Subject, http: EngineHttp, fields: str) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=4, event_fields=fields))
    assert answer.text == text_of(4)
    assert answer.finished is not None


@pytest.mark.trap(13)
@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=utf-8", "text/html", "nonsense"])
async def test_a_stream_of_another_type_is_a_breach_of_protocol(subject: Subject, http: EngineHttp, kind: str) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=4, stream_type=kind))
    assert answer.failure is Failure.PROTOCOL
    assert answer.texts == []


@pytest.mark.trap(13)
async def test_an_answer_that_is_no_event_stream_is_a_breach_of_protocol(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, subject.knobs(not_sse=True))
    assert answer.error is not None
    assert answer.failure is Failure.PROTOCOL
    assert answer.error.message == "an event stream was due, and text/html came"


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "no-such-charset"])
async def test_events_are_utf_8_whatever_their_head_says(subject: Subject, http: EngineHttp, charset: str) -> None:
    kind = f"text/event-stream; charset={charset}"
    answer = await outcome(subject, http, subject.knobs(tokens=8, stream_type=kind))
    assert answer.text == text_of(8)


@pytest.mark.trap(15)
@pytest.mark.parametrize("split_every", [None, 5_000])
async def test_a_huge_event_is_refused_before_it_is_kept(subject: Subject, split_every: int | None) -> None:
    knobs = subject.knobs(tokens=2, fault=Fault.HUGE, fault_after=1, huge_bytes=300_000, split_every=split_every)
    async with EngineHttp(max_event_bytes=100_000) as http:
        answer = await outcome(subject, http, knobs)
    assert answer.error is not None
    assert answer.failure is Failure.PROTOCOL
    assert answer.error.message == "the engine sent an event of more than 100000 bytes"


async def test_headers_that_never_end_are_given_up(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(fault=Fault.HEADERS)) as (engine, adapter):
        answer = await generate(adapter, subject)
        assert answer.failure in {Failure.PROTOCOL, Failure.BROKEN}
        await engine.until(lambda stats: stats.running == 0)

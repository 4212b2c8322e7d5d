"""One suite for every adapter, over real sockets: streams that end well, and streams that say why they do not."""

import pytest

from adapters.base import EngineError, Failure
from adapters.http import EngineHttp
from adapters.parameters import WORKLOADS
from adapters.registry import ADAPTERS
from contracts.config import Engine
from contracts.events import FinishReason
from contracts.tasks import Workload
from tests.integration.adapters.harness import WORDS, drain, facing, generate, names, outcome, text_of
from tests.integration.adapters.subjects import SERVED, STREAMED, SUBJECTS, Subject
from tests.standin.knobs import Fault, HttpError

pytestmark = pytest.mark.req("AD-03")

WITH_USAGE = tuple(
    each
    for each in STREAMED
    if each.name not in {"llamacpp completion", "tgi completion"} and each.engine is not Engine.TRITON
)
"""Streams that tell their counts in an event that has no choices."""
FAULTS = [(subject, fault) for subject in STREAMED for fault in subject.manners.events]
INSIDE = [(subject, fault) for subject, fault in FAULTS if subject.engine is not Engine.TRITON]
WITH_DONE = [each for each in STREAMED if each.says_done]


def test_every_adapter_is_in_this_suite() -> None:
    assert {subject.engine for subject in SUBJECTS} == set(ADAPTERS)


@pytest.mark.parametrize("engine", Engine)
def test_every_workload_of_an_adapter_is_in_this_suite(engine: Engine) -> None:
    assert set(WORKLOADS[engine]) == set(SERVED[engine])


# --- good ends --------------------------------------------------------------------------------------------------------


async def test_a_stream_comes_whole_with_the_engines_own_counts(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=20, tokens_per_write=1, token_delay_ms=0.1))
    assert answer.texts == [WORDS[i % len(WORDS)] for i in range(20)]
    assert answer.finished is not None
    assert answer.finished.reason is FinishReason.STOP
    assert answer.finished.tokens_out == (20 if subject.tells else None)
    assert (answer.finished.tokens_in is not None) is subject.tells
    assert len(answer.batches) > 1  # it did not wait for the end


@pytest.mark.trap(5)
@pytest.mark.parametrize("subject", WITH_USAGE, ids=names(WITH_USAGE))
async def test_counts_come_in_an_event_without_choices(subject: Subject, http: EngineHttp) -> None:
    async with facing(subject, http, subject.knobs(tokens=3)) as (engine, adapter):
        answer = await generate(adapter, subject)
        assert b'"include_usage":true' in engine.requests[-1].body  # without being asked no engine sends it
    assert answer.text == text_of(3)
    assert answer.finished is not None
    assert (answer.finished.reason, answer.finished.tokens_out) == (FinishReason.STOP, 3)


@pytest.mark.trap(7)
@pytest.mark.parametrize("split_every", [1, 2, 3, 7, 100])
async def test_cuts_inside_events_and_characters_change_nothing(
    subject: Subject, http: EngineHttp, split_every: int
) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=10, split_every=split_every))
    assert answer.text == text_of(10)
    assert answer.finished is not None


@pytest.mark.trap(7)
async def test_many_events_in_one_read_are_one_batch(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=5_000, tokens_per_write=500))
    assert answer.text == text_of(5_000)
    assert len(answer.batches) < 300


async def test_no_token_at_all_is_a_good_end(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=0))
    assert answer.texts == []
    assert answer.finished is not None


@pytest.mark.trap(3)
async def test_pings_are_no_progress(subject: Subject, http: EngineHttp) -> None:
    slow = subject.knobs(tokens=3, tokens_per_write=1, first_token_delay_ms=20, token_delay_ms=10, ping_ms=1)
    answer = await outcome(subject, http, slow)
    assert answer.text == text_of(3)
    assert sum(not batch.texts for batch in answer.batches) <= 2  # the end, which Triton tells in two parts


@pytest.mark.trap(15)
async def test_an_event_that_is_large_but_within_the_limit_comes_whole(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=2, fault=Fault.HUGE, fault_after=1, huge_bytes=300_000))
    assert [len(text) for text in answer.texts] == [len(WORDS[0]), 300_000, len(WORDS[1])]
    assert answer.failure is None


async def test_a_limit_that_is_reached_is_told(subject: Subject, http: EngineHttp) -> None:
    asked = subject.with_limit(5)
    answer = await outcome(asked, http, subject.knobs())
    assert answer.text == text_of(5)
    assert answer.finished is not None
    told = (FinishReason.LENGTH, 5) if subject.tells else (FinishReason.STOP, None)
    assert (answer.finished.reason, answer.finished.tokens_out) == told


# --- bad ends ---------------------------------------------------------------------------------------------------------


@pytest.mark.trap(2)
@pytest.mark.parametrize(("subject", "fault"), FAULTS, ids=[f"{subject.name} {fault}" for subject, fault in FAULTS])
async def test_a_failure_in_the_stream_comes_after_what_was_said_before(
    subject: Subject, http: EngineHttp, fault: Fault
) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=fault, fault_after=3))
    assert answer.error is not None
    assert answer.failure is subject.manners.events[fault]
    assert answer.error.message.startswith("the engine answered: ")
    assert answer.text == text_of(3)


@pytest.mark.trap(1)
@pytest.mark.parametrize(("subject", "fault"), INSIDE, ids=[f"{subject.name} {fault}" for subject, fault in INSIDE])
async def test_a_failure_that_comes_first_in_a_200_is_no_text(subject: Subject, http: EngineHttp, fault: Fault) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=fault))
    assert answer.error is not None
    assert answer.texts == []
    assert answer.failure is subject.manners.events[fault]
    assert answer.error.message.startswith("the engine answered: ")


@pytest.mark.parametrize(("fault", "status"), [(Fault.ERROR, 400), (Fault.OVERLOADED, 503)])
async def test_an_event_with_a_status_of_its_own_is_read_as_the_event_that_it_is(
    http: EngineHttp, fault: Fault, status: int
) -> None:
    """The first response of Triton also decides the status."""
    subject = Subject(engine=Engine.TRITON, workload=Workload.COMPLETION)
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=fault))
    assert answer.error is not None
    assert answer.error.status == status
    assert answer.failure in {Failure.INVALID, Failure.BROKEN, Failure.OVERLOADED}
    assert answer.error.message in {
        "the engine answered: Error generating stream: EngineCore encountered an issue.",
        "the engine answered: Exceeds maximum queue size",
    }


@pytest.mark.trap(16)
@pytest.mark.parametrize("subject", WITH_DONE, ids=names(WITH_DONE))
@pytest.mark.parametrize("fault", [Fault.ERROR_DONE, Fault.ONLY_DONE])
@pytest.mark.parametrize("after", [0, 3])
async def test_done_is_no_success(subject: Subject, http: EngineHttp, fault: Fault, after: int) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=fault, fault_after=after))
    assert answer.failure in {Failure.BROKEN, Failure.CONTEXT}
    assert answer.text == text_of(after)


@pytest.mark.trap(19)
@pytest.mark.parametrize("body", ['{"error":"Unauthorized"}', '{"error":"Unauthorized","error_type":"auth"}'])
async def test_an_error_that_is_a_string_is_read(subject: Subject, http: EngineHttp, body: str) -> None:
    answer = await outcome(subject, http, subject.knobs(http_error=HttpError(401, body)))
    assert answer.error is not None
    assert (answer.failure, answer.error.status) == (Failure.UNAUTHORIZED, 401)
    assert answer.error.message == "the engine answered: Unauthorized"


@pytest.mark.trap(19)
@pytest.mark.parametrize("after", [0, 3])
async def test_an_error_event_that_is_a_string_is_a_failure(subject: Subject, http: EngineHttp, after: int) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=Fault.ERROR_STRING, fault_after=after))
    assert answer.error is not None
    assert answer.text == text_of(after)


@pytest.mark.trap(8)
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize(
    "subject",
    unended := [each for each in STREAMED if not each.manners.clean_eof_is_an_end],
    ids=names(unended),
)
async def test_a_clean_end_without_the_final_event_is_broken(subject: Subject, http: EngineHttp, after: int) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=Fault.EOF, fault_after=after))
    assert answer.error is not None
    assert (answer.failure, answer.error.message) == (
        Failure.BROKEN,
        "the engine's stream ended without its final event",
    )
    assert answer.text == text_of(after)


@pytest.mark.trap(17)
@pytest.mark.parametrize("after", [0, 3])
async def test_a_clean_end_is_an_end_only_for_an_engine_that_has_no_other(
    subject: Subject, http: EngineHttp, after: int
) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=Fault.EOF, fault_after=after))
    assert answer.text == text_of(after)
    assert (answer.failure is None) is subject.manners.clean_eof_is_an_end


@pytest.mark.trap(17)
async def test_an_end_that_is_not_clean_is_one_for_nobody(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=Fault.CLOSE, fault_after=3))
    assert answer.error is not None
    assert (answer.failure, answer.error.message) == (
        Failure.BROKEN,
        "the engine's connection broke: it ended before the answer was whole",
    )
    assert answer.text == text_of(3)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.GARBAGE, (Failure.PROTOCOL, "the engine sent an event that cannot be read: ")),
        (Fault.NOT_UTF8, (Failure.PROTOCOL, "the engine sent an event that cannot be read: ")),
        (Fault.CUT, (Failure.BROKEN, "the engine's stream ended inside an event")),
        (Fault.CLOSE, (Failure.BROKEN, "the engine's connection broke: ")),
    ],
)
@pytest.mark.parametrize("after", [0, 3])
async def test_what_cannot_be_read_ends_the_stream(
    subject: Subject, http: EngineHttp, fault: Fault, expected: tuple[Failure, str], after: int
) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=fault, fault_after=after))
    assert answer.error is not None
    assert answer.failure is expected[0]
    assert answer.error.message.startswith(expected[1])
    assert answer.text == text_of(after)


async def test_a_connection_that_is_reset_is_broken(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject, http, subject.knobs(tokens=8, fault=Fault.RESET, fault_after=3))
    assert answer.failure is Failure.BROKEN


async def test_a_failure_is_raised_again_and_nothing_comes_after_it(subject: Subject, http: EngineHttp) -> None:
    async with (
        facing(subject, http, subject.knobs(tokens=8, fault=Fault.ERROR, fault_after=3)) as (_, adapter),
        adapter.submit(subject.generation) as batches,
    ):
        with pytest.raises(EngineError):
            await drain(batches)
        with pytest.raises(EngineError):
            await anext(batches)


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (429, '{"error":{"message":"queue full"}}', Failure.OVERLOADED),
        (500, "Internal Server Error", Failure.BROKEN),
        (500, "", Failure.BROKEN),
        (502, "<html>Bad Gateway</html>", Failure.BROKEN),
    ],
)
async def test_a_refusal_is_an_error_of_one_taxonomy(
    subject: Subject, http: EngineHttp, status: int, body: str, failure: Failure
) -> None:
    answer = await outcome(subject, http, subject.knobs(http_error=HttpError(status, body)))
    assert answer.error is not None
    assert (answer.failure, answer.error.status) == (failure, status)


async def test_a_prompt_over_the_context_is_told_apart(subject: Subject, http: EngineHttp) -> None:
    answer = await outcome(subject.with_limit(1), http, subject.knobs(ctx=3))
    assert answer.error is not None
    assert answer.failure is Failure.CONTEXT
    if subject.manners.context_in_numbers:
        assert "tokens and the context holds 3" in answer.error.message

"""The streams of OpenAI-compatible servers: chats and completions, however their bytes are cut."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Batch, Failure, Finished
from adapters.openai import REFUSALS
from adapters.openai_wire import OpenAiReader, error_detail
from adapters.vllm_wire import REFUSALS as VLLM
from contracts.events import FinishReason
from tests.unit.adapters.playing import cuts, events_of, played


def reader(*, needs_done: bool = True) -> OpenAiReader:
    return OpenAiReader(VLLM.stream_error, needs_done=needs_done)


def text(said: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "text": said, "logprobs": None, "finish_reason": finish, "stop_reason": None}
    return msgspec.json.encode({"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": None})


def delta(finish: str | None = None, **said: str) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, "delta": said, "finish_reason": finish}]})


USAGE = msgspec.json.encode({"choices": [], "usage": {"prompt_tokens": 5, "total_tokens": 8, "completion_tokens": 3}})
DONE = b"[DONE]"
ENDED = Finished(reason=FinishReason.STOP, tokens_in=5, tokens_out=3)
WHOLE = events_of(text("a"), text("ü€"), text("𝄞", "stop"), USAGE, DONE)


def test_a_completion_whose_usage_comes_with_empty_choices() -> None:
    assert played(reader(), [WHOLE]) == ("aü€𝄞", ENDED, None)


@given(cuts(WHOLE))
def test_a_completion_is_the_same_however_it_is_cut(reads: list[bytes]) -> None:
    assert played(reader(), reads) == ("aü€𝄞", ENDED, None)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_completion_that_ends_early_is_no_success(length: int) -> None:
    _, finished, failure = played(reader(), [WHOLE[:length]])
    assert finished is None or length >= len(WHOLE) - 2  # [DONE] and its line are whole
    assert (failure is None) is (finished is not None)


def test_the_first_delta_names_the_role_and_the_last_may_carry_text() -> None:
    stream = events_of(delta(role="assistant", content=""), delta(content="a"), delta("length", content="b"), DONE)
    assert played(reader(), [stream]) == ("ab", Finished(reason=FinishReason.LENGTH), None)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_what_a_model_thinks_is_text_too(name: str) -> None:
    stream = events_of(delta(**{name: "hm"}), delta("stop", content="yes"), DONE)
    assert played(reader(), [stream])[0] == "hmyes"


@pytest.mark.req("AD-03")
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_a_thought_that_ends_in_the_event_in_which_the_answer_begins_is_not_lost(name: str) -> None:
    assert reader().batch([delta(**{name: "hm.", "content": "Yes"})]) == Batch(["hm.", "Yes"])


def test_a_thought_under_both_its_names_is_said_once() -> None:
    assert reader().batch([delta(reasoning="hm", reasoning_content="hm")]) == Batch(["hm"])


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_what_the_engine_gave_up_is_no_good_end(reason: str) -> None:
    assert played(reader(), [events_of(text("a"), text("", reason), DONE)]) == ("a", None, Failure.BROKEN)


def test_an_error_followed_by_done_is_an_error() -> None:
    error = b'{"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}'
    assert played(reader(), [events_of(text("a"), error, DONE)]) == ("a", None, Failure.BROKEN)


@pytest.mark.parametrize(("needs_done", "good"), [(True, False), (False, True)])
def test_whether_done_is_needed_behind_a_reason(needs_done: bool, good: bool) -> None:
    found = played(reader(needs_done=needs_done), [events_of(text("a", "stop"))])
    assert found == ("a", Finished(reason=FinishReason.STOP) if good else None, None if good else Failure.BROKEN)


def test_without_a_reason_nothing_has_ended() -> None:
    assert played(reader(needs_done=False), [events_of(text("a"))]) == ("a", None, Failure.BROKEN)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "failure", "message"),
    [
        (401, b'{"error":"Unauthorized"}', Failure.UNAUTHORIZED, "Unauthorized"),
        (404, b'{"error":{"message":"no such model","type":"NotFoundError","code":404}}', Failure.PROTOCOL, "no such"),
        (404, b'{"detail":"Not Found"}', Failure.PROTOCOL, "Not Found"),
        (
            400,
            b'{"error":{"message":"This model\'s maximum context length is 64 tokens.","type":"BadRequestError"}}',
            Failure.CONTEXT,
            "maximum context length is 64",
        ),
        (400, b'{"error":{"message":"bad","type":"BadRequestError","code":400}}', Failure.INVALID, "bad"),
        (400, b'{"object":"error","message":"bad","type":"BadRequestError","code":400}', Failure.INVALID, "bad"),
        (503, b"Service Unavailable", Failure.OVERLOADED, "Service Unavailable"),
        (503, b'{"error":{"message":"queue full"}}', Failure.OVERLOADED, "queue full"),
        (500, b'{"error":{"message":"shutting down"}}', Failure.BROKEN, "shutting down"),
        (429, b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}', Failure.OVERLOADED, "slow down"),
    ],
)
def test_what_servers_of_this_protocol_refuse(status: int, body: bytes, failure: Failure, message: str) -> None:
    for refusals in (REFUSALS, VLLM):
        refused = refusals.refusal(status, body)
        assert (refused.failure, refused.status) == (failure, status)
        assert message in refused.message


def test_a_string_has_its_type_beside_it() -> None:
    detail = error_detail(b'{"error":"Model is overloaded","error_type":"overloaded"}')
    assert (detail.message, detail.type) == ("Model is overloaded", "overloaded")

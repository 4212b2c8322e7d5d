import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import llamacpp_wire as wire
from adapters.base import Batch, EngineError, Failure, Finished, Generation
from adapters.openai_wire import ErrorDetail, OpenAiReader
from adapters.streaming import Reader
from contracts.events import FinishReason
from contracts.tasks import ChatMessage, Role, Sampling

EVERYTHING = Sampling(
    temperature=0.0, top_p=0.9, top_k=0, min_p=0.1, repeat_penalty=1.1, stop=("a", "b"), json_schema={"type": "object"}
)
HELLO = (ChatMessage(role=Role.SYSTEM, content="short"), ChatMessage(role=Role.USER, content="hi"))


def asked(generation: Generation) -> tuple[str, dict[str, object]]:
    path, body = wire.request(generation)
    return path, json.loads(body.whole)


def test_a_plain_completion_says_only_what_was_asked() -> None:
    assert asked(Generation(prompt="once", seed=7)) == (
        "/completion",
        {"prompt": "once", "stream": True, "seed": 7, "cache_prompt": True},
    )


def test_every_field_of_a_completion_is_mapped_by_name() -> None:
    path, body = asked(Generation(prompt="p", max_tokens=9, seed=1, sampling=EVERYTHING, cache_prompt=False))
    assert path == "/completion"
    assert body == {
        "prompt": "p",
        "n_predict": 9,
        "stream": True,
        "seed": 1,
        "cache_prompt": False,
        "temperature": 0.0,
        "top_p": 0.9,
        "top_k": 0,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "stop": ["a", "b"],
        "json_schema": {"type": "object"},
    }
    assert set(msgspec.structs.asdict(EVERYTHING)) - {"grammar"} <= set(body)


@pytest.mark.req("HP-07")
@pytest.mark.parametrize("task", [{"prompt": "once"}, {"messages": HELLO}], ids=["completion", "chat"])
def test_the_slot_is_named_where_one_is_chosen(task: dict[str, Any]) -> None:
    assert asked(Generation(**task, slot=0))[1]["id_slot"] == 0
    assert "id_slot" not in asked(Generation(**task))[1]


def test_a_chat_asks_for_its_usage_and_for_all_text_in_one_place() -> None:
    path, body = asked(Generation(messages=HELLO, max_tokens=9, sampling=Sampling(grammar='root ::= "a"')))
    assert path == "/v1/chat/completions"
    assert body == {
        "messages": [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_format": "none",
        "seed": 0,
        "cache_prompt": True,
        "grammar": 'root ::= "a"',
    }


def test_two_ways_to_bind_the_output_exclude_each_other() -> None:
    with pytest.raises(EngineError, match="json_schema and grammar exclude each other") as caught:
        wire.request(Generation(prompt="p", sampling=Sampling(json_schema={}, grammar="root ::= x")))
    assert caught.value.failure is Failure.INVALID


# --- streams ----------------------------------------------------------------------------------------------------------


def token(text: str) -> bytes:
    return msgspec.json.encode({"index": 0, "content": text, "tokens": [1], "stop": False, "id_slot": -1})


def final(stop_type: str = "eos", **more: object) -> bytes:
    timings = {"cache_n": 4, "predicted_ms": 2.5}
    counts = {"tokens_predicted": 3, "tokens_evaluated": 5, "timings": timings}
    return msgspec.json.encode({"content": "", "stop": True, "stop_type": stop_type, **counts, **more})


def delta(text: str | None, finish: str | None = None, **more: object) -> bytes:
    return msgspec.json.encode({"choices": [{"finish_reason": finish, "delta": {"content": text}}], **more})


def error(message: str = "broken", code: int = 500) -> bytes:
    return msgspec.json.encode({"error": {"code": code, "message": message, "type": "server_error"}})


USAGE = msgspec.json.encode(
    {
        "choices": [],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
        "timings": {"cache_n": 4, "predicted_ms": 2.5},
    }
)
ENDED = Finished(reason=FinishReason.STOP, tokens_in=5, tokens_out=3, cached_tokens=4, decode_ms=2.5)


def chat_reader() -> Reader:
    return OpenAiReader(wire.stream_error)


STREAMS = [
    pytest.param(wire.CompletionReader, [token("a"), token(""), token("b"), final()], id="completion"),
    pytest.param(chat_reader, [delta(None), delta("a"), delta("b"), delta(None, "stop"), USAGE, b"[DONE]"], id="chat"),
]


@pytest.mark.parametrize(("make", "events"), STREAMS)
def test_a_whole_stream_in_one_read(make: Callable[[], Reader], events: list[bytes]) -> None:
    assert make().batch(events) == Batch(["a", "b"], ENDED)


@pytest.mark.parametrize(("make", "events"), STREAMS)
def test_a_stream_event_by_event(make: Callable[[], Reader], events: list[bytes]) -> None:
    reader = make()
    batches = [reader.batch([event]) for event in events]
    assert [text for batch in batches for text in batch.texts] == ["a", "b"]
    assert [batch.finished for batch in batches] == [None] * (len(events) - 1) + [ENDED]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("eos", FinishReason.STOP),
        ("word", FinishReason.STOP),
        ("limit", FinishReason.LENGTH),
        ("none", FinishReason.STOP),
    ],
)
def test_why_a_completion_ended(reason: str, expected: FinishReason) -> None:
    finished = wire.CompletionReader().batch([final(reason)]).finished
    assert finished is not None
    assert finished.reason is expected


def test_why_a_chat_ended() -> None:
    finished = chat_reader().batch([delta(None, "length"), b"[DONE]"]).finished
    assert finished == Finished(reason=FinishReason.LENGTH)  # no usage and no timings: nothing is made up


def test_a_completion_without_timings_makes_none_up() -> None:
    finished = wire.CompletionReader().batch([b'{"stop":true,"stop_type":"eos"}']).finished
    assert finished == Finished(reason=FinishReason.STOP)


@pytest.mark.parametrize("make", [wire.CompletionReader, chat_reader])
@pytest.mark.parametrize(
    ("event", "failure", "message"),
    [
        pytest.param(error(), Failure.BROKEN, "the engine answered: broken", id="an error"),
        pytest.param(error("Context size has been exceeded."), Failure.CONTEXT, "Context size", id="context full"),
        pytest.param(b'{"error":"the worker died"}', Failure.BROKEN, "the worker died", id="a string"),
        pytest.param(b'{"error":{}}', Failure.BROKEN, "status 500", id="an empty error"),
        pytest.param(b'{"content":"a', Failure.PROTOCOL, "cannot be read", id="half of an event"),
        pytest.param(b"[1]", Failure.PROTOCOL, "cannot be read", id="another type"),
        pytest.param(b'{"content":"\xff"}', Failure.PROTOCOL, "cannot be read", id="no UTF-8"),
        pytest.param(b'{"x":' + b"[" * 100_000, Failure.PROTOCOL, "cannot be read", id="endless nesting"),
        pytest.param(b"", Failure.PROTOCOL, "cannot be read", id="empty data"),
    ],
)
def test_a_failure_inside_a_stream(make: Callable[[], Reader], event: bytes, failure: Failure, message: str) -> None:
    reader = make()
    if event == b'{"content":"\xff"}' and make is chat_reader:
        event = b'{"choices":[{"delta":{"content":"\xff"}}]}'
    first = token("a") if make is wire.CompletionReader else delta("a")
    assert reader.batch([first, event, first]) == Batch(["a"])  # what came before it stands
    assert reader.failure is not None
    assert reader.failure.failure is failure
    assert message in reader.failure.message


@pytest.mark.parametrize("before", [[], [delta("a")], [USAGE]])
def test_done_alone_is_no_success(before: list[bytes]) -> None:
    reader = chat_reader()
    assert reader.batch([*before, b"[DONE]"]).finished is None
    assert reader.failure is not None
    assert reader.failure.failure is Failure.BROKEN


def test_an_error_stays_an_error_when_done_follows() -> None:
    reader = chat_reader()
    assert reader.batch([delta("a", "stop"), error(), b"[DONE]"]) == Batch(["a"])
    assert reader.failure is not None


@pytest.mark.parametrize("make", [wire.CompletionReader, chat_reader])
def test_a_clean_end_without_a_final_event_is_no_end(make: Callable[[], Reader]) -> None:
    assert make().at_end() is None


EVENTS = st.sampled_from([token("a"), token("ü"), token(""), final(), error(), b"garbage", b'{"new_field":[1,2]}'])


def played(reads: list[list[bytes]]) -> tuple[list[str], Finished | None, str | None]:
    """What a consumer sees that stops at the end or at a failure."""
    reader = wire.CompletionReader()
    texts: list[str] = []
    for events in reads:
        batch = reader.batch(events)
        texts += batch.texts
        if batch.finished is not None:
            return texts, batch.finished, None
        if reader.failure is not None:
            return texts, None, reader.failure.message
    return texts, None, None


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=12), st.integers(1, 5))
def test_how_events_are_spread_over_reads_changes_nothing(events: list[bytes], size: int) -> None:
    reads = [events[at : at + size] for at in range(0, len(events), size)]
    assert played(reads) == played([events])


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "failure", "message"),
    [
        pytest.param(
            400,
            '{"error":{"code":400,"message":"request (2701 tokens) exceeds","type":"exceed_context_size_error",'
            '"n_prompt_tokens":2701,"n_ctx":512}}',
            Failure.CONTEXT,
            "the engine answered: the prompt has 2701 tokens and the context holds 512",
            id="context",
        ),
        pytest.param(
            503,
            '{"error":{"message":"Loading model","type":"unavailable_error","code":503}}',
            Failure.LOADING,
            "the engine answered: Loading model",
            id="loading",
        ),
        pytest.param(
            401,
            '{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}',
            Failure.UNAUTHORIZED,
            "the engine answered: Invalid API Key",
            id="key",
        ),
        pytest.param(
            401, '{"error":"Unauthorized"}', Failure.UNAUTHORIZED, "the engine answered: Unauthorized", id="string"
        ),
        pytest.param(404, '{"detail":"Not Found"}', Failure.PROTOCOL, "the engine answered: Not Found", id="detail"),
        pytest.param(
            400,
            '{"error":{"code":400,"message":"failed to parse grammar","type":"invalid_request_error"}}',
            Failure.INVALID,
            "the engine answered: failed to parse grammar",
            id="invalid",
        ),
        pytest.param(
            500,
            '{"error":{"code":500,"message":"[json.exception.parse_error.101] parse error at line 1"}}',
            Failure.INVALID,
            "the engine answered: [json.exception.parse_error.101] parse error at line 1",
            id="invalid in an older build",
        ),
        pytest.param(
            500,
            '{"error":{"message":"boom","type":"server_error"}}',
            Failure.BROKEN,
            "the engine answered: boom",
            id="500",
        ),
        pytest.param(429, "{}", Failure.OVERLOADED, "the engine answered: status 429", id="overloaded"),
        pytest.param(
            503, "no\n  replica\tfree", Failure.LOADING, "the engine answered: no replica free", id="plain text"
        ),
        pytest.param(502, "", Failure.BROKEN, "the engine answered: status 502", id="nothing"),
        pytest.param(502, "\udcff", Failure.BROKEN, "the engine answered: \ufffd", id="no text"),
        pytest.param(400, '{"error":[1]}', Failure.INVALID, 'the engine answered: {"error":[1]}', id="another shape"),
    ],
)
def test_a_refusal_in_our_words(status: int, body: str, failure: Failure, message: str) -> None:
    refused = wire.refusal(status, body.encode("utf-8", "surrogateescape"))
    assert (refused.failure, refused.message, refused.status) == (failure, message, status)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(400, 599))
def test_no_refusal_is_too_strange(body: bytes, status: int) -> None:
    refused = wire.refusal(status, body)
    assert refused.message
    assert "\n" not in refused.message


def test_an_error_code_of_another_kind_is_no_status() -> None:
    assert wire.stream_error(ErrorDetail(message="m", code="context_length_exceeded")).status == 500

"""What TGI is asked for, what its events say, and what it refuses."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import tgi_wire as wire
from adapters.base import EngineError, Failure, Finished, Generation
from adapters.openai_wire import ErrorDetail, OpenAiReader
from contracts.events import FinishReason
from contracts.tasks import ChatMessage, Role, Sampling, Workload
from tests.unit.adapters.playing import cuts, events_of, played

HELLO = (ChatMessage(role=Role.USER, content="hi"),)
SCHEMA = {"type": "object"}


def parameters(sampling: Sampling, max_tokens: int | None = None) -> dict[str, Any]:
    path, body = wire.request(Generation(prompt="once", seed=7, sampling=sampling), max_tokens)
    asked = json.loads(body.whole)
    assert (path, asked["inputs"]) == ("/generate_stream", "once")
    found: dict[str, Any] = asked["parameters"]
    assert found.pop("details") is True  # without it there are no counts
    assert found.pop("seed") == 7
    return found


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), {}),
        (Sampling(temperature=0.5), {"temperature": 0.5, "do_sample": True}),
        (Sampling(temperature=0.0, top_k=5, top_p=0.5), {"do_sample": False}),
        (Sampling(top_k=0, top_p=1.0), {}),
        (Sampling(top_k=5, top_p=0.5, repeat_penalty=1.1), {"top_k": 5, "top_p": 0.5, "repetition_penalty": 1.1}),
        (Sampling(stop=("a", "b")), {"stop": ["a", "b"]}),
        (Sampling(json_schema=SCHEMA), {"grammar": {"type": "json", "value": SCHEMA}}),
    ],
)
def test_sampling_as_tgi_says_it(sampling: Sampling, expected: dict[str, Any]) -> None:
    assert parameters(sampling) == expected


def test_how_many_tokens_may_come() -> None:
    assert parameters(Sampling(), 9) == {"max_new_tokens": 9}


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        (Generation(prompt="p", sampling=Sampling(grammar="g")), "JSON schemas and regular expressions only"),
        (Generation(prompt="p", sampling=Sampling(min_p=0.1)), "no such sampler"),
        (Generation(prompt="p", sampling=Sampling(top_p=0.0)), "above 0 only"),
        (Generation(prompt="p", sampling=Sampling(stop=("a",) * 5)), "at most 4 values"),
        (Generation(messages=HELLO, sampling=Sampling(top_k=5)), "no such field"),
    ],
)
def test_what_cannot_be_honoured_is_not_sent(generation: Generation, message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        wire.request(generation, 9)
    assert caught.value.failure is Failure.INVALID


def test_a_chat() -> None:
    sampling = Sampling(temperature=0.5, top_p=1.0, stop=("a",), json_schema=SCHEMA)
    path, body = wire.request(Generation(messages=HELLO, seed=7, sampling=sampling), 9)
    assert path == "/v1/chat/completions"
    assert json.loads(body.whole) == {
        "model": "tgi",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 7,
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["a"],
        "response_format": {"type": "json", "value": SCHEMA},
    }


# --- streams ----------------------------------------------------------------------------------------------------------


def token(text: str, *, special: bool = False, **more: object) -> bytes:
    made = {"id": 1, "text": text, "logprob": -0.5, "special": special}
    return msgspec.json.encode({"index": 1, "token": made, "generated_text": None, "details": None} | more)


DETAILS = {"finish_reason": "eos_token", "generated_tokens": 3, "seed": 7, "input_length": 5}
LAST = token("</s>", special=True, generated_text="aü", details=DETAILS)
ENDED = Finished(reason=FinishReason.STOP, tokens_in=5, tokens_out=3)
WHOLE = events_of(token("a"), start=b"data:") + b": ping\n\n" + events_of(token("ü"), LAST, start=b"data:")


@given(cuts(WHOLE))
def test_a_stream_is_the_same_however_it_is_cut(reads: list[bytes]) -> None:
    assert played(wire.StreamReader(), reads) == ("aü", ENDED, None)  # the special token is none of the text


@given(st.integers(0, len(WHOLE) - 2))
def test_a_stream_that_ends_early_is_broken(length: int) -> None:
    assert played(wire.StreamReader(), [WHOLE[:length]])[1:] == (None, Failure.BROKEN)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("length", FinishReason.LENGTH), ("eos_token", FinishReason.STOP), ("stop_sequence", FinishReason.STOP)],
)
def test_why_it_ended(reason: str, expected: FinishReason) -> None:
    last = token("b", generated_text="b", details=DETAILS | {"finish_reason": reason})
    text, finished, _ = played(wire.StreamReader(), [events_of(last)])
    assert text == "b"
    assert finished is not None
    assert finished.reason is expected


def test_an_end_without_details_makes_no_counts_up() -> None:
    found = played(wire.StreamReader(), [events_of(token("b", generated_text="b"))])
    assert found == ("b", Finished(reason=FinishReason.STOP), None)


@pytest.mark.parametrize(
    ("error", "kind", "failure"),
    [
        ("Model is overloaded", "overloaded", Failure.OVERLOADED),
        ("Request failed during generation: CUDA error", "generation", Failure.BROKEN),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 64. Given: 60 and 9",
            "validation",
            Failure.CONTEXT,
        ),
        ("Input validation error: `temperature` must be strictly positive", "validation", Failure.INVALID),
        ("something new", "never heard of", Failure.BROKEN),
    ],
)
def test_an_error_inside_a_stream_that_began_with_200(error: str, kind: str, failure: Failure) -> None:
    event = msgspec.json.encode({"error": error, "error_type": kind})
    reader = wire.StreamReader()
    assert played(reader, [events_of(token("a"), event, LAST)]) == ("a", None, failure)
    assert reader.failure is not None
    assert reader.failure.message == f"the engine answered: {error}"


@pytest.mark.parametrize("event", [b"[DONE]", b"[1]", b'{"token":1}', b'{"token":{"text":"\xff"}}', b""])
def test_what_cannot_be_read(event: bytes) -> None:
    assert played(wire.StreamReader(), [events_of(token("a"), event)]) == ("a", None, Failure.PROTOCOL)


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b""])
def test_a_chat_ends_with_or_without_done(end: bytes) -> None:
    events = events_of(
        b'{"choices":[{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":null}],"usage":null}',
        b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"stop"}],"usage":null}',
        b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}',
    )
    reader = OpenAiReader(wire.REFUSALS.stream_error, needs_done=False)
    assert played(reader, [events + end]) == ("a", ENDED, None)


def test_an_error_in_a_chat_has_its_own_shape() -> None:
    event = b'{"error":{"message":"Model is overloaded","http_status_code":429}}'
    reader = OpenAiReader(wire.REFUSALS.stream_error, needs_done=False)
    assert played(reader, [events_of(event)]) == ("", None, Failure.OVERLOADED)


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (429, b'{"error":"Model is overloaded","error_type":"overloaded"}', Failure.OVERLOADED),
        (424, b'{"error":"Request failed during generation","error_type":"generation"}', Failure.BROKEN),
        (422, b'{"error":"Input validation error: no","error_type":"validation"}', Failure.INVALID),
        (422, b"Failed to deserialize the JSON body into the target type: missing field", Failure.INVALID),
        (401, b"", Failure.UNAUTHORIZED),
        (503, b'{"error":"unhealthy","error_type":"healthcheck"}', Failure.LOADING),
    ],
)
def test_what_it_refuses(status: int, body: bytes, failure: Failure) -> None:
    assert wire.REFUSALS.refusal(status, body).failure is failure
    assert wire.REFUSALS.stream_error(ErrorDetail()).failure is Failure.BROKEN


@pytest.mark.parametrize(
    ("info", "templates", "workloads"),
    [
        (None, True, ()),
        (wire.Info(), True, ()),
        (wire.Info(max_total_tokens=64), False, (Workload.COMPLETION,)),
        (wire.Info(router="text-generation-router"), True, (Workload.COMPLETION, Workload.CHAT)),
    ],
)
def test_what_it_serves(info: wire.Info | None, templates: bool, workloads: tuple[Workload, ...]) -> None:
    assert wire.served(info, templates=templates) == workloads

"""What Triton is asked for, by what its model declares; what its events say, and what it refuses."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import triton_wire as wire
from adapters.base import EngineError, Failure, Finished, Generation
from contracts.events import FinishReason
from contracts.tasks import Sampling, Workload
from tests.unit.adapters.playing import cuts, events_of, played


def model(*inputs: str, backend: str | None = None, outputs: tuple[str, ...] = ("text_output",)) -> wire.Model:
    return wire.Model("m", frozenset({"text_input", *inputs}), frozenset(outputs), backend)


VLLM = model("stream", "sampling_parameters", *wire.ASKED_FOR, backend="vllm")
DECLARING = model("stream", "max_tokens", "random_seed", "temperature", "stop_words", backend="tensorrtllm")
PLAIN = Generation(prompt="once", max_tokens=9, seed=7)


def asked(generation: Generation, of: wire.Model) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(wire.body(generation, of).whole)
    assert found.pop("text_input") == "once"
    return found


def test_a_vllm_backend_takes_vllms_parameters_and_is_asked_how_it_ended() -> None:
    sampling = Sampling(temperature=0.5, top_k=0, repeat_penalty=1.1)
    assert asked(msgspec.structs.replace(PLAIN, sampling=sampling), VLLM) == {
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
        "parameters": {
            "stream": True,
            "max_tokens": 9,
            "seed": 7,
            "temperature": 0.5,
            "top_k": -1,
            "repetition_penalty": 1.1,
        },
    }


def test_stop_words_are_no_parameter_and_go_in_as_text_with_all_the_rest() -> None:
    found = asked(msgspec.structs.replace(PLAIN, sampling=Sampling(stop=("a", "b"))), VLLM)
    assert "parameters" not in found  # they would not be looked at
    assert found["stream"] is True
    assert json.loads(found["sampling_parameters"]) == {"stop": ["a", "b"], "max_tokens": 9, "seed": 7}


def test_any_other_model_is_sent_what_it_declares_under_its_own_names() -> None:
    sampling = Sampling(temperature=0.5, stop=("a",))
    assert asked(msgspec.structs.replace(PLAIN, sampling=sampling), DECLARING) == {
        "stream": True,
        "max_tokens": 9,
        "random_seed": 7,
        "temperature": 0.5,
        "stop_words": ["a"],
    }


def test_a_drawn_seed_that_the_model_does_not_take_is_not_sent() -> None:
    assert asked(PLAIN, model("max_tokens")) == {"max_tokens": 9}


@pytest.mark.parametrize(
    ("generation", "of", "message"),
    [
        (Generation(prompt="once"), VLLM, "max_tokens: Triton tells no context"),
        (PLAIN, model(), "does not declare max_tokens"),
        (msgspec.structs.replace(PLAIN, sampling=Sampling(top_p=0.5)), DECLARING, "does not declare top_p"),
        (msgspec.structs.replace(PLAIN, sampling=Sampling(stop=("a",))), model(backend="vllm"), "not declare stop"),
        (msgspec.structs.replace(PLAIN, sampling=Sampling(json_schema={})), VLLM, "depends on a version"),
    ],
)
def test_what_nobody_could_tell_whether_it_is_heeded_is_refused(
    generation: Generation, of: wire.Model, message: str
) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        wire.body(generation, of)
    assert caught.value.failure is Failure.INVALID


# --- discovery --------------------------------------------------------------------------------------------------------


def test_what_a_model_takes_is_what_it_shows() -> None:
    every = {"max_tokens", "seed", "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "stop"}
    assert set(wire.features(VLLM)) == every | {"cancel_on_close"}
    assert set(wire.features(model(backend="vllm"))) == every - {"stop"} | {"cancel_on_close"}
    assert set(wire.features(DECLARING)) == {"max_tokens", "seed", "temperature", "stop", "cancel_on_close"}


@pytest.mark.parametrize(
    ("of", "workloads"),
    [
        (VLLM, (Workload.COMPLETION,)),
        (model(outputs=("logits",)), ()),
        (wire.model_of("m", None, None), ()),
    ],
)
def test_text_goes_in_and_text_comes_out_or_it_is_none_of_ours(of: wire.Model, workloads: tuple[Workload, ...]) -> None:
    assert wire.served(of) == workloads


def test_which_model_is_asked_for() -> None:
    one, two = wire.Listed("one", "READY"), wire.Listed("two", "READY")
    assert wire.choose([one, wire.Listed("old", "UNAVAILABLE")], None) == "one"
    assert wire.choose([one, two], "two") == "two"
    assert wire.choose([wire.Listed("one"), one], "x") == "one"  # two versions of one
    with pytest.raises(EngineError, match="set the pool's model to one of one, two"):
        wire.choose([two, one], "x")
    with pytest.raises(EngineError) as caught:
        wire.choose([wire.Listed("one", "LOADING")], "one")
    assert caught.value.failure is Failure.LOADING


# --- streams ----------------------------------------------------------------------------------------------------------


def event(text: str, **more: object) -> bytes:
    return msgspec.json.encode({"model_name": "m", "model_version": "1", "text_output": text} | more)


WHOLE = events_of(event("a"), event(""), event("ü"))
TOLD = events_of(
    event("a", finish_reason="None", num_input_tokens=5, num_output_tokens=1),
    event("b", finish_reason="length", num_input_tokens=5, num_output_tokens=2),
)


@given(cuts(WHOLE))
def test_a_clean_end_is_the_only_good_one_however_it_is_cut(reads: list[bytes]) -> None:
    assert played(wire.StreamReader(), reads) == ("aü", Finished(reason=FinishReason.STOP), None)


@given(cuts(TOLD))
def test_a_vllm_backend_tells_why_and_after_how_many(reads: list[bytes]) -> None:
    ended = Finished(reason=FinishReason.LENGTH, tokens_in=5, tokens_out=3)  # its counts are what is new
    assert played(wire.StreamReader(tells_reasons=True), reads) == ("ab", ended, None)


def test_no_token_at_all_is_a_good_end() -> None:
    assert played(wire.StreamReader(), []) == ("", Finished(reason=FinishReason.STOP), None)


@pytest.mark.parametrize("reason", ["None", "abort"])
def test_a_model_that_tells_its_reasons_and_gave_none_was_cut_off(reason: str) -> None:
    stream = events_of(event("a", finish_reason=reason))
    assert played(wire.StreamReader(), [stream]) == ("a", None, Failure.BROKEN)
    assert played(wire.StreamReader(tells_reasons=True), [WHOLE])[1:] == (None, Failure.BROKEN)


@given(st.integers(0, 3), st.integers(0, 3))
def test_an_error_in_any_event_is_the_end(before: int, after: int) -> None:
    texts = [event("a")] * before + [b'{"error":"the stub died"}'] + [event("b")] * after
    assert played(wire.StreamReader(), [events_of(*texts)]) == ("a" * before, None, Failure.BROKEN)


def test_an_error_beside_a_text_is_an_error() -> None:
    assert played(wire.StreamReader(), [events_of(event("a", error="no"))]) == ("", None, Failure.BROKEN)


@pytest.mark.parametrize("text", [["a", "b"], ["ab"]])
def test_an_output_of_several_elements_is_all_of_them(text: list[str]) -> None:
    stream = events_of(msgspec.json.encode({"text_output": text, "finish_reason": ["stop", "stop"]}))
    assert played(wire.StreamReader(), [stream])[0] == "ab"


@pytest.mark.parametrize("data", [b"[DONE]", b"[]", b'{"text_output":1}', b'{"text_output":"\xff"}'])
def test_what_cannot_be_read(data: bytes) -> None:
    assert played(wire.StreamReader(), [events_of(event("a"), data)]) == ("a", None, Failure.PROTOCOL)


@pytest.mark.parametrize(
    ("status", "body", "failure", "message"),
    [
        (400, b'data: {"error":"unexpected inference input"}\n\n', Failure.INVALID, "unexpected inference input"),
        (400, b'data:{"error":"Request timeout expired"}\n\n', Failure.OVERLOADED, "Request timeout expired"),
        (404, b'{"error":"Request for unknown model: \'m\' is not found"}', Failure.PROTOCOL, "unknown model"),
        (500, b'{"error":"failed to parse the request JSON buffer: Invalid value"}', Failure.INVALID, "parse the"),
        (503, b'{"error":"Exceeds maximum queue size"}', Failure.OVERLOADED, "queue size"),
        (400, b'{"error":"Stub process \'toy_0_0\' is not healthy."}', Failure.BROKEN, "not healthy"),
        (500, b'{"error":"The prompt is longer than the maximum model length of 64"}', Failure.CONTEXT, "of 64"),
        (500, b"", Failure.BROKEN, "status 500"),
    ],
)
def test_what_it_refuses(status: int, body: bytes, failure: Failure, message: str) -> None:
    refused = wire.refusal(status, body)
    assert (refused.failure, refused.status) == (failure, status)
    assert message in refused.message


@given(st.binary(max_size=100), st.integers(400, 599))
def test_no_refusal_is_too_strange(body: bytes, status: int) -> None:
    assert "\n" not in wire.refusal(status, body).message

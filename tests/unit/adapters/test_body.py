"""What an engine is sent, and what of it is kept."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import llamacpp_wire, openai_request, results_wire, tgi_wire, triton_wire
from adapters.base import Generation
from adapters.body import Body, body_of
from contracts.artifacts import canonical
from contracts.config import Engine
from contracts.tasks import ChatMessage, Role, Sampling, Workload

pytestmark = pytest.mark.req("HP-21", "HP-12")

HELLO = (ChatMessage(role=Role.USER, content="hi"),)
TEXTS = ("inputs", "prompt", "messages", "text_input", "id", "input", "query", "documents", "cache_salt")
VLLM_MODEL = triton_wire.model_of("m", None, triton_wire.Config(backend="vllm"))
STOPPING = triton_wire.Model("m", frozenset({"text_input", "sampling_parameters"}), frozenset({"text_output"}), "vllm")
PLAIN = triton_wire.Model("m", frozenset({"text_input", "max_tokens", "seed"}), frozenset({"text_output"}), "python")


def openai(generation: Generation) -> Body:
    more = {"seed": generation.seed, "cache_salt": "a salt"}
    return openai_request.request(Engine.VLLM, generation, model="m", max_tokens=4, more=more)[1]


ASKED: dict[str, Callable[[Generation], Body]] = {
    "llamacpp": lambda generation: llamacpp_wire.request(generation)[1],
    "openai": openai,
    "tgi": lambda generation: tgi_wire.request(generation, 4)[1],
}
COMPLETION = Generation(prompt="once", max_tokens=4, seed=7, correlation_id="corr-1")
CHAT = Generation(messages=HELLO, max_tokens=4, seed=7)
MADE: list[tuple[Callable[[Generation], Body], Generation]] = [
    *((make, generation) for make in ASKED.values() for generation in (COMPLETION, CHAT)),
    (lambda each: triton_wire.body(each, VLLM_MODEL), COMPLETION),
    (
        lambda each: triton_wire.body(each, STOPPING),
        msgspec.structs.replace(COMPLETION, sampling=Sampling(stop=("a",))),
    ),
    (lambda each: triton_wire.body(each, PLAIN), COMPLETION),
    (
        lambda each: next(results_wire.bodies(each, "m")),
        Generation(workload=Workload.EMBEDDING, inputs=("a", "b")),
    ),
    (
        lambda each: next(results_wire.bodies(each)),
        Generation(workload=Workload.RERANK, prompt="q", inputs=("a", "b")),
    ),
]


@pytest.mark.parametrize(("make", "generation"), MADE)
def test_what_is_kept_is_what_is_sent_without_its_texts(
    make: Callable[[Generation], Body], generation: Generation
) -> None:
    body = make(generation)
    sent: dict[str, Any] = json.loads(body.whole)
    kept = {name: value for name, value in sent.items() if name not in TEXTS}
    assert len(kept) < len(sent)
    assert body.settings == canonical(kept)
    for text in ("once", "hi", "corr-1", "salt"):
        assert text.encode() not in body.settings


@pytest.mark.parametrize("engine", ASKED)
def test_two_that_ask_the_same_of_other_texts_keep_the_same(engine: str) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, stop=("b", "a"))
    one, other = (Generation(prompt=text, max_tokens=4, seed=7, sampling=sampling) for text in ("one", "other"))
    assert ASKED[engine](one).settings == ASKED[engine](other).settings
    assert ASKED[engine](one).whole != ASKED[engine](other).whole


@pytest.mark.parametrize("engine", ASKED)
@pytest.mark.parametrize("asked", [COMPLETION, CHAT])
def test_the_members_of_a_schema_are_sent_in_the_order_that_the_client_gave_them(
    engine: str, asked: Generation
) -> None:
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "string"}}}
    body = ASKED[engine](msgspec.structs.replace(asked, sampling=Sampling(json_schema=schema)))
    assert json.dumps(schema, separators=(",", ":")).encode() in body.whole
    assert json.loads(body.settings).items() <= json.loads(body.whole).items()


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.text()), min_size=1), st.text())
def test_a_body_is_one_object_whatever_stands_in_it(settings: dict[str, Any], text: str) -> None:
    settings.pop("the text", None)
    body = body_of(settings | {"stream": True}, {"the text": text})
    assert msgspec.json.decode(body.whole) == settings | {"stream": True, "the text": text}

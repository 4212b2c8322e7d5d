"""What OpenAI-compatible servers are asked for, field by field."""

import json
from typing import Any

import pytest

from adapters import vllm_wire
from adapters.base import EngineError, Failure, Generation
from adapters.openai_discovery import CHAT, COMPLETIONS, EMBEDDINGS, Routes
from adapters.openai_request import request, tokenize_body
from contracts.config import Engine
from contracts.tasks import ChatMessage, Role, Sampling

HELLO = (ChatMessage(role=Role.USER, content="hi"),)
PROMPT = Generation(prompt="once", seed=7)
BOUND = Sampling(
    temperature=0.0,
    top_p=0.5,
    top_k=0,
    min_p=0.1,
    repeat_penalty=1.1,
    stop=("a",),
    json_schema={"type": "object"},
)
NEW = Routes({path: frozenset({"structured_outputs", "cache_salt"}) for path in (COMPLETIONS, CHAT)})
OLD = Routes({path: frozenset({"guided_grammar"}) for path in (COMPLETIONS, CHAT)})


def asked(generation: Generation, engine: Engine = Engine.VLLM, **more: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401 - any field of a body
    path, body = request(engine, generation, model="m", max_tokens=generation.max_tokens, more=more)
    return path, json.loads(body.whole)


def test_a_plain_completion() -> None:
    assert asked(PROMPT, seed=7) == (
        COMPLETIONS,
        {"model": "m", "prompt": "once", "seed": 7, "stream": True, "stream_options": {"include_usage": True}},
    )


def test_a_chat_with_everything_that_vllm_takes() -> None:
    path, body = asked(Generation(messages=HELLO, max_tokens=9, sampling=BOUND))
    assert path == CHAT
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": -1,  # which older releases want for "all of them"
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "stop": ["a"],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


@pytest.mark.parametrize("generation", [PROMPT, Generation(messages=HELLO, sampling=BOUND)])
def test_a_priority_is_never_sent(generation: Generation) -> None:
    assert "priority" not in asked(generation)[1]


def test_what_the_protocol_does_not_have_is_not_sent_to_a_stranger() -> None:
    with pytest.raises(EngineError, match=r"sampling\.grammar: .* the protocol has no grammars") as caught:
        asked(Generation(prompt="p", sampling=Sampling(grammar="root ::= x")), Engine.OPENAI)
    assert caught.value.failure is Failure.INVALID


def test_how_tokens_are_counted() -> None:
    assert json.loads(tokenize_body(PROMPT, "once", "m")) == {"model": "m", "prompt": "once"}
    chat = json.loads(tokenize_body(Generation(messages=HELLO), None, "m"))
    assert chat == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("what", [{"prompt": "p"}, {"messages": HELLO}])
@pytest.mark.parametrize(
    ("routes", "field"), [(NEW, {"structured_outputs": {"grammar": "g"}}), (OLD, {"guided_grammar": "g"})]
)
def test_vllm_has_had_two_names_for_a_grammar(what: dict[str, Any], routes: Routes, field: dict[str, Any]) -> None:
    generation = Generation(**what, seed=3, sampling=Sampling(grammar="g"))
    assert vllm_wire.more(generation, routes, "salt") == {"seed": 3} | field


@pytest.mark.parametrize("routes", [None, Routes({})])
def test_a_grammar_that_vllm_would_pass_over_is_refused(routes: Routes | None) -> None:
    with pytest.raises(EngineError, match="does not show how it takes a grammar"):
        vllm_wire.more(Generation(prompt="p", sampling=Sampling(grammar="g")), routes, "salt")


def test_a_cold_prompt_has_a_salt_of_its_own() -> None:
    cold = Generation(prompt="p", cache_prompt=False)
    assert vllm_wire.more(cold, NEW, "salt") == {"seed": 0, "cache_salt": "salt"}
    assert vllm_wire.more(cold, OLD, "salt") == {"seed": 0}
    assert vllm_wire.more(PROMPT, NEW, "salt") == {"seed": 7}


def test_a_release_that_lists_every_route_is_not_believed() -> None:
    assert vllm_wire.lists_what_it_serves(Routes({COMPLETIONS: frozenset()}))
    assert vllm_wire.lists_what_it_serves(Routes({EMBEDDINGS: frozenset()}))
    assert not vllm_wire.lists_what_it_serves(Routes({COMPLETIONS: frozenset(), EMBEDDINGS: frozenset()}))
    assert not vllm_wire.lists_what_it_serves(None)

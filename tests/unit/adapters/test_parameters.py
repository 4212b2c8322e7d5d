"""What each engine can be asked for: the table is whole, the code keeps to it, and nothing is dropped in silence."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import llamacpp_wire, openai_request, tgi_wire, triton_wire, vllm_wire
from adapters.base import EngineError, Failure, Generation
from adapters.openai_discovery import CHAT, COMPLETIONS, Routes
from adapters.parameters import (
    GENERATING,
    TABLES,
    Honoured,
    Parameter,
    Unable,
    asked_by,
    asked_of,
    fields,
    obstacle,
    unheeded,
)
from contracts.config import Engine
from contracts.tasks import ChatMessage, Determinism, KvHint, Role, Sampling, TaskRequest, Workload

pytestmark = pytest.mark.req("AD-06")

HELLO = (ChatMessage(role=Role.USER, content="hi"),)
ALL_FEATURES = tuple(
    {
        verdict.needs
        for tables in TABLES.values()
        for table in tables.values()
        for verdict in table.values()
        if isinstance(verdict, Honoured) and verdict.needs is not None
    }
)
GIVEN: dict[Parameter, dict[str, Any]] = {
    Parameter.TEMPERATURE: {"temperature": 0.5},
    Parameter.TOP_P: {"top_p": 0.5},
    Parameter.TOP_K: {"top_k": 7},
    Parameter.MIN_P: {"min_p": 0.1},
    Parameter.REPEAT_PENALTY: {"repeat_penalty": 1.1},
    Parameter.STOP: {"stop": ("a",)},
    Parameter.JSON_SCHEMA: {"json_schema": {"type": "object"}},
    Parameter.GRAMMAR: {"grammar": "root ::= [a-z]"},
}
ROUTES = Routes({path: frozenset({"structured_outputs", "cache_salt"}) for path in (COMPLETIONS, CHAT)})
TRITON = triton_wire.Model("m", frozenset({"text_input", "sampling_parameters"}), frozenset({"text_output"}), "vllm")


def request(**changes: Any) -> TaskRequest:  # noqa: ANN401 - any field of the request
    fields: dict[str, Any] = {"model_ref": "m", "prompt": "p", "max_tokens": 4}
    return TaskRequest(**(fields | changes))


def sent(engine: Engine, generation: Generation) -> dict[str, Any]:
    """The body that the adapter of this engine sends."""
    document: dict[str, Any] = json.loads(body_of(engine, generation))
    inner: dict[str, Any] = document.get("parameters") or json.loads(document.get("sampling_parameters", "{}"))
    return document | inner


def body_of(engine: Engine, generation: Generation) -> bytes:
    match engine:
        case Engine.LLAMACPP:
            return llamacpp_wire.request(generation)[1].whole
        case Engine.TGI:
            return tgi_wire.request(generation, generation.max_tokens)[1].whole
        case Engine.TRITON:
            return triton_wire.body(generation, TRITON).whole
        case Engine.VLLM | Engine.OPENAI:
            more = vllm_wire.more(generation, ROUTES, "salt") if engine is Engine.VLLM else {}
            return openai_request.request(engine, generation, model="m", max_tokens=4, more=more)[1].whole


def generation_with(workload: Workload, sampling: dict[str, Any]) -> Generation:
    what: dict[str, Any] = {"messages": HELLO} if workload is Workload.CHAT else {"prompt": "p"}
    return Generation(**what, max_tokens=4, sampling=Sampling(**sampling))


CELLS = [
    pytest.param(engine, workload, parameter, id=f"{engine} {workload} {parameter}")
    for engine, tables in TABLES.items()
    for workload in tables
    if workload in GENERATING
    for parameter in Parameter
]


@pytest.mark.parametrize(("engine", "workload", "parameter"), CELLS)
def test_every_cell_is_filled_and_is_what_the_adapter_does(
    engine: Engine, workload: Workload, parameter: Parameter
) -> None:
    verdict = TABLES[engine][workload][parameter]
    if parameter not in GIVEN:
        return
    generation = generation_with(workload, GIVEN[parameter])
    if isinstance(verdict, Unable):
        with pytest.raises(EngineError) as caught:
            sent(engine, generation)
        assert caught.value.failure is Failure.INVALID
        assert parameter.field in caught.value.message
    else:
        outer, _, inner = verdict.name.partition(".")
        body = sent(engine, generation)
        assert outer in body
        assert not inner or inner in body[outer]
        (value,) = GIVEN[parameter].values()
        assert str(value).strip("()',") in json.dumps(body[outer]) or isinstance(value, dict)


def test_every_sampling_field_has_a_parameter() -> None:
    names = {parameter.field.removeprefix("sampling.") for parameter in GIVEN}
    assert names == set(Sampling.__struct_fields__)
    every = {name: value for given_ in GIVEN.values() for name, value in given_.items()}
    assert set(asked_of(Sampling(**every))) == set(GIVEN)
    assert asked_of(Sampling()) == {}


def test_what_a_request_asks_for() -> None:
    assert asked_by(request()) == {Parameter.MAX_TOKENS: 4}
    assert asked_by(request(max_tokens=None, seed=0, kv_hint=KvHint.COLD, determinism=Determinism.STRICT)) == {
        Parameter.REST_OF_CONTEXT: True,
        Parameter.SEED: 0,
        Parameter.COLD: KvHint.COLD,
        Parameter.STRICT: Determinism.STRICT,
    }
    embedding = request(workload=Workload.EMBEDDING, prompt=None, inputs=("a",), max_tokens=None, seed=1)
    assert asked_by(embedding) == {}


@pytest.mark.parametrize("engine", list(Engine))
def test_every_engine_has_a_table_for_each_workload_that_can_be_asked_of_it(engine: Engine) -> None:
    for workload, table in TABLES[engine].items():
        assert set(table) == (set(Parameter) if workload in GENERATING else {Parameter.COLD, Parameter.STRICT})


def test_an_obstacle_names_the_field_the_engine_and_the_mend() -> None:
    found = obstacle(Engine.TGI, Workload.COMPLETION, {Parameter.GRAMMAR: "g"}, ALL_FEATURES)
    assert found is not None
    assert found.field == "sampling.grammar"
    assert found.message == (
        "engine tgi cannot honour sampling.grammar of a completion: it takes JSON schemas and regular expressions only"
    )
    assert found.hint == "use json_schema"


@pytest.mark.parametrize(("features", "refused"), [(None, False), ((), True), (("grammar",), False)])
def test_what_depends_on_the_running_engine_is_refused_once_it_was_asked(
    features: tuple[str, ...] | None, refused: bool
) -> None:
    found = obstacle(Engine.VLLM, Workload.COMPLETION, {Parameter.GRAMMAR: "g"}, features)
    assert (found is not None) is refused


@pytest.mark.parametrize(
    ("engine", "parameter", "value", "refused"),
    [
        (Engine.VLLM, Parameter.TOP_P, 0.0, True),
        (Engine.VLLM, Parameter.TOP_P, 0.01, False),
        (Engine.LLAMACPP, Parameter.TOP_P, 0.0, False),
        (Engine.TGI, Parameter.STOP, ("a",) * 5, True),
        (Engine.TGI, Parameter.STOP, ("a",) * 4, False),
        (Engine.TGI, Parameter.SEED, 0, True),
    ],
)
def test_values_that_an_engine_does_not_take(
    engine: Engine, parameter: Parameter, value: object, refused: bool
) -> None:
    found = obstacle(engine, Workload.COMPLETION, {parameter: value}, ALL_FEATURES)
    assert (found is not None) is refused
    assert found is None or found.field == parameter.field


@pytest.mark.parametrize(
    ("engine", "features", "left"),
    [
        (Engine.LLAMACPP, (), ()),
        (Engine.VLLM, ("cache_prompt",), ()),
        (Engine.VLLM, (), ("kv_hint",)),
        (Engine.TRITON, ALL_FEATURES, ("kv_hint",)),
    ],
)
def test_a_hint_is_never_refused_and_always_said(
    engine: Engine, features: tuple[str, ...], left: tuple[str, ...]
) -> None:
    asked = {Parameter.COLD: KvHint.COLD}
    assert obstacle(engine, Workload.COMPLETION, asked, features) is None
    assert unheeded(engine, Workload.COMPLETION, asked, features) == left


def test_only_llamacpp_repeats_itself_to_the_byte() -> None:
    able = {
        engine
        for engine, tables in TABLES.items()
        for table in tables.values()
        if isinstance(table[Parameter.STRICT], Honoured)
    }
    assert able == {Engine.LLAMACPP}


SAMPLINGS = st.fixed_dictionaries(
    {},
    optional={name: st.just(value) for given_ in GIVEN.values() for name, value in given_.items()},
).filter(lambda given_: not {"json_schema", "grammar"} <= set(given_))


@given(st.sampled_from(Engine), st.sampled_from(GENERATING), SAMPLINGS)
def test_what_is_asked_for_is_sent_or_refused(engine: Engine, workload: Workload, sampling: dict[str, Any]) -> None:
    if workload not in TABLES[engine]:
        return
    asked = asked_of(Sampling(**sampling))
    refused = obstacle(engine, workload, asked, ALL_FEATURES)
    if refused is None:
        body = sent(engine, generation_with(workload, sampling))
        for parameter in asked:
            verdict = TABLES[engine][workload][parameter]
            assert isinstance(verdict, Honoured)
            assert verdict.name.partition(".")[0] in body
    else:
        with pytest.raises(EngineError):
            sent(engine, generation_with(workload, sampling))


def test_a_schema_and_a_grammar_at_once_are_never_sent() -> None:
    both = Generation(prompt="p", sampling=Sampling(json_schema={}, grammar="g"))
    with pytest.raises(EngineError, match="exclude each other"):
        fields(Engine.LLAMACPP, both)

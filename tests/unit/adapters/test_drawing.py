"""What of a sampler profile each engine is sent."""

from typing import Any

import msgspec
import pytest

from adapters import llamacpp_wire, tgi_wire
from adapters.base import Generation
from adapters.drawing import Drawing, drawing, unkept
from adapters.parameters import SCALARS, TABLES, Honoured, fields
from contracts.config import Engine
from contracts.sampler_profiles import GREEDY, PROFILES, V1
from contracts.tasks import ChatMessage, Role, Sampling, Workload

pytestmark = pytest.mark.req("HP-12")
COMPLETION, CHAT = Workload.COMPLETION, Workload.CHAT
EVERYTHING = ("seed", "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "cache_prompt")
NUMBERS = {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "min_p": 0.05}


def sent(engine: Engine, workload: Workload, features: tuple[str, ...] = (), **given: Any) -> dict[str, Any]:  # noqa: ANN401 - any field of the sampling
    drawn = drawing(V1, engine, workload, Sampling(**given), features)
    chat = (ChatMessage(role=Role.USER, content="a"),) if workload is CHAT else None
    return fields(engine, Generation(prompt="a", messages=chat, sampling=drawn.sampling, further=drawn.further))


@pytest.mark.parametrize(
    ("engine", "workload", "features", "expected"),
    [
        (Engine.LLAMACPP, COMPLETION, (), NUMBERS | {"repeat_penalty": 1.0, **V1.further["llamacpp"]}),
        (Engine.LLAMACPP, CHAT, (), NUMBERS | {"repeat_penalty": 1.0, **V1.further["llamacpp"]}),
        (Engine.VLLM, COMPLETION, (), NUMBERS | {"repetition_penalty": 1.0, **V1.further["vllm"]}),
        (Engine.VLLM, CHAT, (), NUMBERS | {"repetition_penalty": 1.0, **V1.further["vllm"]}),
        (Engine.TGI, COMPLETION, (), {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "repetition_penalty": 1.0}),
        (Engine.TGI, CHAT, (), {"temperature": 0.8, "top_p": 0.95}),
        (Engine.TRITON, COMPLETION, (), {}),
        (Engine.TRITON, COMPLETION, ("temperature", "top_k"), {"temperature": 0.8, "top_k": 40}),
        (Engine.OPENAI, COMPLETION, (), {"temperature": 0.8, "top_p": 0.95}),
        (Engine.OPENAI, CHAT, EVERYTHING, NUMBERS | {"repetition_penalty": 1.0}),
    ],
)
def test_every_engine_is_told_what_it_honours_and_nothing_else(
    engine: Engine, workload: Workload, features: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert sent(engine, workload, features) == expected


@pytest.mark.parametrize("name", sorted(SCALARS.values()))
def test_what_a_request_gives_goes_before_the_profile(name: str) -> None:
    given: dict[str, Any] = {name: 1}
    assert sent(Engine.LLAMACPP, COMPLETION, **given) == sent(Engine.LLAMACPP, COMPLETION) | given


def test_what_else_a_request_asks_for_stays() -> None:
    drawn = drawing(V1, Engine.LLAMACPP, COMPLETION, Sampling(stop=("x",), grammar="root ::= x"), ())
    assert (drawn.sampling.stop, drawn.sampling.grammar) == (("x",), "root ::= x")


@pytest.mark.parametrize("workload", [Workload.EMBEDDING, Workload.RERANK])
def test_what_draws_no_tokens_gets_no_profile(workload: Workload) -> None:
    assert drawing(V1, Engine.LLAMACPP, workload, Sampling(), EVERYTHING) == Drawing(Sampling())


def test_a_profile_that_nobody_knows_has_no_values() -> None:
    assert drawing(None, Engine.LLAMACPP, COMPLETION, Sampling(), EVERYTHING) == Drawing(Sampling())
    assert unkept("v9", Engine.TGI, CHAT, Sampling()) is None


def test_the_whole_body_of_a_completion() -> None:
    drawn = drawing(V1, Engine.LLAMACPP, COMPLETION, Sampling(), ())
    _, body = llamacpp_wire.request(
        Generation(prompt="a", seed=7, cache_prompt=False, sampling=drawn.sampling, further=drawn.further)
    )
    plain = {"stream": True, "seed": 7, "cache_prompt": False, "prompt": "a"}
    numbers = NUMBERS | {"repeat_penalty": 1.0}
    further = msgspec.json.decode(msgspec.json.encode(V1.further["llamacpp"]))
    assert msgspec.json.decode(body.whole) == plain | numbers | further


# --- greedy -----------------------------------------------------------------------------------------------------------


def test_a_value_that_an_engine_refuses_is_an_obstacle_until_the_request_replaces_it() -> None:
    """Left out, the engine would draw by its own default: sampling where nothing was to be sampled."""
    found = unkept("greedy", Engine.TGI, CHAT, Sampling())
    assert found is not None
    assert found.field == "sampling.temperature"
    assert found.message == "sampler profile 'greedy': engine tgi takes sampling.temperature above 0 only, and 0 is not"
    assert unkept("greedy", Engine.TGI, CHAT, Sampling(temperature=0.1)) is None


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_no_engine_is_ever_sent_a_value_that_it_refuses(profile: str) -> None:
    refused = {
        (engine, workload)
        for engine, tables in TABLES.items()
        for workload in tables
        if unkept(profile, engine, workload, Sampling()) is not None
    }
    assert refused == ({(Engine.TGI, CHAT)} if profile == "greedy" else set())
    for engine, tables in TABLES.items():
        for workload in (each for each in (COMPLETION, CHAT) if each in tables and (engine, each) not in refused):
            drawn = drawing(PROFILES[profile], engine, workload, Sampling(), EVERYTHING)
            for parameter, name in SCALARS.items():
                verdict, value = tables[workload].get(parameter), getattr(drawn.sampling, name)
                if isinstance(verdict, Honoured) and verdict.above is not None and isinstance(value, int | float):
                    assert value > verdict.above


def test_greedy_is_said_as_each_engine_says_it() -> None:
    drawn = drawing(GREEDY, Engine.TGI, COMPLETION, Sampling(), ())
    _, body = tgi_wire.request(Generation(prompt="a", sampling=drawn.sampling, further=drawn.further), 8)
    parameters = msgspec.json.decode(body.whole)["parameters"]
    assert parameters["do_sample"] is False
    assert {"temperature", "top_k", "top_p"}.isdisjoint(parameters)
    drawn = drawing(GREEDY, Engine.VLLM, COMPLETION, Sampling(), ())
    asked = fields(Engine.VLLM, Generation(prompt="a", sampling=drawn.sampling, further=drawn.further))
    assert (asked["temperature"], asked["top_k"]) == (0.0, -1)

"""What a server's models and its OpenAPI document tell of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import EngineError, Failure
from adapters.openai_discovery import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    ModelCard,
    Routes,
    choose,
    features,
    routes_of,
    workloads,
)
from contracts.tasks import Workload

ONE, TWO = ModelCard("one"), ModelCard("two")
LORA = ModelCard("lora", parent="one")


def document(**bodies: list[str]) -> dict[str, Any]:
    """An OpenAPI document with these routes, each with the fields of its body."""
    schemas: dict[str, Any] = {
        f"Body{name}": {"properties": {field: {} for field in fields}} for name, fields in bodies.items()
    }
    paths = {
        f"/{name.replace('__', '/')}": {
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/Body{name}"}}}
                }
            }
        }
        for name in bodies
    }
    return {"paths": {**paths, "/health": {"get": {}}}, "components": {"schemas": schemas}}


@pytest.mark.parametrize(
    ("models", "wanted", "base_first", "chosen"),
    [
        ([ONE], None, False, ONE),
        ([ONE], "another", False, ONE),
        ([ONE, TWO], "two", False, TWO),
        ([ONE, LORA], "lora", True, LORA),
        ([LORA, ONE, TWO], "file:/m", True, ONE),
    ],
)
def test_which_model_is_asked_for(
    models: list[ModelCard], wanted: str | None, base_first: bool, chosen: ModelCard
) -> None:
    assert choose(models, wanted, base_first=base_first) == chosen


def test_where_it_stays_open_which_one_is_meant_nothing_is_guessed() -> None:
    with pytest.raises(EngineError, match="set the pool's model to one of one, two") as caught:
        choose([ONE, TWO], "x", base_first=False)
    assert caught.value.failure is Failure.INVALID
    with pytest.raises(EngineError, match="lists no model") as caught:
        choose([], "x", base_first=True)
    assert caught.value.failure is Failure.PROTOCOL


def test_a_long_list_of_models_is_not_said_whole() -> None:
    with pytest.raises(EngineError, match=r"m7, \.\.\.$"):
        choose([ModelCard(f"m{number}") for number in range(100)], "x", base_first=False)


def test_the_routes_and_the_fields_of_their_bodies() -> None:
    routes = routes_of(document(v1__completions=["prompt", "seed", "top_k"], v2__rerank=["query"]))
    assert COMPLETIONS in routes
    assert "/health" not in routes  # nothing can be sent there
    assert routes.takes(COMPLETIONS, "seed")
    assert not routes.takes(COMPLETIONS, "min_p")
    assert not routes.takes(CHAT, "seed")
    assert routes.rerank == "/v2/rerank"


def test_a_schema_may_stand_where_it_is_used() -> None:
    inline: dict[str, Any] = {"content": {"application/json": {"schema": {"properties": {"seed": {}}}}}}
    assert routes_of({"paths": {COMPLETIONS: {"post": {"requestBody": inline}}}}).takes(COMPLETIONS, "seed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["paths", "post", "requestBody", "content", "properties", "$ref"]), inner)
    ),
)


@given(JSON)
def test_no_document_is_too_strange(strange: object) -> None:
    routes_of(strange)
    routes_of({"paths": {COMPLETIONS: strange}})
    routes_of({"paths": {COMPLETIONS: {"post": strange}}})


def test_features_are_what_all_generating_routes_have() -> None:
    routes = Routes({COMPLETIONS: frozenset({"seed", "top_k", "cache_salt"}), CHAT: frozenset({"seed", "min_p"})})
    assert features(routes, [COMPLETIONS, CHAT]) == {"seed"}
    assert features(routes, [COMPLETIONS]) == {"seed", "top_k", "cache_prompt"}
    assert features(routes, []) == features(None, [CHAT]) == set()


def test_workloads_are_the_routes_that_are_served() -> None:
    assert workloads({COMPLETIONS: True, CHAT: False, EMBEDDINGS: True, "/v2/rerank": True}) == (
        Workload.COMPLETION,
        Workload.EMBEDDING,
        Workload.RERANK,
    )
    assert workloads({}) == ()

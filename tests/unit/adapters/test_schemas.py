"""JSON schemas: what is wrong by itself is found wherever it stands, and what is right passes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.schemas import flaw

NONSENSE: dict[str, Any] = {"type": "nonsense"}
LOST: dict[str, Any] = {"$ref": "#/nope"}


@pytest.mark.parametrize(
    ("schema", "where", "what"),
    [
        (NONSENSE, "#", "there is no type 'nonsense' in JSON"),
        ({"type": 5}, "#", "there is no type 5 in JSON"),
        ({"type": ["string", "nope"]}, "#", "there is no type 'nope' in JSON"),
        ({"type": [["string"]]}, "#", "there is no type ['string'] in JSON"),
        (LOST, "#", "$ref '#/nope' leads nowhere"),
        ({"$ref": "http://x/y"}, "#", "$ref 'http://x/y' leads nowhere"),
        ({"$ref": "#/$defs/a/b", "$defs": {"a": {}}}, "#", "$ref '#/$defs/a/b' leads nowhere"),
        ({"$ref": "#/anyOf/1", "anyOf": [{}]}, "#", "$ref '#/anyOf/1' leads nowhere"),
        ({"properties": {"a": NONSENSE}}, "#/properties/a", "there is no type 'nonsense' in JSON"),
        ({"items": {"items": LOST}}, "#/items/items", "$ref '#/nope' leads nowhere"),
        ({"anyOf": [{"const": 1}, NONSENSE]}, "#/anyOf/1", "there is no type 'nonsense' in JSON"),
        ({"$defs": {"a": {"not": NONSENSE}}}, "#/$defs/a/not", "there is no type 'nonsense' in JSON"),
    ],
)
def test_a_mistake_is_found_where_it_stands(schema: dict[str, Any], where: str, what: str) -> None:
    found = flaw(schema)
    assert found is not None
    assert (found.where, found.what) == (where, what)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": ["string", "null"], "properties": {"type": {"type": "string"}, "$ref": {"const": 1}}},
        {"enum": [NONSENSE], "const": LOST, "default": LOST, "examples": [NONSENSE]},
        {"$ref": "#/$defs/a~1b/prefixItems/1", "$defs": {"a/b": {"prefixItems": [{}, {"$ref": "#"}]}}},
        {"$ref": "#/$defs/a%20b", "$defs": {"a b": True}},
        {"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}},
        {"items": ["no schema"], "additionalProperties": False},
    ],
)
def test_what_is_right_passes(schema: dict[str, Any]) -> None:
    assert flaw(schema) is None


@given(
    st.dictionaries(
        st.sampled_from(["type", "$ref", "items", "anyOf", "properties"]),
        st.recursive(
            st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
        ),
    )
)
def test_nothing_that_is_json_is_too_strange(schema: dict[str, Any]) -> None:
    flaw(schema)

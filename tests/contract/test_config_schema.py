"""The schema that editors use says of a configuration what the product says of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.config import Config
from daemon_core.config_file import load

ROOT = Path(__file__).parents[2]
SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "contracts/config.schema.json").read_text()))
EXAMPLES = sorted((ROOT / "examples").glob("*/config.yaml"))
DOCUMENTS = [yaml.safe_load(path.read_text()) for path in EXAMPLES]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from(
        [10**30, -1, 0.5, "", "x", "gpu0\n", "home", "llamacpp", "source", "reject", "drop-lru", [], {}, [1]]
    ),
)


def product_takes(document: object) -> bool:
    """Whether the types take it; contradictions are no schema's to find."""
    try:
        msgspec.convert(document, Config)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.req("HP-26", "HP-27")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_the_schema_and_the_product_take_every_example(path: Path) -> None:
    load(path)
    SCHEMA.validate(yaml.safe_load(path.read_text()))
    assert path.read_text().startswith("# yaml-language-server: $schema=../../contracts/config.schema.json\n")


def places(node: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:  # noqa: ANN401 - any YAML
    keys = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(place for key, value in keys for place in places(value, (*at, key)))]


@pytest.mark.req("HP-26", "HP-27")
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data(), document=st.sampled_from(DOCUMENTS), value=VALUES)
def test_one_change_is_refused_by_both_or_by_neither(data: st.DataObject, document: Any, value: object) -> None:  # noqa: ANN401
    changed = copy.deepcopy(document)
    *way, last = data.draw(st.sampled_from(places(document)[1:]))
    node = changed
    for key in way:
        node = node[key]
    match data.draw(st.sampled_from(["other value", "unknown key", "gone"])):
        case "other value":
            node[last] = value
        case "unknown key" if isinstance(node, dict):
            node["modell"] = value
        case _:
            del node[last]
    assert SCHEMA.is_valid(changed) == product_takes(changed), changed

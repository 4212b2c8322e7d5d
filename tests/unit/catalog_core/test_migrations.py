"""What each step of a migration makes of an entry."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog_core.migrations import ENGINES, MODELS, Json, migrate, newest
from contracts.engines import ModelEntry, ModelFormat

FIRST = {"id": "a", "ref": "a", "local_path": "/a.gguf", "size_bytes": 1, "digest": "sha256:0"}


def test_the_steps_have_no_gap() -> None:
    for steps in (MODELS, ENGINES):
        assert sorted(steps) == list(range(1, newest(steps)))


@pytest.mark.req("CAT-02")
@pytest.mark.parametrize(
    ("path", "format_"),
    [("/m/a.gguf", ModelFormat.GGUF), ("/m/A.GGUF", ModelFormat.GGUF), ("/m/Llama-3.1", ModelFormat.HF_DIRECTORY)],
)
def test_a_model_of_schema_1_says_how_it_lies_on_the_disk(path: str, format_: ModelFormat) -> None:
    made = msgspec.convert(migrate({**FIRST, "local_path": path}, 1, MODELS), ModelEntry)
    assert (made.format, made.fetched) == (format_, False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,  # a step looks at the names of an entry, and into none of its values
)


@pytest.mark.req("CAT-02")
@given(st.dictionaries(st.text(), json_values))
def test_a_step_loses_nothing(entry: Json) -> None:
    made = migrate(entry, 1, MODELS)
    assert {name: made[name] for name in entry} == entry


def test_a_schema_that_never_was_is_an_error() -> None:
    with pytest.raises(KeyError):
        migrate({}, 0, MODELS)

"""Whether a hold means a model, however either was written."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.engines import ModelEntry
from model_provisioner.holds import Hold, holders, normal, same

BASE = PurePosixPath("/etc/llama-orch")


def entry(ref: str, path: str = "/cache/m.gguf") -> ModelEntry:
    return ModelEntry(id="m", ref=ref, local_path=path, size_bytes=1, digest="sha256:0")


@pytest.mark.req("MP-06")
@pytest.mark.parametrize(
    ("held", "ref", "path"),
    [
        ("hf:org/repo/m.gguf", "hf://org/repo/m.gguf", "/cache/m.gguf"),
        ("m.gguf", "/etc/llama-orch/m.gguf", "/etc/llama-orch/m.gguf"),
        ("file:m.gguf", "./m.gguf", "/etc/llama-orch/m.gguf"),
        ("/models/m.gguf", "other.gguf", "/models/m.gguf"),
        ("https://host/m.gguf?signature=1", "https://host/m.gguf", "/cache/m.gguf"),
        ("no:such:thing", "no:such:thing", "/cache/m.gguf"),
    ],
)
def test_one_place_has_many_names(held: str, ref: str, path: str) -> None:
    assert holders(entry(ref, path), [Hold(by="pool p", ref=held)], BASE) == ("pool p",)


@pytest.mark.parametrize("held", ["hf:org/repo/other.gguf", "hf:org/repo/m.gguf@main", "m.gguf", ""])
def test_another_place_is_no_hold(held: str) -> None:
    assert holders(entry("hf:org/repo/m.gguf"), [Hold(by="pool p", ref=held)], BASE) == ()


def test_each_holder_is_named_once() -> None:
    holds = [Hold(by="pool p", id="m"), Hold(by="pool p", ref="hf:org/repo"), Hold(by="pins", digest="sha256:0")]
    assert holders(entry("hf:org/repo"), holds, BASE) == ("pool p", "pins")
    assert holders(entry("hf:org/repo"), [Hold(by="nobody")], BASE) == ()


@given(st.text())
def test_any_text_has_one_form_and_is_the_same_as_itself(text: str) -> None:
    assert normal(normal(text, BASE), BASE) == normal(text, BASE)
    assert same(text, text, BASE)

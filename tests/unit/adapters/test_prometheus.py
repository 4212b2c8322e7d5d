"""One figure out of an exposition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.prometheus import figure

TEXT = """\
# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a} 7"} 2.0
vllm:num_requests_running{engine="1",model_name="b"} 1 1700000000000
vllm:num_requests_running_total 99
tgi_batch_current_size 3
odd NaN
odder +Inf
oddest minus
negative -1
"""


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["vllm:num_requests_running"], 3),
        (["renamed", "tgi_batch_current_size"], 3),
        (["tgi_batch_current_size", "vllm:num_requests_running"], 3),
        (["absent"], None),
        (["odd"], None),
        (["odder"], None),
        (["oddest"], None),
        (["negative"], None),
        ([], None),
    ],
)
def test_what_is_told(names: list[str], told: int | None) -> None:
    assert figure(TEXT, names) == told


@given(st.text())
def test_whatever_comes_is_survived(text: str) -> None:
    assert figure(text, ["a"]) is None or figure(text, ["a"]) >= 0  # type: ignore[operator]

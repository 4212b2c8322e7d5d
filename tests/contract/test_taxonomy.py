"""Every error code has one meaning, one status and one answer to "shall I try again"; the running server keeps to it.

The examples are what the server says: ``test_examples`` plays each of them. Here they are held against the table.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import ERROR_NUMBER, MEANING, RETRIABLE, STATUS, ErrorCode
from contracts.examples.base import EVENT_STREAM
from tests.contract.documented import documented
from tests.unit.orchestratord.frames import frames_of

pytestmark = pytest.mark.req("HP-04", "HP-27")

REFUSALS = [example for example in documented() if example.status >= 400]
LASTING = ("-429-too-short", "-503-unready")
"""Refusals of codes that may pass by themselves, which will not."""
STREAMS = [example for example in documented() if example.media == EVENT_STREAM]


def ends_of_streams() -> list[dict[str, Any]]:
    last = [frames_of(example.value.encode())[-1] for example in STREAMS]
    return [frame.data for frame in last if frame.event == "error"]


def test_every_code_is_provoked_by_an_example() -> None:
    shown = {example.value["code"] for example in REFUSALS} | {end["code"] for end in ends_of_streams()}
    assert set(ErrorCode) == shown


@pytest.mark.parametrize("example", REFUSALS, ids=lambda each: each.id)
def test_a_refusal_is_what_the_table_says_of_its_code(example: Any) -> None:  # noqa: ANN401 - a Documented
    body = example.value
    code = ErrorCode(body["code"])
    lasting = any(example.id.endswith(each) for each in LASTING)
    assert (example.status, body["retriable"]) == (STATUS[code], code in RETRIABLE and not lasting)
    assert body.get("error_number") == ERROR_NUMBER.get(code)
    assert ("policy_label" in body) == (example.status == 429)
    if example.status == 429 or "retry_after_ms" in body:
        assert example.headers["X-Backoff-Ms"] == str(body["retry_after_ms"])
        assert example.headers["Retry-After"] == str(math.ceil(body["retry_after_ms"] / 1000))


def test_an_error_in_a_stream_is_what_the_table_says_of_its_code() -> None:
    for end in ends_of_streams():
        assert end["retriable"] == (ErrorCode(end["code"]) in RETRIABLE)


def test_every_code_has_its_row() -> None:
    page = (Path(__file__).parents[2] / "docs/errors.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [str(code) for code in ErrorCode]
    assert set(MEANING) == set(STATUS) == set(ErrorCode)

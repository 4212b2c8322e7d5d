"""Every documented example, played against the running server."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from contracts.examples.base import Given
from contracts.openapi import examples_of
from contracts.operations import OPERATIONS
from tests.contract.documented import Documented, differences, documented
from tests.contract.scenes import scene

pytestmark = [pytest.mark.req("HP-27"), pytest.mark.slow, pytest.mark.timeout(120)]

ALL = documented()
SETTING = {("post", "/v1/pools/{pool_id}/drain", 202), ("post", "/v1/pools/{pool_id}/reload", 202)}
"""What changes the house for those that come after."""


def plays() -> list[list[Documented]]:
    """The examples that can be played one after the other in one house."""
    alone = [[each] for each in ALL if each.method != "get" and each.status < 300]
    rest = sorted((each for each in ALL if [each] not in alone), key=lambda each: each.given)
    return alone + [list(group) for _, group in groupby(rest, key=lambda each: each.given)]


@pytest.mark.parametrize("examples", plays(), ids=lambda group: group[0].id if len(group) == 1 else group[0].given[:40])
async def test_the_server_answers_as_documented(tmp_path: Path, examples: list[Documented]) -> None:
    async with scene(tmp_path, examples[0].given) as here:
        wrong = [
            f"{example.id}: {found}"
            for example in examples
            for found in differences(example, await here.play(example), stand_in=here.stand_in)
        ]
    assert not wrong, "\n".join(wrong)


def test_every_answer_of_every_operation_has_an_example() -> None:
    missing = []
    for operation in OPERATIONS:
        shown = {example.status for example in examples_of(operation)}
        answers = set(operation.answers) | ({200} if operation.also_streams else set())
        missing += [(operation.method, operation.path, status) for status in answers ^ shown]
    assert missing == []


def test_the_examples_are_told_apart_by_their_names() -> None:
    ids = [example.id for example in ALL]
    assert len(ids) == len(set(ids))
    assert {example.given for example in ALL} == {given.value for given in Given}, "each condition has an example"

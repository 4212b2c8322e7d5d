"""docs/api.md shows a request to every route; that each does what the page says, ``test_documents`` plays."""

from __future__ import annotations

import re

import pytest

from contracts.operations import OPERATIONS
from tests.contract.blocks import commands

pytestmark = pytest.mark.req("HP-27")
TYPED = [command.text for command in commands() if command.block.page == "docs/api.md" and command.reason is None]


def method_of(command: str) -> str:
    """What curl sends: what it is told, else POST where there is a body."""
    told = re.search(r"-X (\w+)", command)
    return told[1].lower() if told else "post" if " -d " in command else "get"


def test_every_route_is_shown_and_played() -> None:
    missing = []
    for operation in OPERATIONS:
        path = re.sub(r"\{\w+\}", r"[^/?\\s\"]+", operation.path)
        there = re.compile(rf"curl .*(?:\$URL|:8080){path}(?=[\s?\"]|$)")
        if not any(there.search(text) and method_of(text) == operation.method for text in TYPED):
            missing.append((operation.method, operation.path))
    assert missing == []


def test_the_method_is_that_which_curl_sends() -> None:
    assert [method_of(text) for text in ("curl u", "curl u -d '{}'", "curl -X DELETE u")] == ["get", "post", "delete"]

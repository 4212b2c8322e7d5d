"""Bodies that break off in the middle, and clients that ask before they send one or that never say who they are."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from contracts.config import Auth
from tests.integration.orchestratord.house import TOKEN, house
from tests.integration.orchestratord.wire import BRIEF_MS, HEALTH, served_until, wire

pytestmark = pytest.mark.req("OP-02")

AUTHORIZATION = f"Authorization: Bearer {TOKEN}\r\n"
CHUNKED = f"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n{AUTHORIZATION}Transfer-Encoding: chunked\r\n\r\n".encode()
NEVER_MS = 600_000
"""A body that does not come on is not late before the test is over."""
BROKEN = {
    "a length that is none": b"zz\r\n",
    "more than the length": b'4\r\n{"a":1}\r\n',
    "a trailer that never ends": b"0\r\nX-Trailer: " + b"x" * 40_000,
    "too many trailers": b"0\r\n" + b"X-Trailer: x\r\n" * 300,
}


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("waits", [True, False], ids=["in its handler", "on its way there"])
async def test_a_body_that_breaks_in_a_later_packet_is_told_so_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, later: bytes, waits: bool
) -> None:
    async with house(tmp_path, token=TOKEN, body_timeout_ms=NEVER_MS) as here, wire(here) as client:
        await client.send(CHUNKED + b'9\r\n{"model_r\r\n')
        if waits:
            await served_until(here, asyncio.get_running_loop().time() + 0.1)
        await client.send(later)
        heard = await client.answer()
        # What comes in one read with the head is all parsed before there is a request; then it is the head's fault.
        assert heard.status in ({400} if waits else {400, 431})
        assert heard.told["code"] == "INVALID_PARAMS"
        assert heard.headers["x-correlation-id"] == heard.told["correlation_id"]
        assert await client.rest() == b""
    assert [each for each in caplog.records if each.levelno > logging.INFO or each.exc_info] == []


async def test_what_comes_behind_a_whole_body_breaks_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN) as here, wire(here) as client:
        await client.send(CHUNKED + b'9\r\n{"model_r\r\n')
        await served_until(here, asyncio.get_running_loop().time() + 0.1)
        await client.send(b"0\r\n\r\nthis is no request\r\n\r\n")
        heard = await client.answer()
        assert (heard.status, heard.told["message"]) == (400, "the body is no JSON: Input data was truncated")
        assert (await client.answer()).told["message"] == "the request is no HTTP"


# --- clients that ask first -------------------------------------------------------------------------------------------


def asking(expected: str, *more: str, length: int = 2, path: str = "/v1/tasks", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", f"Expect: {expected}", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


OURS = AUTHORIZATION.strip()


@pytest.mark.parametrize("expected", ["100-continue", "100-Continue"])
async def test_who_asks_first_is_told_to_go_on_and_then_answered(tmp_path: Path, expected: str) -> None:
    async with house(tmp_path, token=TOKEN) as here, wire(here) as client:
        await client.send(asking(expected, OURS))
        assert (await client.answer()).status == 100
        await client.send(b"{}")
        assert (await client.answer()).told["field"] == "model_ref"
        await client.send(HEALTH)
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (asking("100-continue"), 401),
        (asking("100-continue", OURS, length=1 << 30), 413),
        (asking("100-continue", OURS, "Content-Encoding: gzip"), 400),
        (asking("a-miracle", OURS), 417),
        (asking("a-miracle"), 401),
    ],
    ids=["a stranger", "too long", "packed", "something else", "a stranger who wants something else"],
)
async def test_what_is_refused_is_not_asked_for(tmp_path: Path, head: bytes, status: int) -> None:
    async with house(tmp_path, token=TOKEN) as here, wire(here) as client:
        await client.send(head)
        heard = await client.answer()
        assert heard.status == status
        assert heard.headers["content-type"] == "application/json"
        assert heard.headers["x-correlation-id"] == heard.told["correlation_id"]


async def test_a_body_that_is_here_already_is_not_asked_for(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN) as here, wire(here) as client:
        await client.send(asking("100-continue", OURS) + b"{}")
        assert (await client.answer()).status == 400


async def test_of_http_1_0_an_expectation_is_passed_over(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN) as here, wire(here) as client:
        await client.send(asking("a-miracle", OURS, version="1.0") + b"{}")
        assert (await client.answer()).told["field"] == "model_ref"


async def test_where_no_route_is_one_answer_is_enough(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN) as here, wire(here) as client:
        await client.send(asking("100-continue", OURS, path="/v1/nothing"))
        assert [(await client.answer()).status for _ in range(2)] == [100, 404]


# --- strangers --------------------------------------------------------------------------------------------------------

REQUEST = f"GET /v1/tasks HTTP/1.1\r\nHost: localhost\r\n{AUTHORIZATION}\r\n".encode()


async def test_who_has_shown_no_token_keeps_no_place_for_long(tmp_path: Path) -> None:
    async with (
        house(tmp_path, token=TOKEN, header_timeout_ms=BRIEF_MS) as here,
        wire(here) as stranger,
        wire(here) as known,
    ):
        await stranger.send(HEALTH)
        assert (await stranger.answer()).status == 200
        await known.send(REQUEST)
        assert (await known.answer()).status == 200
        assert await stranger.rest() == b""
        await known.send(HEALTH)
        assert (await known.answer()).status == 200
        async with wire(here) as another:  # whose time begins when that of a stranger in the place of this one would
            assert await another.rest() == b""
        await known.send(HEALTH)
        assert (await known.answer()).status == 200


async def test_a_trusted_proxy_is_no_stranger_whoever_it_speaks_for(tmp_path: Path) -> None:
    auth = Auth(trust_proxy=True)
    async with house(tmp_path, token=TOKEN, auth=auth, header_timeout_ms=BRIEF_MS) as here, wire(here) as proxy:
        await proxy.send(HEALTH)
        assert (await proxy.answer()).status == 200
        async with wire(here) as silent:
            assert await silent.rest() == b""
        await proxy.send(HEALTH)
        assert (await proxy.answer()).status == 200

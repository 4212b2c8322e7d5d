"""Web pages: none may use the API unless it is named, and none gets what loopback alone is trusted with."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.config import Auth
from tests.integration.orchestratord.house import BODY, EVENT_STREAM, TOKEN, house
from tests.standin.server import StandIn

pytestmark = pytest.mark.req("OP-02", "ORCH-3810")

PAGE, OTHER = "https://chat.lan", "https://evil.example"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
ALLOW = "Access-Control-Allow-Origin"


async def test_without_origins_no_answer_speaks_of_pages(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN) as here:
        async with here.client.options("/v1/tasks", headers=ASKS | {"Origin": PAGE}) as answer:
            assert answer.status == 401
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        async with here.client.get("/v1/pools", headers=RIGHT | {"Origin": PAGE}) as answer:
            assert answer.status == 200
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_a_page_that_is_named_is_told_what_it_may_send(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN, cors_origins=(PAGE,)) as here:
        async with here.client.options("/v1/tasks", headers=ASKS | {"Origin": PAGE}) as answer:
            assert (answer.status, answer.headers[ALLOW], answer.headers["Vary"]) == (204, PAGE, "Origin")
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
            assert {"Authorization", "Last-Event-ID", "Content-Type"} <= set(
                answer.headers["Access-Control-Allow-Headers"].split(", ")
            )
            assert "Access-Control-Allow-Credentials" not in answer.headers
        async with here.client.options("/v1/tasks", headers=ASKS | {"Origin": OTHER}) as answer:
            assert answer.status == 204
            assert [name for name in answer.headers if name.lower().startswith("access-control")] == []
            assert answer.headers["Vary"] == "Origin"


async def test_streams_and_errors_carry_the_headers_too(tmp_path: Path) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url, token=TOKEN, cors_origins=(PAGE,)) as here:
        from_page = RIGHT | {"Origin": PAGE}
        streaming = from_page | {"Accept": EVENT_STREAM}
        async with here.client.post("/v1/tasks", json=BODY, headers=streaming) as answer:
            assert (answer.status, answer.headers[ALLOW]) == (200, PAGE)
            assert "Location" in answer.headers["Access-Control-Expose-Headers"].split(", ")
            assert b"event: end" in await answer.read()
        async with here.client.get("/v1/tasks/none", headers=from_page) as answer:
            assert (answer.status, answer.headers[ALLOW]) == (404, PAGE)
        async with here.client.get("/v1/pools", headers={"Origin": PAGE}) as answer:
            assert (answer.status, answer.headers[ALLOW]) == (401, PAGE)
        async with here.client.get("/v1/pools", headers=RIGHT | {"Origin": OTHER}) as answer:
            assert answer.status == 200, "the token is what counts; the browser keeps the answer from that page"
            assert ALLOW not in answer.headers


@pytest.mark.parametrize(
    "sent",
    [{"Origin": OTHER}, {"Origin": "null"}, {"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=["a page", "a sandboxed page", "rebinding", "an image"],
)
async def test_no_page_borrows_the_exemption_of_loopback(tmp_path: Path, sent: dict[str, str]) -> None:
    async with (
        StandIn() as engine,
        house(tmp_path, engine.url, token=TOKEN, auth=Auth(optional=True), cors_origins=(PAGE,)) as here,
    ):
        async with here.client.get("/v1/pools") as answer:
            assert answer.status == 200
        plain = sent | {"Content-Type": "text/plain"}  # which a browser sends without asking before
        async with here.client.post("/v1/tasks", data=b'{"model_ref":"m","prompt":"hi"}', headers=plain) as answer:
            told = await answer.json()
            assert (answer.status, told["code"]) == (403, "POLICY_DENIED")
            assert "token" in told["hint"]
        assert (await here.get("/v1/tasks"))["tasks"] == []
        async with here.client.get("/v1/pools", headers=sent | RIGHT) as answer:
            assert answer.status == 200
        async with here.client.get("/v1/pools", headers={"Origin": PAGE}) as answer:
            assert (answer.status, answer.headers[ALLOW]) == (200, PAGE)

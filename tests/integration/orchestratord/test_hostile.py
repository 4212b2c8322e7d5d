"""What a client can send to hurt the others: long names, endless numbers, line breaks in ids."""

import gzip
import json
import logging
from pathlib import Path

import pytest

from tests.integration.orchestratord.house import BODY, house
from tests.integration.orchestratord.wire import wire
from tests.standin.server import StandIn


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"task_id": "abc\n"}, "task_id"),
        ({"deadline_ms": 10**30}, "deadline_ms"),
        ({"deadline_ms": 10**400}, "deadline_ms"),
        ({"placement": {"avoid": ["x"] * 1000}}, "placement.avoid"),
    ],
)
async def test_what_would_break_something_later_is_refused_at_once(
    tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url) as here:
        async with here.client.post("/v1/tasks", data=json.dumps(BODY | changes)) as answer:
            told = await answer.json()
        assert (answer.status, told["code"], told["field"]) == (400, "INVALID_PARAMS", field)
        assert (await here.get("/v1/tasks"))["tasks"] == []


async def test_a_field_name_of_a_megabyte_is_not_compared_and_not_repeated(tmp_path: Path) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url) as here:
        body = json.dumps(BODY | {"promptseed" * 100_000: 1})
        async with here.client.post("/v1/tasks", data=body.encode()) as answer:
            assert answer.status == 400
            assert len(await answer.read()) < 2_000


BOMB = gzip.compress(bytes(1 << 24))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "x" * 1_000])
async def test_a_packed_body_is_refused_and_not_unpacked(
    tmp_path: Path, coding: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unpack(*_given: object, **_more: object) -> object:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr("aiohttp.http_parser.ZLibDecompressor", unpack)
    async with house(tmp_path) as here, wire(here) as client:
        head = f"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: {coding}\r\n"
        await client.send(f"{head}Content-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB)
        heard = await client.answer()
    assert (heard.status, heard.told["code"], heard.told["field"]) == (400, "INVALID_PARAMS", "Content-Encoding")
    assert len(heard.body) < 1_000
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_a_body_that_says_it_is_not_packed_is_read(tmp_path: Path) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url) as here:
        plain = {"Content-Encoding": "identity"}
        async with here.client.post("/v1/tasks", data=json.dumps(BODY).encode(), headers=plain) as answer:
            assert answer.status == 202

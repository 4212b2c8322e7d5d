"""The floor relays what ours does: a comparison with something that did less would mean nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bench.floor import make_app
from tests.integration.orchestratord.house import BODY, EVENT_STREAM, house
from tests.standin.knobs import Knobs
from tests.standin.server import StandIn


@asynccontextmanager
async def floor(engine_url: str) -> AsyncIterator[str]:
    runner = web.AppRunner(make_app(engine_url), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def token_frames(url: str) -> list[bytes]:
    body = BODY | {"max_tokens": 40, "seed": 3}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{url}/v1/tasks", json=body, headers={"Accept": EVENT_STREAM}) as answer,
    ):
        assert (answer.status, answer.content_type) == (200, EVENT_STREAM)
        return [frame for frame in (await answer.read()).split(b"\n\n") if frame.startswith(b"event: token\n")]


@pytest.mark.parametrize("split_every", [None, 7])
async def test_the_floor_sends_the_same_token_frames_as_ours(tmp_path: Path, split_every: int | None) -> None:
    knobs = Knobs(tokens_per_write=3, split_every=split_every)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url) as here, floor(engine.url) as url:
        ours, least = await token_frames(here.url), await token_frames(url)
        assert len(least) == 40
        assert least == ours
        async with aiohttp.ClientSession() as client, client.get(f"{url}/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})

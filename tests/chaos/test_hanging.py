"""Engines that hang, under both real daemons: frozen as a whole, or well by their health and silent in every stream."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.support.installation import Installation, alive, parse_events
from tests.support.tiny_gguf import slow_model

LONG = {"prompt": "once upon a time", "max_tokens": 400, "seed": 7}
IDLE_MS = 4_000
"""More than a machine stands still, so that no engine that works is given up; less than the ten seconds after which
pool-managerd gives up one that does not answer."""


def external(url: str) -> Mapping[str, Any]:
    return {"mode": "external", "external": {"url": url}}


@pytest.mark.req("HP-17", "PM-01")
@pytest.mark.timeout(90)
@pytest.mark.slow
@pytest.mark.parametrize("early", [True, False], ids=["before the first token", "mid-stream"])
async def test_an_engine_that_is_frozen_is_given_up_and_replaced(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, early: bool
) -> None:
    timeouts = {"idle_ms": IDLE_MS, "stop_ms": 500}
    async with Installation(tmp_path / "home", slow_model(tmp_path_factory), timeouts=timeouts) as lab:
        await lab.up()
        frozen, received = lab.engine_pid(), b""
        if early:
            os.kill(frozen, signal.SIGSTOP)
        try:
            async with lab.streaming(LONG) as response:
                async for chunk in response.content.iter_any():
                    received += chunk
                    if b"event: token" in received and not early and alive(frozen):
                        os.kill(frozen, signal.SIGSTOP)
            name, last = parse_events(received)[-1]
            if not early:
                assert (name, last["code"]) == ("error", "DECODE_TIMEOUT")
                assert "idle limit" in last["message"]
            else:  # nothing was promised yet: its successor answers, and the client need not know
                assert name == "end"
                assert received.count(b"event: started") == 1
                assert b"event: metrics" in received
            async with asyncio.timeout(60):
                again = await lab.run({"prompt": "and then", "max_tokens": 4})
            assert again[-1][0] == "end"
            assert not alive(frozen)
        finally:
            if alive(frozen):
                os.kill(frozen, signal.SIGCONT)


@pytest.mark.req("HP-17")
@pytest.mark.timeout(90)
@pytest.mark.slow
async def test_an_engine_that_looks_well_and_hangs_in_every_stream_is_started_anew(tmp_path: Path) -> None:
    hangs = Knobs(fault=Fault.HANG, fault_after=3, tokens=9)
    async with StandIn() as engine:
        pool = {"provisioning": external(engine.url), "timeouts": {"idle_ms": 200}}
        async with Installation(tmp_path / "home", "m", **pool) as lab:
            await lab.up()
            engine.set(hangs)
            seen = len(lab.manager.lines)
            for _ in range(3):
                assert (await lab.run({"prompt": "a", "max_tokens": 9}))[-1][1]["code"] == "DECODE_TIMEOUT"
            told = await lab.orchestrator.logged("left 3 tasks in a row hanging")
            assert told["pool_id"] == "trial"
            await lab.manager.logged("ready -> draining", since=seen)
            engine.set(Knobs())
            assert (await lab.run({"prompt": "a", "max_tokens": 9}))[-1][0] == "end"

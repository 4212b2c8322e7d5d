"""What the daemon says of the parts that make it fast."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest
from aiohttp import http_parser

from orchestratord.speed import settle, tell_speed
from tests.support.loops import every_loop


async def _tell() -> None:
    tell_speed()


@pytest.mark.parametrize("name", every_loop())
def test_the_log_says_which_loop_runs(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "orchestratord.speed")
    with asyncio.Runner(loop_factory=every_loop()[name]) as runner:
        runner.run(_tell())
    assert [record.getMessage() for record in caplog.records] == [f"event loop: {name}"]


async def test_an_aiohttp_without_its_c_parts_is_a_warning_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    tell_speed()
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "without its parts in C" in record.getMessage()
    assert "pip install --force-reinstall --only-binary aiohttp aiohttp" in record.getMessage()


def test_what_is_there_after_the_start_is_not_looked_at_again() -> None:
    try:
        settle()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()

"""What the daemon says of the parts that make it fast."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import platform
from pathlib import Path

import pytest
from aiohttp import http_parser

from orchestratord.speed import REST_S, give_back, give_back_at_rest, settle, tell_speed
from tests.support.loops import every_loop
from tests.support.virtual_loop import pass_time


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


async def test_memory_goes_back_once_for_all_the_work_that_is_done() -> None:
    given: list[int | None] = []
    seen: list[int | None] = [0]
    async with asyncio.TaskGroup() as group:
        resting = group.create_task(give_back_at_rest(lambda: seen[-1], lambda: given.append(seen[-1])))
        for rested, expected in ((0, []), (None, []), (3, [3]), (3, [3]), (None, [3]), (5, [3, 5])):
            seen.append(rested)
            await pass_time(REST_S + 0.1)
            assert given == expected
        resting.cancel()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps its heap as it likes")
def test_what_lies_free_between_what_is_kept_goes_back_to_the_machine() -> None:
    pieces = [b"x" * (50_000 + number) for number in range(1_000)]
    kept = pieces[::2]
    del pieces
    before = _resident()
    give_back()
    assert before - _resident() > 15_000_000
    assert len(kept) == 500


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

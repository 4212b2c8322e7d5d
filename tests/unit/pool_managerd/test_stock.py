"""How often the stock of models is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from catalog_core.models import FsModelCatalog
from pool_managerd import stock
from pool_managerd.retired import Retired
from pool_managerd.stock import Stock, StockWatch


class Cache:
    def __init__(self) -> None:
        self.swept: list[float] = []
        self.enough = asyncio.Event()

    def sweep(self) -> tuple[str, ...]:
        self.swept.append(asyncio.get_running_loop().time())
        if len(self.swept) == 3:
            self.enough.set()
        return ()


async def at_once(work: Callable[[], object]) -> object:
    """In place of a thread, which the clock of this loop does not wait for."""
    return work()


@pytest.mark.req("MP-06")
async def test_what_is_left_of_old_downloads_goes_at_the_start_and_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr(stock, "SWEEP_S", 60.0)
    cache = Cache()
    nothing = cast("Any", None)
    here = Stock(
        models=nothing,
        catalog=FsModelCatalog(tmp_path),
        cache=cast("Any", cache),
        verifier=nothing,
        in_use=nothing,
        journal=tmp_path,
        base_dir=nothing,
        now_ms=lambda: 7,
    )
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(StockWatch(here, Retired(), lambda: None).run())
        await cache.enough.wait()
        watching.cancel()
    first, second, third = cache.swept
    assert [round(second - first), round(third - second)] == [60, 60]

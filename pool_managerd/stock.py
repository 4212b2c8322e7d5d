"""The models of this machine as this daemon holds them: the catalog, the cache, and who needs what.

Decides how often it is looked whether somebody else has changed the catalog: the command line writes to it as well,
under the same lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Never

from catalog_core.errors import CatalogError
from catalog_core.models import FsModelCatalog
from model_provisioner.cache import ModelCache
from model_provisioner.verify import ModelVerifier
from pool_managerd.in_use import InUse
from pool_managerd.retired import Retired
from pool_managerd.wiring import ProvisionedModels

_log = logging.getLogger(__name__)

LOOK_S = 2.0
SWEEP_S = 86_400.0
"""What is left of old downloads goes after days, also where this daemon runs for months."""


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What everything about models needs. ``now_ms`` gives Unix milliseconds; ``notices`` is what had to be mended."""

    models: ProvisionedModels
    catalog: FsModelCatalog
    cache: ModelCache
    verifier: ModelVerifier
    in_use: InUse
    journal: Path
    base_dir: PurePosixPath
    now_ms: Callable[[], int]
    notices: tuple[str, ...] = ()


class StockWatch:
    """Keeps what is known of Retired models true, whoever retires one. ``changed`` is called after each change."""

    def __init__(self, stock: Stock, retired: Retired, changed: Callable[[], None]) -> None:
        self._stock = stock
        self._retired = retired
        self._changed = changed
        self._seen: object = None
        self._again = asyncio.Event()

    def look(self) -> None:
        """Look soon: something was changed."""
        self._again.set()

    async def run(self) -> Never:
        """Tidy up now and every day, and look, until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if loop.time() >= due:
                due = loop.time() + SWEEP_S
                await self._sweep()
            self._again.clear()
            await self._look()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._again.wait()
            except TimeoutError:
                continue

    async def _sweep(self) -> None:
        for line in await asyncio.to_thread(self._stock.cache.sweep):
            _log.info("models: %s", line)

    async def _look(self) -> None:
        identity = await asyncio.to_thread(self._stock.catalog.identity)
        if identity == self._seen:
            return
        try:
            entries = await asyncio.to_thread(self._stock.catalog.list)
        except CatalogError as error:
            _log.warning("the catalog cannot be read: %s; %s", error.message, error.hint)
        else:
            if self._retired.seen(entries, self._stock.now_ms()):
                self._changed()
        self._seen = identity
